"""Persons: made, given faces, searched for by best and mean."""

from __future__ import annotations

from uuid import uuid4

import numpy as np
import pytest
from tests.unit.collections.conftest import World, random_vectors

from mien.features.collections.records import Filters, IndexRequest, SearchRequest
from mien.kit.errors import BadInput, Conflict, NotFound
from mien.vision.calibration import MatchPolicy


@pytest.fixture
async def gallery(world: World) -> World:
    """A world with an empty collection `a`."""
    await world.service.catalog.create(world.tenant, "a")
    return world


async def test_create_get_list_update_delete(gallery: World, astronaut: bytes) -> None:
    persons, tenant = gallery.service.persons, gallery.tenant
    made = await persons.create(
        tenant, "a", person_name="Ælfgifu 王", kind="staff", external_id="e-1", facts={"desk": 4}
    )
    await persons.create(tenant, "a", person_name="Second")
    assert await persons.get(tenant, "a", made.id) == made
    with pytest.raises(Conflict, match="e-1"):
        await persons.create(tenant, "a", external_id="e-1")
    by_kind = await persons.page(tenant, "a", kind="staff")
    assert [p.id for p in by_kind.items] == [made.id]
    first = await persons.page(tenant, "a", limit=1)
    second = await persons.page(tenant, "a", limit=1, cursor=first.next_cursor)
    assert [p.name for p in (*first.items, *second.items)] == ["Ælfgifu 王", "Second"]
    with pytest.raises(BadInput, match="another query"):
        await persons.page(tenant, "a", kind="staff", cursor=first.next_cursor)
    with pytest.raises(Conflict):
        await persons.update(tenant, "a", second.items[0].id, external_id="e-1")
    changed = await persons.update(tenant, "a", made.id, person_name="New")
    assert (changed.name, changed.kind, changed.external_id) == ("New", "staff", "e-1")

    await gallery.service.faces.index(tenant, "a", astronaut, IndexRequest(person_id=made.id))
    assert (await persons.get(tenant, "a", made.id)).face_count == 1
    await persons.delete(tenant, "a", made.id)
    with pytest.raises(NotFound):
        await persons.get(tenant, "a", made.id)
    (face,) = (await gallery.service.faces.page(tenant, "a")).items  # the face stays
    assert face.person_id is None


async def test_attach_and_detach(gallery: World) -> None:
    persons, tenant = gallery.service.persons, gallery.tenant
    faces = [f.id for f in await gallery.fill("a", random_vectors(3))]
    one, two = await persons.create(tenant, "a"), await persons.create(tenant, "a")
    missing = uuid4()
    assert await persons.attach(tenant, "a", one.id, [*faces[:2], missing]) == (faces[:2], [missing])
    assert await persons.attach(tenant, "a", two.id, [faces[1]]) == ([faces[1]], [])  # moves over
    assert (await persons.get(tenant, "a", one.id)).face_count == 1
    assert await persons.detach(tenant, "a", one.id, [faces[1], faces[0]]) == ([faces[0]], [faces[1]])
    assert (await persons.get(tenant, "a", one.id)).face_count == 0
    with pytest.raises(NotFound):
        await persons.attach(tenant, "a", uuid4(), faces)


async def test_persons_of_another_collection_are_unknown(gallery: World) -> None:
    persons, tenant = gallery.service.persons, gallery.tenant
    await gallery.service.catalog.create(tenant, "b")
    person = await persons.create(tenant, "b")
    faces = [f.id for f in await gallery.fill("a", random_vectors(1))]
    for call in (
        persons.get(tenant, "a", person.id),
        persons.attach(tenant, "a", person.id, faces),
        persons.delete(tenant, "a", person.id),
        persons.get(gallery.other, "b", person.id),
    ):
        with pytest.raises(NotFound):
            await call


async def test_best_and_mean_over_all_faces_of_a_person(gallery: World) -> None:
    """Person one has one very near face among poor ones, person two is near throughout."""
    persons, tenant = gallery.service.persons, gallery.tenant
    base = random_vectors(1)[0]
    random = np.random.default_rng(3)

    def at(cosine: float) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        aside = random.standard_normal(128).astype(np.float32)
        aside -= (aside @ base) * base
        made: np.ndarray[tuple[int], np.dtype[np.float32]] = (
            cosine * base + np.sqrt(1 - cosine**2) * aside / np.linalg.norm(aside)
        ).astype(np.float32)
        return made

    cosines = {"one": (0.95, 0.1, -0.2), "two": (0.8, 0.75), "three": (0.2, 0.1)}
    vectors = {name: np.stack([at(c) for c in values]) for name, values in cosines.items()}
    for name, faces in vectors.items():
        person = await persons.create(tenant, "a", external_id=name)
        await gallery.fill("a", faces, person=person.id)
    (probe,) = await gallery.fill("a", base[None])  # belongs to nobody

    async def ranked(sort: str) -> list[tuple[str | None, float, float]]:
        found = await persons.search_face(
            tenant,
            "a",
            probe.id,
            SearchRequest(policy=MatchPolicy(score=0.5)),
            sort=sort,  # type: ignore[arg-type]
        )
        ((_, matches),) = found.results
        return [(m.person.external_id, m.best, m.mean) for m in matches]

    best = await ranked("best")
    assert [name for name, _, _ in best] == ["one", "two"]  # three is below the threshold
    exact = {name: faces @ base for name, faces in vectors.items()}
    for owner, first, mean in best:
        assert owner is not None
        assert first == pytest.approx(float(exact[owner].max()), abs=2e-3)
        assert mean == pytest.approx(float(exact[owner].mean()), abs=2e-3)
    assert [name for name, _, _ in await ranked("mean")] == ["two", "one"]


async def test_search_by_photo(gallery: World, six: bytes, astronaut: bytes, coffee: bytes) -> None:
    service, tenant = gallery.service, gallery.tenant
    person = await service.persons.create(tenant, "a", person_name="Eileen")
    await service.faces.index(tenant, "a", astronaut, IndexRequest(person_id=person.id))
    await service.faces.index(tenant, "a", six, IndexRequest())
    found = await service.persons.search_photo(tenant, "a", astronaut, SearchRequest())
    ((_, matches),) = found.results
    assert [m.person.name for m in matches] == ["Eileen"]
    assert matches[0].person.face_count == 1
    nobody = await service.persons.search_photo(tenant, "a", six, SearchRequest())
    assert [matches for _, matches in nobody.results] == [()] * 6
    none = await service.persons.search_photo(tenant, "a", coffee, SearchRequest())
    assert none.results == ()
    assert none.note is not None
    request = SearchRequest(filters=Filters(facts={"x": 1}))
    with pytest.raises(BadInput, match="no filters"):
        await service.persons.search_photo(tenant, "a", astronaut, request)
