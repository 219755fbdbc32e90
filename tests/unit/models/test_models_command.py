"""`mien models`, run as a command on folders of this test."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.paths_to_data import shared_dir
from tests.stored_models import model_path

from mien.vision.models.catalog import CATALOG
from mien.vision.models.packs import default_pack

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def mien(tmp_path: Path) -> Run:
    def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        mine = {name: value for name, value in os.environ.items() if not name.startswith("MIEN_")}
        mine |= {"MIEN_MODELS_DIR": str(tmp_path / "models"), "MIEN_DATA_DIR": str(tmp_path / "data")}
        return subprocess.run(
            [sys.executable, "-c", "from mien.runtime.cli import main; main()", "models", *arguments],
            env={**mine, **environment}, capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip

    return run


def answer(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


def test_list_on_an_empty_machine(mien: Run, tmp_path: Path) -> None:
    done = mien("list", "--json")
    assert done.returncode == 0, done.stderr
    value = answer(done)
    assert {row["name"]: row["state"] for row in value["models"]} == dict.fromkeys(CATALOG, "missing")
    packs = {row["name"]: row for row in value["packs"]}
    assert value["pack"] == default_pack().name
    assert packs["sface"]["in_use"]
    # One archive holds both: it is counted once.
    assert packs["sface"]["download_bytes"] == 10_341_701
    table = mien("list")
    assert "NonCommercial" in table.stdout
    assert "10.3 MB" in table.stdout
    assert not (tmp_path / "models").exists()


def test_use_is_remembered(mien: Run, tmp_path: Path) -> None:
    done = mien("use", "fused", "--json")
    assert done.returncode == 0, done.stderr
    assert answer(done)["space"] == "sface70-faceplugin30.r1.arcface112.640"
    assert json.loads((tmp_path / "data" / "config.json").read_text())["pack"] == "fused"
    assert answer(mien("list", "--json"))["pack"] == "fused"
    for wrong in ("liveness", "nobody"):
        refused = mien("use", wrong)
        assert refused.returncode == 3
        assert "Known: sface" in refused.stderr
    assert answer(mien("list", "--json"))["pack"] == "fused"


def test_pull_refuses_and_says_what_to_do(mien: Run) -> None:
    licence = mien("pull", "insightface-s")
    assert licence.returncode == 4
    assert "--accept-licence LicenseRef-InsightFace-NonCommercial" in licence.stderr
    offline = mien("pull", "sface", "--offline")
    assert offline.returncode == 4
    assert "offline, and not in the cache" in offline.stderr
    unknown = mien("pull", "nobody")
    assert unknown.returncode == 3
    assert mien("pull", "--all", "sface").returncode == 2
    # A file that was given is not silently replaced by a download.
    given = mien("pull", "sface", "--from", "x", "--json")
    assert given.returncode == 4
    assert "file x: the file can't be read" in given.stderr
    assert mien("pull", "liveness", "pose", "--from", "x").returncode == 3
    assert mien("verify", "--json").returncode == 1


def test_a_given_file_is_pulled_verified_exported_and_imported(mien: Run, tmp_path: Path) -> None:
    given = shared_dir("models-noncommercial", "scrfd_500m_bnkps.onnx")
    pulled = mien(
        "pull", "scrfd-500m", "--from", str(given), "--json",
        "--accept-licence", "LicenseRef-InsightFace-NonCommercial",
    )  # fmt: skip
    assert pulled.returncode == 0, pulled.stderr
    assert answer(pulled)["pulled"] == ["scrfd-500m"]
    verified = mien("verify", "--json")
    assert verified.returncode == 0
    (row,) = answer(verified)["models"]
    assert row["deviation"] < 1e-4
    bundle = tmp_path / "models.tar"
    assert answer(mien("export", str(bundle), "--json"))["models"] == ["scrfd-500m"]

    elsewhere = {"MIEN_MODELS_DIR": str(tmp_path / "elsewhere")}
    assert mien("import", str(bundle), **elsewhere).returncode == 4
    accepted = {**elsewhere, "MIEN_ACCEPT_LICENCES": "LicenseRef-InsightFace-NonCommercial"}
    assert answer(mien("import", str(bundle), "--json", **accepted))["imported"] == ["scrfd-500m"]

    (stored,) = (tmp_path / "models").rglob("model.onnx")
    data = bytearray(stored.read_bytes())
    data[len(data) // 2] ^= 1
    stored.write_bytes(bytes(data))
    broken = mien("verify")
    assert broken.returncode == 4
    assert "its digest is wrong" in broken.stdout


def test_a_second_pull_of_what_is_ready_needs_nothing(mien: Run) -> None:
    root = model_path("yunet").parents[2]
    done = mien("pull", "yunet", "--offline", "--json", MIEN_MODELS_DIR=str(root))
    assert done.returncode == 0, done.stderr
    assert answer(done)["pulled"] == []


def test_converters_are_not_loaded_to_serve() -> None:
    """`onnx` and `h5py` are an extra: neither the store nor the command may import them."""
    code = (
        "import sys, mien.vision.models.packs, mien.vision.models.bundle, mien.runtime.cli.models\n"
        "sys.exit(bool({'onnx', 'h5py'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0
