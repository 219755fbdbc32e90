"""What every vector index does, whatever it is made of. A new adapter adds a parameter to `maker`."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest

from mien.backends.vectors.base import Change, CollectionRef, VectorIndex
from mien.backends.vectors.local import LocalVectorIndex, LocalVectorLimits
from mien.backends.vectors.local_index import IndexLimits
from mien.kit.errors import BadInput, SpaceMismatch
from mien.kit.ids import new_id
from mien.kit.tenant import TenantId
from tests.contracts.faces import Floats, adds, at_cosine, deletes, gallery, unit

DIM = 32
SPACE = f"sface.r1.arcface112.{DIM}"
Maker = Callable[[], Awaitable[VectorIndex]]
"""Makes an index over the same store each time, as a restart does."""


def ref(dim: int = DIM, space: str = SPACE) -> CollectionRef:
    return CollectionRef(new_id(), space, dim)


def tenant() -> TenantId:
    return TenantId(new_id())


def random_faces(count: int, dim: int = DIM, seed: int = 0) -> Floats:
    return unit(np.random.default_rng(seed).standard_normal((count, dim), dtype=np.float32))


@pytest.fixture(params=["local-flat", "local-codes"])
async def maker(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Maker]:
    made: list[VectorIndex] = []
    # The second makes 4-bit codes of every index at once, so that the whole contract holds for them.
    sizes = IndexLimits() if request.param == "local-flat" else IndexLimits(flat_rows=40, compact_least=30)

    async def make() -> VectorIndex:
        index = LocalVectorIndex(tmp_path / "vectors", LocalVectorLimits(housekeeping_s=0.01, index=sizes))
        made.append(index)
        return index

    yield make
    for index in made:
        await index.close()


@pytest.fixture
async def index(maker: Maker) -> VectorIndex:
    return await maker()


async def labels(
    index: VectorIndex, who: TenantId, where: CollectionRef, queries: Floats, k: int
) -> list[list[int]]:
    return [[hit.label for hit in hits] for hits in await index.search(who, where, queries, k)]


async def test_a_new_index_is_empty(index: VectorIndex) -> None:
    who, where = tenant(), ref()
    assert await index.applied(who, where) == 0
    assert await index.search(who, where, random_faces(2), 5) == [[], []]
    assert (await index.stats(who, where)).live == 0


async def test_hits_are_numpys_best_in_order(index: VectorIndex) -> None:
    who, where = tenant(), ref()
    faces, probes = random_faces(200), random_faces(20, seed=1)
    assert await index.apply(who, where, adds(faces)) == 200
    exact = probes @ faces.T
    for row, hits in zip(exact, await index.search(who, where, probes, 10), strict=True):
        best = np.argsort(-row)[:10]
        assert [hit.label for hit in hits] == (best + 1).tolist()
        np.testing.assert_allclose([hit.score for hit in hits], row[best], atol=1e-3)  # fp16


async def test_more_hits_than_faces(index: VectorIndex) -> None:
    who, where = tenant(), ref()
    await index.apply(who, where, adds(random_faces(3)))
    assert [len(hits) for hits in await index.search(who, where, random_faces(2, seed=1), 1000)] == [3, 3]


async def test_a_hundred_queries_with_a_thousand_hits(index: VectorIndex) -> None:
    who, where = tenant(), ref()
    faces = random_faces(1500)
    await index.apply(who, where, adds(faces))
    probes = random_faces(100, seed=1)
    exact = probes @ faces.T
    found = await index.search(who, where, probes, 1000)
    for row, hits in zip(exact, found, strict=True):
        assert len({hit.label for hit in hits}) == 1000
        kept = np.sort(row)[::-1][:1000]
        np.testing.assert_allclose([hit.score for hit in hits], kept, atol=1e-2)


async def test_applying_twice_changes_nothing(index: VectorIndex) -> None:
    who, where = tenant(), ref()
    changes = [*adds(random_faces(50)), *deletes([7], 51)]
    assert await index.apply(who, where, changes) == 51
    before = await index.stats(who, where)
    assert await index.apply(who, where, changes) == 51
    assert await index.apply(who, where, changes[10:20]) == 51
    after = await index.stats(who, where)
    assert (after.live, after.applied) == (before.live, before.applied) == (49, 51)


async def test_a_batch_that_overlaps_applies_its_new_part(index: VectorIndex) -> None:
    who, where = tenant(), ref()
    faces = random_faces(60)
    await index.apply(who, where, adds(faces[:40]))
    assert await index.apply(who, where, adds(faces[30:], 31)) == 60
    assert await labels(index, who, where, faces, 1) == [[label] for label in range(1, 61)]


async def test_a_deleted_face_is_found_no_more(index: VectorIndex) -> None:
    who, where = tenant(), ref()
    faces = random_faces(100)
    await index.apply(who, where, adds(faces))
    assert await index.apply(who, where, deletes([1, 50, 50, 999], 101)) == 104
    found = await labels(index, who, where, faces[[0, 49, 98]], 100)
    assert all(1 not in row and 50 not in row and len(row) == 98 for row in found)
    assert found[2][0] == 99
    assert (await index.stats(who, where)).live == 98


async def test_everything_deleted(index: VectorIndex) -> None:
    who, where = tenant(), ref()
    faces = random_faces(60)
    await index.apply(who, where, [*adds(faces), *deletes(range(1, 61), 61)])
    assert await index.search(who, where, faces[:1], 5) == [[]]
    await index.apply(who, where, adds(faces[:1], 121))
    assert await labels(index, who, where, faces[:1], 5) == [[121]]


@pytest.mark.parametrize("allowed", [0, 1, 17, 2_500, 3_900])
async def test_a_filter_gives_the_best_of_the_allowed(index: VectorIndex, allowed: int) -> None:
    who, where = tenant(), ref()
    faces, probes = random_faces(4_000), random_faces(10, seed=1)
    await index.apply(who, where, adds(faces))
    await index.apply(who, where, deletes([5, 6, 7], 4_001))
    chosen = np.random.default_rng(2).permutation(4_000)[:allowed].astype(np.int64) + 1  # not in order
    alive = np.setdiff1d(chosen, [5, 6, 7])
    found = await index.search(who, where, probes, 5, allow=np.append(chosen, [1, 9_999] if allowed else []))
    if allowed:
        alive = np.union1d(alive, [1])
    exact = probes @ faces.T
    for row, hits in zip(exact, found, strict=True):
        best = alive[np.argsort(-row[alive - 1])][:5]
        np.testing.assert_allclose([hit.score for hit in hits], row[best - 1], atol=2e-3)
        assert {hit.label for hit in hits} <= set(alive.tolist())
        assert [hit.label for hit in hits][:1] == best[:1].tolist()


async def test_a_least_score(index: VectorIndex) -> None:
    who, where = tenant(), ref()
    faces = random_faces(100)
    await index.apply(who, where, adds(faces))
    exact = np.sort(faces[0] @ faces.T)[::-1]
    [hits] = await index.search(who, where, faces[:1], 50, min_score=float(exact[5] + exact[6]) / 2)
    assert len(hits) == 6
    assert await index.search(who, where, -faces[:1], 50, min_score=0.999) == [[]]


async def test_equal_faces_come_in_the_order_of_enrolment(index: VectorIndex) -> None:
    who, where = tenant(), ref()
    await index.apply(who, where, adds(np.repeat(random_faces(1), 5, axis=0)))
    assert await labels(index, who, where, random_faces(1), 5) == [[1, 2, 3, 4, 5]]


async def test_tenants_and_collections_are_apart(index: VectorIndex) -> None:
    first, second, where, other = tenant(), tenant(), ref(), ref()
    faces = random_faces(3)
    await index.apply(first, where, adds(faces[:1]))
    await index.apply(second, where, [Change(9, 9, faces[1])])
    await index.apply(first, other, [Change(5, 5, faces[2])])
    everyone = faces
    assert await labels(index, first, where, everyone, 10) == [[1]] * 3
    assert await labels(index, second, where, everyone, 10) == [[9]] * 3
    assert await labels(index, first, other, everyone, 10) == [[5]] * 3
    assert await labels(index, second, other, everyone, 10) == [[]] * 3
    await index.drop(second, where.id)
    assert await labels(index, first, where, everyone, 10) == [[1]] * 3
    assert await index.applied(second, where) == 0


async def test_another_space_is_refused(maker: Maker) -> None:
    index, who, where = await maker(), tenant(), ref()
    await index.apply(who, where, adds(random_faces(2)))
    others = [CollectionRef(where.id, "arcface.r1.x.32", DIM), CollectionRef(where.id, SPACE, 64)]
    for _ in range(2):
        for other in others:
            probes = random_faces(1, other.dim)
            with pytest.raises(SpaceMismatch):
                await index.search(who, other, probes, 1)
            with pytest.raises(SpaceMismatch):
                await index.apply(who, other, [Change(3, 3, probes[0])])
            with pytest.raises(SpaceMismatch):
                await index.applied(who, other)
            with pytest.raises(SpaceMismatch):
                await index.replace(who, other, [Change(3, 3, probes[0])], 3)
        await index.close()
        index = await maker()  # and after a restart
    assert await index.applied(who, where) == 2
    await index.drop(who, where.id)
    assert await index.apply(who, others[1], adds(random_faces(1, 64))) == 1


@pytest.mark.parametrize(
    "vector",
    [
        np.full(DIM, np.nan, np.float32),
        np.full(DIM, np.inf, np.float32),
        np.zeros(DIM, np.float32),
        np.ones(DIM, np.float32),
        random_faces(1, DIM + 1)[0],
        random_faces(1, DIM - 1)[0],
    ],
    ids=["nan", "inf", "zero", "long", "dim+1", "dim-1"],
)
async def test_a_bad_embedding_is_refused_and_nothing_half_done(index: VectorIndex, vector: Floats) -> None:
    who, where = tenant(), ref()
    with pytest.raises(BadInput):
        await index.apply(who, where, [*adds(random_faces(5)), Change(6, 6, vector)])
    assert await index.applied(who, where) == 0
    assert (await index.stats(who, where)).live == 0
    with pytest.raises(BadInput):
        await index.search(who, where, vector[None], 1)
    with pytest.raises(BadInput):
        await index.replace(who, where, [Change(6, 6, vector)], 6)


@pytest.mark.parametrize(("queries", "k"), [(1, 0), (1, -1), (1, 5001), (101, 1)])
async def test_bounds_of_a_search(index: VectorIndex, queries: int, k: int) -> None:
    with pytest.raises(BadInput):
        await index.search(tenant(), ref(), random_faces(queries), k)


async def test_changes_out_of_order_are_refused(index: VectorIndex) -> None:
    who, where, faces = tenant(), ref(), random_faces(3)
    with pytest.raises(BadInput):
        await index.apply(who, where, [Change(2, 2, faces[0]), Change(1, 1, faces[1])])
    await index.apply(who, where, [Change(5, 5, faces[0])])
    with pytest.raises(BadInput):
        await index.apply(who, where, [Change(6, 5, faces[1])])
    assert await index.applied(who, where) == 5


async def test_replace_is_as_if_built_anew(maker: Maker) -> None:
    index, who, where = await maker(), tenant(), ref()
    faces = random_faces(150)
    await index.apply(who, where, adds(faces[:50]))
    await index.replace(who, where, adds(faces[60:], 61)[::-1], 200)
    assert await index.applied(who, where) == 200
    assert (await index.stats(who, where)).live == 90
    assert all(min(row) == 61 for row in await labels(index, who, where, faces[[0, 60]], 200))
    assert [row[0] for row in await labels(index, who, where, faces[[60, 149]], 1)] == [61, 150]
    assert await index.apply(who, where, adds(faces[:1], 201)) == 201
    await index.close()
    index = await maker()
    assert await index.applied(who, where) == 201
    assert (await labels(index, who, where, faces[:1], 1)) == [[201]]
    await index.replace(who, where, [], 300)
    assert await index.search(who, where, faces[:1], 5) == [[]]
    assert await index.applied(who, where) == 300


async def test_drop_forgets(maker: Maker) -> None:
    index, who, where = await maker(), tenant(), ref()
    await index.drop(who, where.id)  # not there: nothing happens
    await index.apply(who, where, adds(random_faces(60)))
    await index.flush()
    await index.drop(who, where.id)
    assert await index.applied(who, where) == 0
    await index.close()
    index = await maker()
    assert await index.applied(who, where) == 0
    assert await index.search(who, where, random_faces(1), 1) == [[]]


@pytest.mark.parametrize("how", ["flush", "close"])
async def test_a_restart_finds_what_was_saved(maker: Maker, how: str) -> None:
    index, who, where = await maker(), tenant(), ref()
    faces = random_faces(100)
    await index.apply(who, where, [*adds(faces), *deletes([3], 101)])
    expected = await index.search(who, where, faces[:5], 20)
    await (index.flush() if how == "flush" else index.close())
    again = await maker()
    assert await again.applied(who, where) == 101
    assert await again.search(who, where, faces[:5], 20) == expected
    assert await again.apply(who, where, adds(faces[2:3], 102)) == 102
    assert await labels(again, who, where, faces[2:3], 1) == [[102]]


async def test_adds_deletes_and_searches_at_once(index: VectorIndex) -> None:
    """Four searchers, one of them filtered, while 6,000 faces come and 2,000 go: every answer is one
    that some moment allows, no face that is there is ever missed, and it all ends in bounded time."""
    who, where = tenant(), ref()
    faces = random_faces(6_000)
    kept = faces[:20]
    await index.apply(who, where, adds(kept))
    gone = 0
    enrolled = list(range(1, 21))
    done = asyncio.Event()
    searched = 0

    async def search(allow: np.ndarray[tuple[int], np.dtype[np.int64]] | None) -> None:
        nonlocal searched
        while not done.is_set():
            deleted = gone
            found = await index.search(who, where, kept, 3, allow=allow)
            searched += 1
            assert [hits[0].label for hits in found] == list(range(1, 21))
            for hits in found:
                assert all(not 21 <= hit.label <= deleted for hit in hits)
                assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)

    async def change() -> None:
        nonlocal gone
        number = 20
        for start in range(20, 6_000, 130):
            part = faces[start : start + 130]
            added = [Change(number + 1 + i, number + 1 + i, face) for i, face in enumerate(part)]
            number = await index.apply(who, where, added)
            enrolled.extend(change.label for change in added)
            if start > 200:
                doomed = list(range(max(21, gone + 1), max(21, gone + 1) + 40))
                number = await index.apply(who, where, deletes(doomed, number + 1))
                gone = doomed[-1]
        done.set()

    begun = time.monotonic()
    searchers = [search(None), search(None), search(None), search(np.arange(1, 3_000, dtype=np.int64))]
    async with asyncio.timeout(60):
        await asyncio.gather(change(), *searchers)
    assert searched >= 4
    stats = await index.stats(who, where)
    assert stats.live == sum(label <= 20 or label > gone for label in enrolled)
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize(
    ("count", "dim"),
    [
        (25_000, 128),
        pytest.param(100_000, 128, marks=pytest.mark.full),
        pytest.param(100_000, 512, marks=pytest.mark.full),
    ],
)
async def test_recall_of_easy_and_hard_probes(tmp_path: Path, count: int, dim: int) -> None:
    """Against exact NumPy search: identity@1 of easy probes at least 99.9 % of exact, hard 99.5 %."""
    people = gallery(count, dim, probes=500)
    index, who, where = LocalVectorIndex(tmp_path), tenant(), ref(dim, "recall")
    try:
        for start in range(0, count, 10_000):
            await index.apply(who, where, adds(people.vectors[start : start + 10_000], start + 1))
        await index.settle()
        assert (await index.stats(who, where)).kind == "pq4-fastscan+fp16"
        for probes, share in ((people.easy, 0.999), (people.hard, 0.995)):
            found = np.array(
                [
                    people.identities[hits[0].label - 1]
                    for start in range(0, len(probes), 100)
                    for hits in await index.search(who, where, probes[start : start + 100], 1)
                ]
            )
            exact = float((people.exact(probes) == people.probe_identities).mean())
            ours = float((found == people.probe_identities).mean())
            assert ours >= share * exact, (ours, exact)
            assert exact > 0.5  # the probes are answerable, so that a broken index can't pass
    finally:
        await index.close()


def test_the_hard_probes_are_hard() -> None:
    random = np.random.default_rng(99)
    faces = random_faces(100, 128)
    near = at_cosine(faces, 0.42, random)
    np.testing.assert_allclose((near * faces).sum(1), 0.42, atol=1e-5)
