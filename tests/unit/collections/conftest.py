"""The Collections job on real parts: SQLite, the local index, real models, on test photos."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from uuid import UUID

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray
from tests.photos import photo
from tests.stored_models import model_path

from mien.backends.blobs.local import LocalBlobStore
from mien.backends.bus.memory import MemoryEventBus
from mien.backends.pipelines.threads import ThreadPipelines
from mien.backends.queue.inline import InlineJobQueue
from mien.backends.sql.sqlite import SqliteDatabase
from mien.backends.vectors.base import VectorIndex
from mien.backends.vectors.local import LocalVectorIndex
from mien.features.collections.limits import CollectionLimits
from mien.features.collections.records import Face, NewFace
from mien.features.collections.repository import CollectionRepository
from mien.features.collections.repository_faces import FaceRepository
from mien.features.collections.service import CollectionsService
from mien.features.jobs.service import JobsService
from mien.features.tenants.service import TenantsService
from mien.features.tenants.tables import TenantRow
from mien.kit.clock import utc_now
from mien.kit.ids import new_id
from mien.kit.tenant import TenantId
from mien.vision.analyzer import Analyzer
from mien.vision.calibration import Calibrations
from mien.vision.models.packs import recognition_pack
from mien.vision.models.store import ModelStore
from mien.vision.suite import open_analyzer
from mien.vision.values import Box, Space

SFACE = Space("sface", 1, "arcface112", 128)
Vectors = NDArray[np.float32]


@lru_cache(maxsize=1)
def analyzer() -> Analyzer:
    """YuNet and SFace with all attributes, loaded once for all tests."""
    model_path("yunet")
    root = model_path("sface").parents[2]
    return open_analyzer(ModelStore(root, offline=True), recognition_pack("sface"))


@lru_cache(maxsize=8)
def photo_bytes(name: str) -> bytes:
    return photo(name).read_bytes()


def jpeg(pixels: NDArray[np.uint8] | PIL.Image.Image, quality: int = 90) -> bytes:
    made = pixels if isinstance(pixels, PIL.Image.Image) else PIL.Image.fromarray(pixels)
    out = io.BytesIO()
    made.convert("RGB").save(out, "JPEG", quality=quality)
    return out.getvalue()


def random_vectors(count: int, dim: int = SFACE.dim, seed: int = 5) -> Vectors:
    """(count, dim) unit vectors in random directions."""
    made = np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32)
    unit: Vectors = made / np.linalg.norm(made, axis=1, keepdims=True)
    return unit


@dataclass
class World:
    """One installation in a temporary folder; `again` is a second start on the same files."""

    root: Path
    tenant: TenantId
    other: TenantId
    database: SqliteDatabase
    vectors: VectorIndex
    pipelines: ThreadPipelines
    jobs: JobsService
    bus: MemoryEventBus
    blobs: LocalBlobStore
    service: CollectionsService

    async def fill(
        self,
        name: str,
        vectors: Vectors,
        *,
        external: Callable[[int], str | None] = lambda i: f"photo-{i}",
        person: UUID | None = None,
        facts: Callable[[int], dict[str, object]] = lambda i: {},
        tell: bool = True,
    ) -> list[Face]:
        """Store faces with these embeddings, as `Faces.index` stores those of a photo."""
        stored: list[Face] = []
        async with self.database.write(self.tenant) as unit:
            repository = CollectionRepository(unit.session, self.tenant)
            collection = await repository.get(name)
            after = await repository.advance(collection.id, len(vectors), len(vectors), utc_now())
            assert after is not None
            first = collection.change_head + 1
            for i, vector in enumerate(vectors):
                new = NewFace(
                    id=new_id(),
                    box=Box(1, 2, 30, 40),
                    landmarks=[[0.0, 0.0]] * 5,
                    confidence=0.9,
                    quality_score=None,
                    quality=None,
                    attributes=None,
                    embedding=vector.astype("<f4").tobytes(),
                    runtime="test",
                )
                stored += await FaceRepository(unit.session, self.tenant).add(
                    collection.id,
                    [new],
                    first_label=first + i,
                    external_image_id=external(i),
                    person_id=person,
                    facts=facts(i),
                    image_sha256=f"{i:064x}",
                    image_size=(100, 100),
                    space_key=SFACE.key,
                    now=utc_now(),
                )
            await repository.add_changes(
                collection.id, [(first + i, first + i, True) for i in range(len(vectors))]
            )
        if tell:
            await self.service.projection.notify(self.tenant, collection.id)
        return stored


async def open_world(
    root: Path,
    *,
    limits: CollectionLimits | None = None,
    tenants: Sequence[TenantId] = (),
    vectors: VectorIndex | None = None,
) -> World:
    """Start on the files in `root` (anew where there are none)."""
    database = SqliteDatabase(root / "mien.db")
    await database.migrate()
    vectors = vectors or LocalVectorIndex(root / "vectors")
    pipelines = ThreadPipelines(analyzer, SFACE, threads=2, waiting=16, wait_s=30, run_s=60)
    blobs = LocalBlobStore(root / "blobs")
    bus = MemoryEventBus()
    queue = InlineJobQueue()
    jobs = JobsService(database, queue, bus)
    if not tenants:
        tenants = await make_tenants(database)
    service = CollectionsService(
        database, vectors, pipelines, jobs, blobs, bus, Calibrations(), limits=limits
    )
    await jobs.start(alone=True)
    await service.start()
    return World(root, tenants[0], tenants[1], database, vectors, pipelines, jobs, bus, blobs, service)


async def close_world(world: World) -> None:
    await world.jobs.stop()
    await world.service.close()
    await world.pipelines.close()
    await world.vectors.close()
    await world.database.close()


async def make_tenants(database: SqliteDatabase) -> list[TenantId]:
    """The default tenant and another."""
    first, _ = await TenantsService(database).bootstrap()
    second = new_id()
    async with database.across_tenants("bootstrap", write=True) as unit:
        unit.session.add(TenantRow(id=second, slug="other", name="Other", created_at=utc_now()))
    return [first, TenantId(second)]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = await open_world(tmp_path)
    yield made
    await close_world(made)


@pytest.fixture
def six() -> bytes:
    return photo_bytes("six_faces")


@pytest.fixture
def astronaut() -> bytes:
    return photo_bytes("astronaut")


@pytest.fixture
def coffee() -> bytes:
    return photo_bytes("coffee")
