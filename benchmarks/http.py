"""What HTTP, the database and the index add to a search: a real server over 10,000 faces.

A server process with its cache off answers `POST …/search` for a one-face photo, over its Unix socket
and over TCP with a key, in galleries that hold 0, 1, 10 and 1,000 faces like the probe. After each answer
the same pipeline runs here on the same photo, so that both see the same machine. Medians of wall time,
and of the CPU time of all of the server's threads; the client is a bare one (http.client, the body made
before the clock starts), so that its own work does not count as the server's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.photos import one_face
from mien.backends.blobs.local import LocalBlobStore
from mien.backends.bus.memory import MemoryEventBus
from mien.backends.pipelines.base import PipelineStats
from mien.backends.queue.inline import InlineJobQueue
from mien.backends.sql.sqlite import SqliteDatabase
from mien.backends.vectors.local import LocalVectorIndex
from mien.features.collections.records import IndexRequest
from mien.features.collections.service import CollectionsService
from mien.features.jobs.service import JobsService
from mien.features.tenants.service import TenantsService
from mien.kit.tenant import TenantId
from mien.runtime.settings import get_settings
from mien.vision.calibration import Calibrations
from mien.vision.models.packs import DEFAULT_PACK, RecognitionPack, pack
from mien.vision.models.store import ModelStore
from mien.vision.runtimes.base import RuntimeChoice, RuntimeName
from mien.vision.suite import open_analyzer
from mien.vision.values import (
    Analysis,
    AnalyzedFace,
    AnalyzeRequest,
    Box,
    Embedding,
    Face,
    Pose,
    Quality,
    Space,
)

FACES = 10_000
MATCHES = (0, 1, 10, 1000)
_WARM = 5
_FACES_PER_PHOTO = 100
_GOOD = Quality(1.0, 100.0, 1.0, 1.0, 1.0, Pose(0.0, 0.0, 0.0), 1.0)


class Strangers:
    """Stands where the pipelines do while a gallery is filled: random templates, a hundred a photo, the
    first `alike` of them of the probe's person (cosine 0.8 with `probe`)."""

    def __init__(self, space: Space, probe: NDArray[np.float32], alike: int) -> None:
        self.space = space
        self._probe = probe
        self._alike = alike
        self._random = np.random.default_rng(7)

    async def analyze(self, tenant: TenantId, data: bytes, request: AnalyzeRequest) -> Analysis:
        vectors = self._random.standard_normal((_FACES_PER_PHOTO, self.space.dim)).astype(np.float32)
        alike = min(self._alike, _FACES_PER_PHOTO)
        self._alike -= alike
        aside = vectors[:alike] - np.outer(vectors[:alike] @ self._probe, self._probe)
        aside *= 0.6 / np.linalg.norm(aside, axis=1, keepdims=True)
        vectors[:alike] = 0.8 * self._probe + aside
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        points = np.zeros((5, 2), np.float32)
        faces = tuple(
            AnalyzedFace(Face(Box(10.0, 10.0, 100.0, 100.0), points, 0.9), _GOOD, Embedding(v, self.space))
            for v in vectors
        )
        return Analysis(640, 640, faces)

    def stats(self) -> PipelineStats:
        return PipelineStats(1, 0, 0, 0, 0)

    async def close(self) -> None:
        pass


async def _fill(folder: Path, space: Space, probe: NDArray[np.float32]) -> str:
    """A data folder with a collection `crowd-N` for each N of MATCHES; its administrator's key."""
    database = SqliteDatabase(folder / "mien.db")
    await database.migrate()
    tenant, key = await TenantsService(database).bootstrap()
    assert key is not None
    vectors = LocalVectorIndex(folder / "vectors")
    for alike in MATCHES:
        collections = CollectionsService(
            database,
            vectors,
            Strangers(space, probe, alike),
            JobsService(database, InlineJobQueue()),
            LocalBlobStore(folder / "blobs"),
            MemoryEventBus(),
            Calibrations(folder / "calibration"),
        )
        await collections.start()
        await collections.catalog.create(tenant, f"crowd-{alike}")
        for number in range(FACES // _FACES_PER_PHOTO):
            request = IndexRequest(external_image_id=f"photo-{number}", facts={"name": f"Person {number}"})
            await collections.faces.index(tenant, f"crowd-{alike}", str(number).encode(), request)
        await collections.close()
    await vectors.close()
    await database.close()
    return key


class _Local(HTTPConnection):
    """HTTP over the server's Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("mien", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        self.sock.connect(str(self._path))


def _form(data: bytes, **fields: str) -> tuple[bytes, dict[str, str]]:
    """A multipart body and its headers."""
    texts = "".join(
        f'--edge\r\ncontent-disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    )
    file = '--edge\r\ncontent-disposition: form-data; name="file"; filename="p.jpg"\r\n\r\n'
    body = (texts + file).encode() + data + b"\r\n--edge--\r\n"
    return body, {"content-type": "multipart/form-data; boundary=edge"}


def _post(client: HTTPConnection, path: str, body: bytes, headers: dict[str, str]) -> bytes:
    client.request("POST", path, body, headers)
    answer = client.getresponse()
    raw = answer.read()
    if answer.status != 200:
        raise RuntimeError(f"{path} answered {answer.status}: {raw[:500]!r}")
    return raw


def _cpu_ms(pid: int) -> float:
    """CPU time of all threads of a process so far."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it ended meanwhile
            total += int((thread / "schedstat").read_text().split()[0])
    return total / 1e6


def _port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


@dataclass(slots=True)
class _Times:
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)


def _measure(
    folder: Path, key: str, runtime: RuntimeName, data: bytes, rounds: int, everything: bool
) -> dict[str, Any]:
    settings = get_settings()
    found = _pack()
    port = _port()
    environment = os.environ | {
        "MIEN_DATA_DIR": str(folder),
        "MIEN_MODELS_DIR": str(settings.models_dir),
        "MIEN_RUNTIME": runtime,
        "MIEN_PIPELINES__CACHE_ENTRIES": "0",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "mien", "serve", "--port", str(port)],
        env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        clients: dict[str, HTTPConnection] = {
            "socket": _Local(folder / "mien.sock"), "tcp": HTTPConnection("127.0.0.1", port, timeout=60)
        }  # fmt: skip
        _until_ready(folder / "mien.sock")
        analyzer = open_analyzer(ModelStore(settings.models_dir), found, choice=RuntimeChoice(name=runtime))
        request = AnalyzeRequest()
        own = _Times()
        times = {(way, matches): _Times() for matches in MATCHES for way in clients}
        for number in range(rounds + _WARM):
            for (way, matches), taken in times.items():
                body, headers = _form(data, max_matches="1000" if matches > 10 else "10")
                headers["x-api-key"] = key
                cpu, start = _cpu_ms(process.pid), time.perf_counter()
                raw = _post(clients[way], f"/v1/collections/crowd-{matches}/search", body, headers)
                wall = (time.perf_counter() - start) * 1e3
                cpu = _cpu_ms(process.pid) - cpu
                assert len(json.loads(raw)["faces"][0]["matches"]) == matches
                own_cpu, start = time.process_time(), time.perf_counter()
                analyzer.analyze(data, request)
                own_wall = (time.perf_counter() - start) * 1e3
                if number >= _WARM:
                    taken.wall.append(wall)
                    taken.cpu.append(cpu)
                    own.wall.append(own_wall)
                    own.cpu.append((time.process_time() - own_cpu) * 1e3)
        wall_ms, cpu_ms = median(own.wall), median(own.cpu)
        figures: dict[str, Any] = {"pipeline_ms": round(wall_ms, 2), "pipeline_cpu_ms": round(cpu_ms, 2)}
        figures["searches"] = [
            {
                "over": way,
                "matches": matches,
                "ms": round(median(taken.wall), 2),
                "ratio": round(median(taken.wall) / wall_ms, 3),
                "cpu_ms": round(median(taken.cpu), 2),
                "cpu_ratio": round(median(taken.cpu) / cpu_ms, 3),
            }
            for (way, matches), taken in times.items()
        ]
        figures["rss_mb_recognition"] = round(_rss_mb(process.pid))
        if everything:
            body, headers = _form(data, attributes="quality,pose,liveness,eyes,emotion,objects")
            _post(clients["socket"], "/v1/detect", body, headers)
            figures["rss_mb_all_models"] = round(_rss_mb(process.pid))
        return figures
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def _pack() -> RecognitionPack:
    found = pack(DEFAULT_PACK)
    assert isinstance(found, RecognitionPack)
    return found


def run(rounds: int = 40) -> dict[str, Any]:
    """The figures named in the module's docstring for each runtime, and the server's memory."""
    settings = get_settings()
    data = one_face().path.read_bytes()
    runtimes: list[RuntimeName] = ["onnxruntime"]
    if find_spec("openvino") is not None:
        runtimes.append("openvino")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        probe = open_analyzer(ModelStore(settings.models_dir), _pack()).analyze(data, AnalyzeRequest())
        embedding = probe.faces[0].embedding
        assert embedding is not None
        key = asyncio.run(_fill(folder, _pack().space, embedding.vector))
        measured = {
            runtime: _measure(folder, key, runtime, data, rounds, everything=runtime == "onnxruntime")
            for runtime in runtimes
        }
    first = measured["onnxruntime"]
    memory = {name: first.pop(name) for name in ("rss_mb_recognition", "rss_mb_all_models")}
    return {"faces": FACES, "runtimes": measured, **memory}


def _until_ready(path: Path, within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while True:
        client = _Local(path)
        try:
            client.request("GET", "/readyz")
            if client.getresponse().status == 200:
                return
        except (OSError, HTTPException):
            pass
        finally:
            client.close()
        if time.monotonic() > end:
            raise TimeoutError("the server did not become ready")
        time.sleep(0.1)


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]) if len(sys.argv) > 1 else 40), indent=1))
