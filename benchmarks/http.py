"""What HTTP, the database and the index add to a search: a real server over 10,000 faces.

A server process with its cache off answers `POST …/search` for a one-face photo; between its answers
the same pipeline runs here on the same photo, so that both see the same machine. Wall time, medians.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np

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
_FACES_PER_PHOTO = 100
_GOOD = Quality(1.0, 100.0, 1.0, 1.0, 1.0, Pose(0.0, 0.0, 0.0), 1.0)


class Strangers:
    """Stands where the pipelines do while the gallery is filled: random templates, a hundred a photo."""

    def __init__(self, space: Space) -> None:
        self.space = space
        self._random = np.random.default_rng(7)

    async def analyze(self, tenant: TenantId, data: bytes, request: AnalyzeRequest) -> Analysis:
        vectors = self._random.standard_normal((_FACES_PER_PHOTO, self.space.dim)).astype(np.float32)
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


async def _fill(folder: Path, space: Space) -> None:
    database = SqliteDatabase(folder / "mien.db")
    await database.migrate()
    tenant, _ = await TenantsService(database).bootstrap()
    vectors = LocalVectorIndex(folder / "vectors")
    collections = CollectionsService(
        database,
        vectors,
        Strangers(space),
        JobsService(database, InlineJobQueue()),
        LocalBlobStore(folder / "blobs"),
        MemoryEventBus(),
        Calibrations(folder / "calibration"),
    )
    await collections.start()
    await collections.catalog.create(tenant, "crowd")
    for number in range(FACES // _FACES_PER_PHOTO):
        request = IndexRequest(external_image_id=f"photo-{number}")
        await collections.faces.index(tenant, "crowd", str(number).encode(), request)
    await collections.close()
    await vectors.close()
    await database.close()


def _port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def _rss_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1024


def run(rounds: int = 40) -> dict[str, Any]:
    """The figures named in the module's docstring, and the server's memory."""
    settings = get_settings()
    found = pack(DEFAULT_PACK)
    assert isinstance(found, RecognitionPack)
    photo = one_face()
    data = photo.path.read_bytes()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asyncio.run(_fill(folder, found.space))
        port = _port()
        environment = os.environ | {
            "MIEN_DATA_DIR": str(folder),
            "MIEN_MODELS_DIR": str(settings.models_dir),
            "MIEN_PIPELINES__CACHE_ENTRIES": "0",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "mien", "serve", "--port", str(port)],
            env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            transport = httpx.HTTPTransport(uds=str(folder / "mien.sock"))
            with httpx.Client(base_url="http://mien", transport=transport, timeout=60) as client:
                _until_ready(client)
                analyzer = open_analyzer(ModelStore(settings.models_dir), found)
                search, own = [], []
                for _ in range(rounds):
                    start = time.perf_counter()
                    answer = client.post("/v1/collections/crowd/search", files={"file": data})
                    search.append((time.perf_counter() - start) * 1e3)
                    answer.raise_for_status()
                    start = time.perf_counter()
                    analyzer.analyze(data, AnalyzeRequest())
                    own.append((time.perf_counter() - start) * 1e3)
                core = _rss_mb(process.pid)
                everything = {"attributes": "quality,pose,liveness,eyes,emotion,objects"}
                client.post("/v1/detect", files={"file": data}, data=everything).raise_for_status()
                return {
                    "faces": FACES,
                    "search_ms": round(median(search[5:]), 2),
                    "pipeline_ms": round(median(own[5:]), 2),
                    "ratio": round(median(search[5:]) / median(own[5:]), 3),
                    "rss_mb_recognition": round(core),
                    "rss_mb_all_models": round(_rss_mb(process.pid)),
                }
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)


def _until_ready(client: httpx.Client, within_s: float = 60.0) -> None:
    end = time.monotonic() + within_s
    while True:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        if time.monotonic() > end:
            raise TimeoutError("the server did not become ready")
        time.sleep(0.1)


if __name__ == "__main__":
    print(run())
