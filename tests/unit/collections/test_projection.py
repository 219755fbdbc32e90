"""The index as a projection: caught up, rebuilt, pruned, and never trusted over the database."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.unit.collections.conftest import SFACE, World, close_world, open_world, random_vectors

from mien.backends.vectors.base import Change, CollectionRef
from mien.backends.vectors.local import LocalVectorIndex
from mien.features.collections.limits import CollectionLimits
from mien.features.collections.records import SearchRequest
from mien.kit.errors import Unavailable
from mien.kit.tenant import TenantId


class Counting(LocalVectorIndex):
    """The local index, with a record of what it was given and a gate before it takes anything."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.batches: list[list[int]] = []
        self.rebuilds: list[tuple[int, int]] = []
        self.gate = asyncio.Event()
        self.gate.set()

    async def apply(self, tenant: TenantId, collection: CollectionRef, changes: Sequence[Change]) -> int:
        await self.gate.wait()
        self.batches.append([change.number for change in changes])
        return await super().apply(tenant, collection, changes)

    async def replace(
        self, tenant: TenantId, collection: CollectionRef, changes: Sequence[Change], applied: int
    ) -> None:
        self.rebuilds.append((len(changes), applied))
        await super().replace(tenant, collection, changes, applied)


LIMITS = CollectionLimits(change_batch=10, rebuild_page=30, rebuild_over=50, changes_kept=20, catch_up_s=5.0)


async def found(world: World, vector: np.ndarray[tuple[int], np.dtype[np.float32]]) -> str | None:
    answer = await world.service.search.by_embedding(
        world.tenant, "a", vector.tolist(), SFACE.key, SearchRequest(max_matches=1)
    )
    matches = answer.results[0].matches
    return matches[0].external_image_id if matches else None


async def test_changes_are_applied_once_in_order_and_in_bounded_batches(tmp_path: Path) -> None:
    index = Counting(tmp_path / "vectors")
    world = await open_world(tmp_path, limits=LIMITS, vectors=index)
    await world.service.catalog.create(world.tenant, "a")
    vectors = random_vectors(25)
    await world.fill("a", vectors, tell=False)
    assert await found(world, vectors[24]) == "photo-24"
    assert [len(batch) for batch in index.batches] == [10, 10, 5]
    assert [number for batch in index.batches for number in batch] == list(range(1, 26))
    assert await found(world, vectors[3]) == "photo-3"
    assert len(index.batches) == 3  # nothing new, nothing applied
    await close_world(world)


async def test_a_lost_index_is_built_anew(tmp_path: Path) -> None:
    world = await open_world(tmp_path)
    await world.service.catalog.create(world.tenant, "a")
    vectors = random_vectors(80)
    faces = await world.fill("a", vectors)
    await world.service.faces.delete(world.tenant, "a", [faces[7].id])
    assert await found(world, vectors[7]) is None
    await close_world(world)
    shutil.rmtree(tmp_path / "vectors")

    index = Counting(tmp_path / "vectors")
    again = await open_world(tmp_path, limits=LIMITS, vectors=index, tenants=[world.tenant, world.other])
    assert await found(again, vectors[7]) is None
    assert await found(again, vectors[79]) == "photo-79"
    assert index.rebuilds == [(79, 81)]
    assert index.batches == []
    described = await again.service.catalog.describe(again.tenant, "a")
    assert (described.index_live, described.index_applied) == (79, 81)
    await close_world(again)


async def test_an_index_from_the_future_is_built_anew(tmp_path: Path) -> None:
    """A restored backup of the database is older than the index beside it."""
    world = await open_world(tmp_path, limits=LIMITS)
    await world.service.catalog.create(world.tenant, "a")
    vectors = random_vectors(5)
    await world.fill("a", vectors[:3])
    assert await found(world, vectors[0]) == "photo-0"
    collection = await world.service.catalog.get(world.tenant, "a")
    await world.vectors.apply(
        world.tenant, collection.ref, [Change(4, 4, vectors[3]), Change(5, 5, vectors[4])]
    )
    await world.service.projection.notify(world.tenant, collection.id)
    assert await world.service.projection.rebuild(world.tenant, collection.id) == 3
    stats = await world.vectors.stats(world.tenant, collection.ref)
    assert (stats.live, stats.applied) == (3, 3)
    await close_world(world)


@pytest.mark.parametrize("kept", [0, 3])
async def test_numbers_that_a_restored_backup_gives_again_are_not_mixed_up(tmp_path: Path, kept: int) -> None:
    """The index knows faces under labels that the older database gives to others. New faces come before the
    first catch-up, as many as the index is ahead."""
    world = await open_world(tmp_path)
    await world.service.catalog.create(world.tenant, "a")
    vectors = random_vectors(13)
    if kept:
        await world.fill("a", vectors[:kept], external=lambda i: f"kept-{i}")
    backup = tmp_path / "backup.db"
    with sqlite3.connect(tmp_path / "mien.db") as source, sqlite3.connect(backup) as target:
        source.backup(target)
    await world.fill("a", vectors[3:8], external=lambda i: f"lost-{i}")
    assert await found(world, vectors[7]) == "lost-4"
    await close_world(world)
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"mien.db{suffix}").unlink(missing_ok=True)
    backup.replace(tmp_path / "mien.db")

    index = Counting(tmp_path / "vectors")
    again = await open_world(tmp_path, vectors=index, tenants=[world.tenant, world.other])
    await again.fill("a", vectors[8:13], external=lambda i: f"new-{i}", tell=False)
    for i in range(5):
        assert await found(again, vectors[8 + i]) == f"new-{i}"
        assert await found(again, vectors[3 + i]) is None
    await close_world(again)


async def test_old_changes_are_pruned_and_an_index_behind_them_is_built_anew(tmp_path: Path) -> None:
    world = await open_world(tmp_path, limits=LIMITS)
    await world.service.catalog.create(world.tenant, "a")
    vectors = random_vectors(60)
    for start in range(0, 60, 10):
        await world.fill("a", vectors[start : start + 10], external=lambda i, s=start: f"{s + i}")  # type: ignore[misc]
        assert await found(world, vectors[start]) == f"{start}"
    collection = await world.service.catalog.get(world.tenant, "a")
    assert collection.change_head == 60
    assert 60 - 2 * LIMITS.changes_kept <= collection.change_tail <= 60 - LIMITS.changes_kept
    await close_world(world)
    shutil.rmtree(tmp_path / "vectors")

    limits = replace(LIMITS, rebuild_over=1_000)
    index = Counting(tmp_path / "vectors")
    again = await open_world(tmp_path, limits=limits, vectors=index, tenants=[world.tenant, world.other])
    assert await found(again, vectors[5]) == "5"
    assert index.rebuilds == [(60, 60)]
    await close_world(again)


async def test_a_search_waits_a_bounded_time_and_the_work_goes_on(tmp_path: Path) -> None:
    index = Counting(tmp_path / "vectors")
    world = await open_world(tmp_path, limits=replace(LIMITS, catch_up_s=0.05), vectors=index)
    await world.service.catalog.create(world.tenant, "a")
    vectors = random_vectors(5)
    index.gate.clear()
    await world.fill("a", vectors)
    with pytest.raises(Unavailable, match="newest faces"):
        await found(world, vectors[0])
    index.gate.set()
    collection = await world.service.catalog.get(world.tenant, "a")
    world.service.projection._limits = LIMITS
    await world.service.projection.ensure(world.tenant, collection.ref, 5)
    assert await found(world, vectors[0]) == "photo-0"
    await close_world(world)


async def test_start_catches_up(tmp_path: Path) -> None:
    world = await open_world(tmp_path)
    await world.service.catalog.create(world.tenant, "a")
    await world.fill("a", random_vectors(5), tell=False)  # as if killed between commit and notice
    await close_world(world)
    again = await open_world(tmp_path, tenants=[world.tenant, world.other])
    collection = await again.service.catalog.get(again.tenant, "a")
    async with again.service.projection.exclusive(again.tenant, collection.id):
        pass
    await again.service.projection.close()  # waits for what start() began
    assert await again.vectors.applied(again.tenant, collection.ref) == 5
    await close_world(again)


async def test_reading_and_writing_at_once(world: World) -> None:
    """Adds and deletes run while searches do; each search sees what was acknowledged before it."""
    await world.service.catalog.create(world.tenant, "a")
    vectors = random_vectors(120)
    faces: dict[int, object] = {}

    async def write() -> None:
        for i in range(0, 120, 4):
            stored = await world.fill("a", vectors[i : i + 4], external=lambda j, i=i: f"photo-{i + j}")  # type: ignore[misc]
            faces.update({i + j: face.id for j, face in enumerate(stored)})
            if i % 8 == 0:
                await world.service.faces.delete(world.tenant, "a", [stored[0].id])
                del faces[i]

    async def read() -> int:
        checked = 0
        while len(faces) < 105:
            known = sorted(faces)[-3:]
            for i in known:
                if i in faces:
                    assert await found(world, vectors[i]) == f"photo-{i}"
                    checked += 1
            await asyncio.sleep(0)
        return checked

    _, *checked = await asyncio.gather(write(), read(), read())
    assert sum(checked) > 10
    for i in range(0, 120, 8):
        assert await found(world, vectors[i]) is None
