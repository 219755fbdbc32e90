"""Indexing, listing and deleting faces."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from uuid import uuid4

import PIL.Image
import pytest
from tests.unit.collections.conftest import World, jpeg

from mien.backends.pipelines.base import Pipelines, PipelineStats
from mien.features.collections.records import IndexRequest, SearchRequest
from mien.kit.errors import BadInput, BadPhoto, NotFound, SpaceMismatch
from mien.kit.tenant import TenantId
from mien.vision.calibration import MatchPolicy
from mien.vision.values import Analysis, AnalyzeRequest, Space


@pytest.fixture
async def gallery(world: World) -> World:
    """A world with an empty collection `a`."""
    await world.service.catalog.create(world.tenant, "a")
    return world


async def test_every_face_of_a_photo_is_stored(gallery: World, six: bytes) -> None:
    done = await gallery.service.faces.index(
        gallery.tenant, "a", six, IndexRequest(external_image_id="Straße 1", facts={"day": 1})
    )
    assert (done.width, done.height) == (1280, 886)
    assert len(done.faces) == 6
    assert done.unindexed == ()
    assert [face.label for face in done.faces] == [1, 2, 3, 4, 5, 6]
    stored = await gallery.service.faces.page(gallery.tenant, "a")
    assert list(stored.items) == list(done.faces)  # what was told is what is stored
    face = stored.items[0]
    assert face.external_image_id == "Straße 1"
    assert face.facts == {"day": 1}
    assert face.space_key == "sface.r1.arcface112.128"
    assert face.runtime.split("-")[0] in ("onnxruntime", "openvino")
    assert face.confidence > 0.8
    assert face.quality_score is not None
    assert 0.5 < face.quality_score <= 1
    assert len(face.landmarks) == 5
    boxes = [f.box.width * f.box.height for f in stored.items]
    assert boxes == sorted(boxes, reverse=True)  # largest first


async def test_faces_left_out_have_their_reasons(gallery: World, six: bytes) -> None:
    service, tenant = gallery.service, gallery.tenant
    done = await service.faces.index(tenant, "a", six, IndexRequest(max_faces=2))
    assert len(done.faces) == 2
    assert [left.reasons for left in done.unindexed] == [("exceeds_max_faces",)] * 4
    done = await service.faces.index(tenant, "a", six, IndexRequest(min_quality=1.0))
    assert done.faces == ()
    assert all(left.reasons[0] == "low_quality" for left in done.unindexed)
    assert len(done.unindexed) == 6
    assert (await service.catalog.get(tenant, "a")).face_count == 2


async def test_no_face_is_no_error(gallery: World, coffee: bytes) -> None:
    done = await gallery.service.faces.index(gallery.tenant, "a", coffee, IndexRequest())
    assert (done.faces, done.unindexed) == ((), ())
    assert (await gallery.service.catalog.get(gallery.tenant, "a")).change_head == 0


async def test_a_hundred_faces(gallery: World, astronaut: bytes) -> None:
    with PIL.Image.open(io.BytesIO(astronaut)) as image:
        face = image.convert("RGB").crop((130, 0, 330, 200)).resize((160, 160))
    sheet = PIL.Image.new("RGB", (1600, 1600))
    for i in range(100):
        sheet.paste(face, (i % 10 * 160, i // 10 * 160))
    service, tenant = gallery.service, gallery.tenant
    done = await service.faces.index(tenant, "a", jpeg(sheet), IndexRequest(max_faces=100))
    assert len(done.faces) == 100
    found = await service.search.by_photo(tenant, "a", astronaut, SearchRequest(max_matches=1000))
    assert len(found.results[0].matches) == 100
    with pytest.raises(BadInput, match="over 20000"):
        await service.search.by_photo(tenant, "a", jpeg(sheet), SearchRequest(max_matches=1000))


@pytest.mark.parametrize("data", [b"", b"not a photo", b"\xff\xd8\xff\xe0 cut off"])
async def test_what_is_no_photo_leaves_nothing(gallery: World, data: bytes) -> None:
    with pytest.raises(BadPhoto):
        await gallery.service.faces.index(gallery.tenant, "a", data, IndexRequest())
    assert (await gallery.service.catalog.get(gallery.tenant, "a")).change_head == 0


async def test_unknown_collection_and_person(gallery: World, astronaut: bytes) -> None:
    service, tenant = gallery.service, gallery.tenant
    with pytest.raises(NotFound, match="no collection"):
        await service.faces.index(tenant, "b", astronaut, IndexRequest())
    with pytest.raises(NotFound, match="no person"):
        await service.faces.index(tenant, "a", astronaut, IndexRequest(person_id=uuid4()))
    assert (await service.catalog.get(tenant, "a")).face_count == 0


async def test_list_filters_and_cursors(gallery: World, six: bytes, astronaut: bytes) -> None:
    service, tenant = gallery.service, gallery.tenant
    person = await service.persons.create(tenant, "a")
    await service.faces.index(tenant, "a", six, IndexRequest(external_image_id="six"))
    await service.faces.index(
        tenant, "a", astronaut, IndexRequest(external_image_id="one", person_id=person.id)
    )
    seen = []
    cursor = None
    while True:
        page = await service.faces.page(tenant, "a", limit=3, cursor=cursor)
        seen += [face.label for face in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    by_person = await service.faces.page(tenant, "a", person_id=person.id)
    by_photo = await service.faces.page(tenant, "a", external_image_id="one")
    assert [face.label for face in by_person.items] == [face.label for face in by_photo.items] == [7]
    filtered = await service.faces.page(tenant, "a", limit=1, external_image_id="six")
    with pytest.raises(BadInput, match="another query"):
        await service.faces.page(tenant, "a", cursor=filtered.next_cursor)


async def test_delete_many(gallery: World, six: bytes) -> None:
    service, tenant = gallery.service, gallery.tenant
    done = await service.faces.index(tenant, "a", six, IndexRequest())
    gone, missing = [done.faces[4].id, done.faces[0].id], uuid4()
    deleted, not_found = await service.faces.delete(tenant, "a", [gone[0], missing, gone[1], gone[0]])
    assert (deleted, not_found) == (gone, [missing])
    found = await service.search.by_photo(tenant, "a", six, SearchRequest(policy=MatchPolicy(score=-1)))
    left = {face.id for face in done.faces} - set(gone)
    assert [{m.face_id for m in result.matches} for result in found.results] == [left] * 6
    described = await service.catalog.describe(tenant, "a")
    assert (described.collection.face_count, described.index_live) == (4, 4)
    with pytest.raises(NotFound):
        await service.faces.delete_one(tenant, "a", gone[0])
    with pytest.raises(BadInput):
        await service.faces.delete(tenant, "a", [])


async def test_a_photo_known_already_is_skipped_when_asked(gallery: World, astronaut: bytes) -> None:
    service, tenant = gallery.service, gallery.tenant
    once = IndexRequest(external_image_id="x", skip_known=True)
    results = await asyncio.gather(*(service.faces.index(tenant, "a", astronaut, once) for _ in range(4)))
    assert sorted(done.skipped for done in results) == [False, True, True, True]
    again = await service.faces.index(tenant, "a", astronaut, IndexRequest(external_image_id="x"))
    assert not again.skipped
    assert (await service.catalog.get(tenant, "a")).face_count == 2


async def test_attributes_are_kept(gallery: World, astronaut: bytes) -> None:
    done = await gallery.service.faces.index(
        gallery.tenant, "a", astronaut, IndexRequest(attributes=frozenset({"quality"}))
    )
    quality = done.faces[0].quality
    assert quality is not None
    assert quality["pose"].keys() == {"yaw", "pitch", "roll"}
    assert done.faces[0].attributes is None


async def test_other_models_are_refused_by_name(gallery: World, astronaut: bytes) -> None:
    other = Space("faceplugin-512", 1, "arcface112", 512)
    gallery.pipelines._space = other
    for call in (
        gallery.service.faces.index(gallery.tenant, "a", astronaut, IndexRequest()),
        gallery.service.search.by_photo(gallery.tenant, "a", astronaut, SearchRequest()),
    ):
        with pytest.raises(SpaceMismatch) as caught:
            await call
        assert "sface.r1.arcface112.128" in caught.value.message
        assert "faceplugin-512.r1.arcface112.512" in caught.value.message


async def test_many_writers_number_changes_without_gaps(gallery: World, six: bytes) -> None:
    service, tenant = gallery.service, gallery.tenant
    await asyncio.gather(*(service.faces.index(tenant, "a", six, IndexRequest()) for _ in range(4)))
    labels = [face.label for face in (await service.faces.page(tenant, "a")).items]
    assert labels == list(range(1, 25))
    collection = await service.catalog.get(tenant, "a")
    assert (collection.change_head, collection.face_count) == (24, 24)


async def test_embeddings_survive_storage(gallery: World, astronaut: bytes) -> None:
    done = await gallery.service.faces.index(gallery.tenant, "a", astronaut, IndexRequest())
    found = await gallery.service.search.by_photo(gallery.tenant, "a", astronaut, SearchRequest())
    match = found.results[0].matches[0]
    assert match.face_id == done.faces[0].id
    assert match.score == pytest.approx(1.0, abs=2e-3)  # fp16 in the index


class Meanwhile:
    """Pipelines that let something happen while a photo is analysed."""

    def __init__(self, inner: Pipelines, happens: Callable[[], Awaitable[None]]) -> None:
        self._inner = inner
        self._happens = happens

    @property
    def space(self) -> Space:
        return self._inner.space

    async def analyze(self, tenant: TenantId, data: bytes, request: AnalyzeRequest) -> Analysis:
        analysis = await self._inner.analyze(tenant, data, request)
        await self._happens()
        return analysis

    def stats(self) -> PipelineStats:
        return self._inner.stats()

    async def close(self) -> None:
        await self._inner.close()


async def test_a_collection_deleted_while_a_photo_is_analysed(gallery: World, six: bytes) -> None:
    service, tenant = gallery.service, gallery.tenant

    async def delete() -> None:
        await service.catalog.delete(tenant, "a")

    service.faces._pipelines = Meanwhile(gallery.pipelines, delete)
    with pytest.raises(NotFound, match="deleted meanwhile"):
        await service.faces.index(tenant, "a", six, IndexRequest())
    await service.catalog.create(tenant, "a")
    assert (await service.faces.page(tenant, "a")).items == ()


async def test_a_person_deleted_while_a_photo_is_analysed(gallery: World, six: bytes) -> None:
    service, tenant = gallery.service, gallery.tenant
    person = await service.persons.create(tenant, "a")

    async def delete() -> None:
        await service.persons.delete(tenant, "a", person.id)

    service.faces._pipelines = Meanwhile(gallery.pipelines, delete)
    with pytest.raises(NotFound, match="no person"):
        await service.faces.index(tenant, "a", six, IndexRequest(person_id=person.id))
    collection = await service.catalog.get(tenant, "a")
    assert (collection.change_head, collection.face_count) == (0, 0)  # all of the photo, or nothing
