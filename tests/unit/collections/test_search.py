"""Search: scores against NumPy, filters, thresholds, and rows that go while a search runs."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from uuid import uuid4

import numpy as np
import pytest
from tests.unit.collections.conftest import SFACE, Vectors, World, jpeg, random_vectors

from mien.backends.vectors.base import CollectionRef, Hit
from mien.backends.vectors.local import LocalVectorIndex
from mien.features.collections.records import Filters, IndexRequest, SearchRequest
from mien.kit.errors import BadInput, NotFound, SpaceMismatch
from mien.kit.tenant import TenantId
from mien.vision.calibration import MatchPolicy

ALL = MatchPolicy(score=-1.0)


@pytest.fixture
async def gallery(world: World) -> World:
    """A world with an empty collection `a`."""
    await world.service.catalog.create(world.tenant, "a")
    return world


def near(vector: Vectors, cosine: float, seed: int = 9) -> Vectors:
    """A unit vector at this cosine to `vector`."""
    aside = np.random.default_rng([seed, 1]).standard_normal(vector.shape, dtype=np.float32)
    aside -= (aside @ vector) * vector
    made: Vectors = (cosine * vector + np.sqrt(1 - cosine**2) * aside / np.linalg.norm(aside)).astype(
        np.float32
    )
    return made


async def test_every_face_of_the_photo_is_searched(gallery: World, six: bytes, astronaut: bytes) -> None:
    service, tenant = gallery.service, gallery.tenant
    done = await service.faces.index(tenant, "a", six, IndexRequest(external_image_id="six"))
    await service.faces.index(tenant, "a", astronaut, IndexRequest(external_image_id="one"))
    found = await service.search.by_photo(tenant, "a", six, SearchRequest())
    assert [r.matches[0].face_id for r in found.results] == [face.id for face in done.faces]
    assert found.threshold.gallery_size == 8
    assert found.threshold.fpir == pytest.approx(0.01)
    best = found.results[0].matches[0]
    assert best.external_image_id == "six"
    assert best.similarity is not None
    assert best.similarity > 99
    assert best.fmr is not None
    assert best.fmr < 1e-6


async def test_scores_and_order_are_those_of_numpy(gallery: World) -> None:
    service, tenant = gallery.service, gallery.tenant
    vectors = random_vectors(500)
    faces = await gallery.fill("a", vectors)
    query = random_vectors(1, seed=6)[0]
    found = await service.search.by_embedding(
        tenant, "a", (3 * query).tolist(), SFACE.key, SearchRequest(max_matches=20, policy=ALL)
    )
    exact = vectors @ query
    matches = found.results[0].matches
    assert [m.score for m in matches] == pytest.approx(sorted(exact, reverse=True)[:20], abs=2e-3)
    by_id = {face.id: i for i, face in enumerate(faces)}
    assert [m.score for m in matches] == pytest.approx(
        [float(exact[by_id[m.face_id]]) for m in matches], abs=2e-3
    )


async def test_the_threshold_decides(gallery: World) -> None:
    service, tenant = gallery.service, gallery.tenant
    base = random_vectors(1)[0]
    await gallery.fill("a", np.stack([near(base, c) for c in (0.9, 0.5, 0.3, 0.1)]))

    async def scores(policy: MatchPolicy | None) -> list[float]:
        found = await service.search.by_embedding(
            tenant, "a", base.tolist(), SFACE.key, SearchRequest(policy=policy)
        )
        return [round(m.score, 1) for m in found.results[0].matches]

    assert await scores(None) == [0.9, 0.5]  # FPIR 1 % at 4 faces
    assert await scores(MatchPolicy(score=0.2)) == [0.9, 0.5, 0.3]
    assert await scores(MatchPolicy(distance=0.5)) == [0.9]  # d^2 = 2 - 2 * 0.9 = 0.2
    assert await scores(MatchPolicy(fmr=1.0)) == [0.9, 0.5, 0.3, 0.1]
    assert await scores(MatchPolicy(score=0.95)) == []


async def test_by_face_leaves_itself_out(gallery: World) -> None:
    service, tenant = gallery.service, gallery.tenant
    base = random_vectors(1)[0]
    faces = await gallery.fill("a", np.stack([base, near(base, 0.8)]))
    found = await service.search.by_face(tenant, "a", faces[0].id, SearchRequest())
    assert [m.face_id for m in found.results[0].matches] == [faces[1].id]
    with pytest.raises(NotFound, match="no face"):
        await service.search.by_face(tenant, "a", uuid4(), SearchRequest())


@pytest.mark.parametrize(
    ("values", "space", "error"),
    [
        ([float("nan")] * 128, SFACE.key, BadInput),
        ([float("inf")] + [0.0] * 127, SFACE.key, BadInput),
        ([0.0] * 128, SFACE.key, BadInput),
        ([1e300] * 128, SFACE.key, BadInput),
        ([1.0] * 127, SFACE.key, BadInput),
        ([], SFACE.key, BadInput),
        ([1.0] * 128, "faceplugin-512.r1.arcface112.512", SpaceMismatch),
    ],
)
async def test_embeddings_that_are_refused(
    gallery: World, values: list[float], space: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        await gallery.service.search.by_embedding(gallery.tenant, "a", values, space, SearchRequest())


async def test_nobody_to_search_for_or_among(gallery: World, coffee: bytes, astronaut: bytes) -> None:
    service, tenant = gallery.service, gallery.tenant
    found = await service.search.by_photo(tenant, "a", astronaut, SearchRequest())
    assert found.note == "The collection holds no faces yet."
    assert [r.matches for r in found.results] == [()]
    found = await service.search.by_photo(tenant, "a", coffee, SearchRequest())
    assert found.results == ()
    assert found.note is not None
    assert found.note.startswith("No face was found")
    found = await service.search.by_photo(tenant, "a", astronaut, SearchRequest(min_quality=1.0))
    assert found.results == ()
    assert found.unsearched[0].reasons[0] == "low_quality"


class TestFilters:
    async def test_each_kind(self, gallery: World) -> None:
        service, tenant = gallery.service, gallery.tenant
        base = random_vectors(1)[0]
        person = await service.persons.create(tenant, "a")
        same = np.stack([near(base, 0.9, seed=i) for i in range(6)])
        await gallery.fill(
            "a",
            same,
            external=lambda i: "ü" if i % 2 else None,
            facts=lambda i: {"n": i, "half": i / 2, "even": i % 2 == 0, "name": f"x{i // 2}", 'a.b "c"': 1},
        )
        faces = (await service.faces.page(tenant, "a")).items
        await service.persons.attach(tenant, "a", person.id, [faces[4].id, faces[5].id])

        async def labels(**filters: object) -> set[int]:
            request = SearchRequest(filters=Filters(**filters))  # type: ignore[arg-type]
            found = await service.search.by_embedding(tenant, "a", base.tolist(), SFACE.key, request)
            return {m.label for m in found.results[0].matches}

        assert await labels() == {1, 2, 3, 4, 5, 6}
        assert await labels(external_image_ids=("ü", "no such")) == {2, 4, 6}
        assert await labels(person_ids=(person.id,)) == {5, 6}
        assert await labels(facts={"n": 3}) == {4}
        assert await labels(facts={"half": 1.5}) == {4}
        assert await labels(facts={"even": True}) == {1, 3, 5}
        assert await labels(facts={"name": "x1"}) == {3, 4}
        assert await labels(facts={"name": "x1"}, external_image_ids=("ü",)) == {4}
        assert await labels(facts={"name": "no such"}) == set()
        assert await labels(facts={"missing": 1}) == set()
        for bad in ({'a"b': 1}, {"$": 1}, {"n": None}, {"n": float("nan")}, {"n": [1]}):
            with pytest.raises(BadInput):
                await labels(facts=bad)

    async def test_text_and_number_differ(self, gallery: World) -> None:
        base = random_vectors(1)[0]
        await gallery.fill("a", np.stack([base, base]), facts=lambda i: {"n": "7" if i else 7})

        async def labels(value: object) -> set[int]:
            request = SearchRequest(filters=Filters(facts={"n": value}))  # type: ignore[dict-item]
            found = await gallery.service.search.by_embedding(
                gallery.tenant, "a", base.tolist(), SFACE.key, request
            )
            return {m.label for m in found.results[0].matches}

        assert await labels("7") == {2}
        assert await labels(7) == {1}


class Interrupted(LocalVectorIndex):
    """The local index; before it answers a search, something happens elsewhere."""

    meanwhile: Callable[[], Awaitable[None]] | None = None

    async def search(
        self,
        tenant: TenantId,
        collection: CollectionRef,
        queries: Vectors,
        k: int,
        *,
        allow: np.ndarray[tuple[int], np.dtype[np.int64]] | None = None,
        min_score: float = -1.0,
    ) -> list[list[Hit]]:
        hits = await super().search(tenant, collection, queries, k, allow=allow, min_score=min_score)
        if self.meanwhile is not None:
            await self.meanwhile()
        return hits


async def test_faces_deleted_while_a_search_runs_are_not_shown(gallery: World) -> None:
    service, tenant = gallery.service, gallery.tenant
    base = random_vectors(1)[0]
    faces = await gallery.fill("a", np.stack([near(base, 0.9 - i / 100, seed=i) for i in range(60)]))
    index = Interrupted(gallery.root / "vectors-of-another-start")
    service.search._vectors = index
    service.projection._vectors = index

    async def delete_the_best() -> None:
        index.meanwhile = None
        await service.faces.delete(tenant, "a", [face.id for face in faces[:30]])

    index.meanwhile = delete_the_best
    found = await service.search.by_embedding(
        tenant, "a", base.tolist(), SFACE.key, SearchRequest(max_matches=10)
    )
    # All that the index first gave have gone; the next best are shown in their place.
    assert [m.face_id for m in found.results[0].matches] == [face.id for face in faces[30:40]]
    await service.projection.close()
    await index.close()


async def test_a_face_is_found_right_after_it_was_indexed(gallery: World, six: bytes) -> None:
    service, tenant = gallery.service, gallery.tenant
    vectors = random_vectors(40)

    async def index_then_find(i: int) -> bool:
        (face,) = await gallery.fill("a", vectors[i : i + 1], tell=bool(i % 2))
        found = await service.search.by_embedding(
            tenant, "a", vectors[i].tolist(), SFACE.key, SearchRequest(max_matches=1)
        )
        return found.results[0].matches[0].face_id == face.id

    assert all(await asyncio.gather(*(index_then_find(i) for i in range(40))))


@pytest.mark.parametrize(
    "request_",
    [
        SearchRequest(max_matches=0),
        SearchRequest(max_matches=1001),
        SearchRequest(min_quality=2.0),
        SearchRequest(max_faces=0),
        SearchRequest(filters=Filters(external_image_ids=("x",) * 1001)),
    ],
)
async def test_bounds(gallery: World, astronaut: bytes, request_: SearchRequest) -> None:
    with pytest.raises(BadInput):
        await gallery.service.search.by_photo(gallery.tenant, "a", astronaut, request_)


class TestCompare:
    async def test_all_against_all(self, world: World, six: bytes, astronaut: bytes) -> None:
        photos, tenant = world.service.photos, world.tenant
        compared = await photos.compare(tenant, six, six)
        assert compared.scores.shape == (6, 6)
        assert np.allclose(np.diag(compared.scores), 1.0, atol=1e-3)
        assert np.allclose(compared.scores, compared.scores.T, atol=1e-5)
        assert {(p.source, p.target) for p in compared.pairs} == {(i, i) for i in range(6)}
        assert compared.threshold.fmr == pytest.approx(1e-3)
        other = await photos.compare(tenant, six, astronaut)
        assert other.scores.shape == (6, 1)
        assert other.pairs == ()

    async def test_photos_without_faces(self, world: World, six: bytes, coffee: bytes) -> None:
        compared = await world.service.photos.compare(world.tenant, coffee, six)
        assert compared.scores.shape == (0, 6)
        assert compared.pairs == ()

    async def test_policies(self, world: World, six: bytes) -> None:
        photos, tenant = world.service.photos, world.tenant
        everything = await photos.compare(tenant, six, six, policy=MatchPolicy(distance=2.0))
        assert len(everything.pairs) == 36
        assert [p.score for p in everything.pairs] == sorted(
            (p.score for p in everything.pairs), reverse=True
        )
        with pytest.raises(BadInput, match="no gallery"):
            await photos.compare(tenant, six, six, policy=MatchPolicy(fpir=0.1))

    async def test_a_smaller_copy_still_matches(self, world: World, astronaut: bytes) -> None:
        import io

        import PIL.Image

        with PIL.Image.open(io.BytesIO(astronaut)) as image:
            small = jpeg(image.convert("RGB").resize((256, 256)))
        compared = await world.service.photos.compare(world.tenant, astronaut, small)
        assert len(compared.pairs) == 1
        assert compared.pairs[0].score > 0.8
