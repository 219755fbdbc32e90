"""Collections themselves: names, pages, policies, thresholds, tenants."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.unit.collections.conftest import SFACE, World, close_world, open_world, random_vectors
from tests.unit.collections.test_imports import ended

from mien.features.collections.limits import CollectionLimits
from mien.features.collections.records import IndexRequest, SearchRequest
from mien.kit.errors import BadInput, Conflict, NotFound
from mien.vision.calibration import MatchPolicy


async def test_create_describe_update_delete(world: World) -> None:
    catalog, tenant = world.service.catalog, world.tenant
    made = await catalog.create(tenant, "staff", description="who works here", facts={"site": "Köln ☀"})
    assert made.space.key == "sface.r1.arcface112.128"
    described = await catalog.describe(tenant, "staff")
    assert described.collection.facts == {"site": "Köln ☀"}
    assert described.collection.policy == MatchPolicy(fpir=0.01)
    assert (described.person_count, described.collection.face_count) == (0, 0)
    assert described.threshold.gallery_size == 1

    changed = await catalog.update(tenant, "staff", facts={"n": 1}, policy=MatchPolicy(score=0.5))
    assert changed.description == "who works here"
    assert changed.facts == {"n": 1}
    assert (await catalog.describe(tenant, "staff")).threshold.score == 0.5

    await catalog.delete(tenant, "staff")
    with pytest.raises(NotFound):
        await catalog.describe(tenant, "staff")


async def test_a_name_is_taken_once(world: World) -> None:
    await world.service.catalog.create(world.tenant, "a")
    with pytest.raises(Conflict, match="already a collection"):
        await world.service.catalog.create(world.tenant, "a")
    await world.service.catalog.create(world.tenant, "A")  # another name


@pytest.mark.parametrize("name", ["", "a b", "a/b", "ä", "x" * 256, "..", ".", "a\x00", "\udcff"])
async def test_names_that_are_refused(world: World, name: str) -> None:
    with pytest.raises(BadInput):
        await world.service.catalog.create(world.tenant, name)
    assert (await world.service.catalog.page(world.tenant)).items == ()


@pytest.mark.parametrize(
    "facts",
    [
        {"big": "x" * 17_000},
        {"deep": [[[[[[1]]]]]]},
        {"nan": float("nan")},
        {"bytes": b"x"},
        {"nul": "a\x00b"},
        {"surrogate": "\udcff"},
    ],
)
async def test_metadata_that_is_refused(world: World, facts: dict[str, object]) -> None:
    with pytest.raises(BadInput):
        await world.service.catalog.create(world.tenant, "a", facts=facts)
    assert (await world.service.catalog.page(world.tenant)).items == ()


async def test_pages_and_cursors_of_other_queries(world: World) -> None:
    catalog, tenant = world.service.catalog, world.tenant
    for name in ("c", "a", "d", "b"):
        await catalog.create(tenant, name)
    first = await catalog.page(tenant, limit=3)
    assert [c.name for c in first.items] == ["a", "b", "c"]
    second = await catalog.page(tenant, limit=3, cursor=first.next_cursor)
    assert [c.name for c in second.items] == ["d"]
    assert second.next_cursor is None
    with pytest.raises(BadInput, match="another query"):
        await world.service.faces.page(tenant, "a", cursor=first.next_cursor)
    with pytest.raises(BadInput, match="damaged"):
        await catalog.page(tenant, cursor="no such thing")


async def test_tenants_do_not_see_each_other(world: World, six: bytes) -> None:
    service = world.service
    for tenant in (world.tenant, world.other):
        await service.catalog.create(tenant, "faces")  # the same name in both
    done = await service.faces.index(world.tenant, "faces", six, IndexRequest())
    face = done.faces[0].id
    assert (await service.catalog.describe(world.other, "faces")).collection.face_count == 0
    found = await service.search.by_photo(world.other, "faces", six, SearchRequest())
    assert [result.matches for result in found.results] == [()] * 6
    with pytest.raises(NotFound):
        await service.faces.get(world.other, "faces", face)
    with pytest.raises(NotFound):
        await service.search.by_face(world.other, "faces", face, SearchRequest())
    assert await service.faces.delete(world.other, "faces", [face]) == ([], [face])
    assert (await service.faces.get(world.tenant, "faces", face)).id == face
    await service.catalog.delete(world.other, "faces")
    assert (await service.catalog.get(world.tenant, "faces")).face_count == 6


async def test_a_deleted_collection_leaves_nothing_behind(world: World, six: bytes) -> None:
    service, tenant = world.service, world.tenant
    await service.catalog.create(tenant, "a")
    await service.persons.create(tenant, "a", external_id="p")
    await service.faces.index(tenant, "a", six, IndexRequest())
    await service.catalog.delete(tenant, "a")
    await service.catalog.create(tenant, "a")
    described = await service.catalog.describe(tenant, "a")
    assert (described.collection.face_count, described.person_count, described.index_live) == (0, 0, 0)
    found = await service.search.by_photo(tenant, "a", six, SearchRequest())
    assert all(result.matches == () for result in found.results)


class TestThresholds:
    """The threshold moves at powers of two, and each move is recorded with its cause."""

    async def test_moves_with_the_gallery(self, world: World) -> None:
        catalog, tenant = world.service.catalog, world.tenant
        await catalog.create(tenant, "a")
        table = world.service.catalog._thresholds.table("sface.r1.arcface112.128")
        assert table is not None

        async def faces_and_causes() -> list[tuple[int, int, str]]:
            page = await catalog.thresholds(tenant, "a")
            return [(m.face_count, m.gallery_size, m.cause) for m in reversed(page.items)]

        async def index(count: int, seed: int) -> None:
            photos = world.service.faces
            collection = await catalog.get(tenant, "a")
            from mien.features.collections.records import NewFace
            from mien.kit.ids import new_id
            from mien.vision.values import Box

            faces = [
                NewFace(new_id(), Box(0, 0, 9, 9), [[0.0, 0.0]] * 5, 0.9, None, None, None, v.tobytes(), "t")
                for v in random_vectors(count, seed=seed)
            ]
            await photos._store(tenant, collection, faces, IndexRequest(), {}, "0" * 64, (9, 9))

        assert await faces_and_causes() == [(0, 1, "created")]
        await index(3, seed=1)
        await index(1, seed=2)  # 4 faces: still at 4
        await index(1, seed=3)
        assert await faces_and_causes() == [
            (0, 1, "created"),
            (3, 4, "faces_added"),
            (5, 8, "faces_added"),
        ]
        described = await catalog.describe(tenant, "a")
        newest = (await catalog.thresholds(tenant, "a")).items[0]
        assert newest.score == described.threshold.score == table.threshold(MatchPolicy(fpir=0.01), 5).score

        face = (await world.service.faces.page(tenant, "a")).items[0]
        await world.service.faces.delete(tenant, "a", [face.id])
        await catalog.update(tenant, "a", policy=MatchPolicy(fmr=1e-4))
        await catalog.update(tenant, "a", description="no move")
        await index(30, seed=4)  # a fixed FMR does not move with the gallery, but its FPIR does
        moves = await faces_and_causes()
        assert moves[3:5] == [(4, 4, "faces_removed"), (4, 4, "policy_changed")]

    async def test_a_fixed_score_does_not_move(self, world: World, six: bytes) -> None:
        catalog, tenant = world.service.catalog, world.tenant
        await catalog.create(tenant, "a", policy=MatchPolicy(score=0.4))
        await world.service.faces.index(tenant, "a", six, IndexRequest())
        page = await catalog.thresholds(tenant, "a")
        assert [m.cause for m in page.items] == ["created"]

    async def test_pages(self, world: World) -> None:
        catalog, tenant = world.service.catalog, world.tenant
        await catalog.create(tenant, "a")
        for score in (0.1, 0.2, 0.3):
            await catalog.update(tenant, "a", policy=MatchPolicy(score=score))
        first = await catalog.thresholds(tenant, "a", limit=2)
        rest = await catalog.thresholds(tenant, "a", limit=2, cursor=first.next_cursor)
        scores = [m.score for m in (*first.items, *rest.items)]
        assert scores[:3] == [0.3, 0.2, 0.1]
        assert len(scores) == 4


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[World]:
    made = await open_world(tmp_path, limits=CollectionLimits(collections=1, faces_per_collection=7))
    yield made
    await close_world(made)


async def test_bounds_of_collections_and_faces(small: World, six: bytes, astronaut: bytes) -> None:
    service, tenant = small.service, small.tenant
    await service.catalog.create(tenant, "a")
    with pytest.raises(Conflict, match="at most 1"):
        await service.catalog.create(tenant, "b")
    await service.faces.index(tenant, "a", six, IndexRequest())
    with pytest.raises(Conflict, match="more than 7"):
        await service.faces.index(tenant, "a", six, IndexRequest())
    await service.faces.index(tenant, "a", astronaut, IndexRequest())
    assert (await service.catalog.get(tenant, "a")).face_count == 7


async def test_a_deleted_collections_index_goes_even_after_a_crash(tmp_path: Path) -> None:
    def files() -> list[Path]:
        return [path for path in (tmp_path / "vectors").rglob("*") if path.is_file()]

    world = await open_world(tmp_path)
    service, tenant = world.service, world.tenant
    await service.catalog.create(tenant, "a")
    vectors = random_vectors(50)
    await world.fill("a", vectors)
    await service.search.by_embedding(tenant, "a", vectors[0].tolist(), SFACE.key, SearchRequest())
    await world.vectors.flush()
    assert files()
    await world.jobs.stop()  # nothing drains any more, as if the process died behind the commit
    await service.catalog.delete(tenant, "a")
    await close_world(world)
    assert files()

    again = await open_world(tmp_path, tenants=[world.tenant, world.other])
    (job,) = (await again.jobs.list(tenant, kind="collections.drop_index")).items
    assert (await ended(again, job)).state == "succeeded"
    assert not files()
    await close_world(again)
