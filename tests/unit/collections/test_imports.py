"""Bulk imports: archives and folders, hostile ones, and a job that is taken up again."""

from __future__ import annotations

import asyncio
import io
import struct
import zipfile
import zlib
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from tests.unit.collections.conftest import World, close_world, open_world, photo_bytes

from mien.features.collections import archives
from mien.features.collections.imports import ImportRequest
from mien.features.collections.limits import CollectionLimits, ImportLimits
from mien.features.collections.records import IndexRequest, SearchRequest
from mien.features.collections.uploads import Spool
from mien.features.jobs.service import Job
from mien.kit.errors import BadInput, Forbidden, MienError, NotFound, TooLarge


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


async def spool(data: bytes) -> Spool:
    made = Spool(1 << 30)
    await made.write(data)
    return made


async def ended(world: World, job: Job) -> Job:
    """The job once it has ended; its events say when to look."""
    async with asyncio.timeout(60), world.bus.subscribe(world.tenant, ["jobs"]) as events:
        now = await world.jobs.get(world.tenant, job.id)
        while now.state in ("queued", "running"):
            await anext(events)
            now = await world.jobs.get(world.tenant, job.id)
    return now


async def imported(world: World, data: bytes, **request: Any) -> Mapping[str, Any]:
    """The result of importing an archive into `a`."""
    archive = await spool(data)
    try:
        job = await world.service.imports.from_archive(
            world.tenant, "a", archive, ImportRequest(IndexRequest(), **request)
        )
    finally:
        archive.close()
    done = await ended(world, job)
    assert done.state == "succeeded", done.error
    assert done.result is not None
    return done.result


@pytest.fixture
async def gallery(world: World) -> World:
    """A world with an empty collection `a`."""
    await world.service.catalog.create(world.tenant, "a")
    return world


async def test_an_archive_becomes_faces(gallery: World) -> None:
    files = {
        "staff/Ödön/1.png": photo_bytes("astronaut"),
        "staff/group.jpg": photo_bytes("six_faces"),
        "staff/empty.png": photo_bytes("coffee"),
        "staff/broken.jpg": b"\xff\xd8 not really",
        "staff/readme.txt": b"no photo",
        "__MACOSX/staff/._group.jpg": b"a fork",
    }
    result = await imported(gallery, zipped(files))
    assert result == {
        "photos": 4,
        "indexed": 2,
        "faces": 7,
        "without_faces": 1,
        "unindexed_faces": 0,
        "skipped": 0,
        "failed": 1,
        "errors": [{"name": "staff/broken.jpg", "reason": result["errors"][0]["reason"]}],
    }
    service, tenant = gallery.service, gallery.tenant
    page = await service.faces.page(tenant, "a", external_image_id="staff/Ödön/1.png")
    assert len(page.items) == 1
    found = await service.search.by_photo(tenant, "a", photo_bytes("astronaut"), SearchRequest())
    assert found.results[0].matches[0].external_image_id == "staff/Ödön/1.png"
    assert [key async for key in gallery.blobs.list(tenant)] == []  # the archive is not kept


async def test_a_second_import_changes_nothing(gallery: World) -> None:
    data = zipped({"a.png": photo_bytes("astronaut"), "six.jpg": photo_bytes("six_faces")})
    await imported(gallery, data)
    again = await imported(gallery, data)
    assert (again["skipped"], again["faces"]) == (2, 0)
    moved = await imported(gallery, zipped({"b.png": photo_bytes("astronaut")}))
    assert moved["faces"] == 1  # another external id is another photo
    assert (await gallery.service.catalog.get(gallery.tenant, "a")).face_count == 8


async def test_persons_by_folder(gallery: World) -> None:
    files = {
        "lfw/Eileen/1.png": photo_bytes("astronaut"),
        "lfw/Eileen/2.png": photo_bytes("astronaut") + b" ",  # another content
        "top.jpg": photo_bytes("six_faces"),
    }
    await imported(gallery, zipped(files), persons="by_folder")
    persons = (await gallery.service.persons.page(gallery.tenant, "a")).items
    assert [(p.name, p.external_id, p.face_count) for p in persons] == [("Eileen", "Eileen", 2)]
    top = await gallery.service.faces.page(gallery.tenant, "a", external_image_id="top.jpg")
    assert {face.person_id for face in top.items} == {None}


async def test_a_killed_import_goes_on_without_duplicates(tmp_path: Path) -> None:
    files = {f"{i}.png": photo_bytes("astronaut") + b" " * i for i in range(8)}
    world = await open_world(tmp_path)
    await world.service.catalog.create(world.tenant, "a")
    archive = await spool(zipped(files))
    job = await world.service.imports.from_archive(world.tenant, "a", archive, ImportRequest(IndexRequest()))
    archive.close()
    async with asyncio.timeout(60):
        while (await world.service.catalog.get(world.tenant, "a")).face_count < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
    await world.jobs.stop(timeout_s=0)  # cancelled in the middle, as a stop that does not wait
    before = (await world.service.catalog.get(world.tenant, "a")).face_count
    assert 2 <= before < 8
    await close_world(world)

    again = await open_world(tmp_path, tenants=[world.tenant, world.other])
    done = await ended(again, job)
    assert done.result is not None
    assert done.result["skipped"] >= before
    assert done.result["skipped"] + done.result["indexed"] == 8
    names = [f.external_image_id for f in (await again.service.faces.page(again.tenant, "a")).items]
    assert sorted(str(name) for name in names) == sorted(files)
    await close_world(again)


async def test_a_collection_deleted_meanwhile_fails_the_import(gallery: World) -> None:
    service, tenant = gallery.service, gallery.tenant
    await gallery.jobs.stop()
    archive = await spool(zipped({"a.png": photo_bytes("astronaut")}))
    job = await service.imports.from_archive(tenant, "a", archive, ImportRequest(IndexRequest()))
    archive.close()
    await service.catalog.delete(tenant, "a")
    await service.catalog.create(tenant, "a")  # another one
    await gallery.jobs.run(job.id)
    done = await gallery.jobs.get(tenant, job.id)
    assert done.state == "failed"
    assert (await service.catalog.get(tenant, "a")).face_count == 0
    assert [key async for key in gallery.blobs.list(tenant)] == []


# --- archives that are refused -----------------------------------------------------------------------

SMALL = CollectionLimits(
    photo_bytes=100_000,
    imports=ImportLimits(entries=5, unpacked_bytes=1_000_000, ratio_from_bytes=10_000, directory_bytes=1_000),
)


def many() -> bytes:
    return zipped({f"{i}.jpg": b"x" for i in range(6)})


def big() -> bytes:
    import random

    noise = random.Random(1).randbytes(300_000)
    return zipped({f"{i}.jpg": noise for i in range(4)})


def bomb() -> bytes:
    return zipped({"a.jpg": b"\0" * 900_000}, zipfile.ZIP_DEFLATED)


def long_directory() -> bytes:
    return zipped({"x" * 600 + f"{i}.jpg": b"x" for i in range(3)})


def long_directory_in_zip64() -> bytes:
    """The plain end record says 0 entries in 0 bytes, the ZIP64 record that zipfile believes says more."""
    plain = zipped({"x" * 600 + f"{i}.jpg": b"x" for i in range(3)})
    at = plain.rindex(b"PK\x05\x06")
    count, size, offset = struct.unpack_from("<HII", plain, at + 10)
    record = struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, size, offset)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1)
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 0, 0, 0, 0, 0)
    return plain[:at] + record + locator + end


def overlapping() -> bytes:
    """Many entries over the same bytes (a non-recursive bomb, D. Fifield, WOOT 2019)."""
    data = zlib.compress(b"\0" * 90_000)[2:-4]
    local = struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 8, 0, 0, 0, len(data), 90_000, 1, 0) + b"a"
    central = b"".join(
        struct.pack(
            "<4s6H3I5H2I", b"PK\x01\x02", 20, 20, 0, 8, 0, 0, 0, len(data), 90_000, 5, 0, 0, 0, 0, 0, 0
        )
        + b"%d.jpg" % i
        for i in range(4)
    )
    end = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 4, 4, len(central), len(local) + len(data), 0)
    return local + data + central + end


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (many, TooLarge),
        (big, TooLarge),
        (bomb, TooLarge),
        (long_directory, TooLarge),
        (long_directory_in_zip64, TooLarge),
        (overlapping, TooLarge),
        (lambda: b"no zip at all", BadInput),
        (lambda: b"", BadInput),
        (lambda: zipped({"a.txt": b"text"}), BadInput),
        (lambda: zipped({"a.jpg": b"x" * 500})[:-30], BadInput),
    ],
)
def test_archives_that_are_refused(make: Any, error: type[MienError]) -> None:
    with pytest.raises(error):
        archives.check(io.BytesIO(make()), SMALL)


def test_an_archive_within_all_bounds_passes() -> None:
    assert archives.check(io.BytesIO(zipped({"a.jpg": b"x" * 500, "b.PNG": b"y", "c.txt": b""})), SMALL) == 2


def test_what_an_entry_claims_is_not_believed() -> None:
    """The directory says 9 bytes; the packed data would give a million."""
    data = bytearray(zipped({"a.jpg": b"\0" * 1_000_000}, zipfile.ZIP_DEFLATED))
    at = data.rindex(b"PK\x01\x02")
    struct.pack_into("<I", data, at + 24, 9)
    archives.check(io.BytesIO(data), SMALL)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        (entry,) = archives.entries(archive, SMALL)
        assert isinstance(entry.handle, zipfile.ZipInfo)
        with pytest.raises(MienError):
            archives.read(archive, entry.handle, SMALL)


def test_entries_that_cannot_be_read_have_a_fault() -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../../etc/evil.jpg", b"x")
        archive.writestr("big.jpg", b"x" * 100_001)
        archive.writestr("n" * 600 + ".jpg", b"x")
        archive.writestr("plain.jpg", b"x")
    raw = out.getvalue().replace(b"plain.jpg", b"\xffl\xe9in.jpg")
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        faults = {entry.name[:20]: entry.fault for entry in archives.entries(archive, SMALL)}
    assert faults["../../etc/evil.jpg"] is None  # a name is only ever a text
    assert faults["big.jpg"] == "it is over 100000 bytes"
    assert faults["n" * 20] == "its name is over 512 characters"
    assert "its name is not UTF-8" in faults.values()


def test_names_in_utf8_without_the_mark() -> None:
    raw = zipped({"aa.jpg": b"x"}).replace(b"aa.jpg", "ä.jpg".encode())
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        assert [entry.name for entry in archives.entries(archive, SMALL)] == ["ä.jpg"]


async def test_a_refused_archive_leaves_nothing(gallery: World) -> None:
    archive = await spool(b"no zip")
    with pytest.raises(BadInput):
        await gallery.service.imports.from_archive(
            gallery.tenant, "a", archive, ImportRequest(IndexRequest())
        )
    good = await spool(zipped({"a.jpg": b"x"}))
    with pytest.raises(NotFound):
        await gallery.service.imports.from_archive(gallery.tenant, "b", good, ImportRequest(IndexRequest()))
    archive.close()
    good.close()
    assert [key async for key in gallery.blobs.list(gallery.tenant)] == []
    assert (await gallery.jobs.list(gallery.tenant)).items == ()


# --- folders of the server ---------------------------------------------------------------------------


@pytest.fixture
async def rooted(tmp_path: Path) -> AsyncIterator[World]:
    (tmp_path / "photos" / "x").mkdir(parents=True)
    limits = CollectionLimits(import_roots=(tmp_path / "photos",))
    world = await open_world(tmp_path / "data", limits=limits)
    await world.service.catalog.create(world.tenant, "a")
    yield world
    await close_world(world)


async def test_a_folder_below_an_allowed_one(rooted: World, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    (folder / "x" / "1.png").write_bytes(photo_bytes("astronaut"))
    (tmp_path / "secret.png").write_bytes(photo_bytes("six_faces"))
    (folder / "x" / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "x" / "inner.png").symlink_to(folder / "x" / "1.png")
    job = await rooted.service.imports.from_folder(
        rooted.tenant, "a", str(folder), ImportRequest(IndexRequest())
    )
    done = await ended(rooted, job)
    assert done.result is not None
    assert done.result["errors"] == [{"name": "x/link.png", "reason": "it is a link out of the folder"}]
    faces = (await rooted.service.faces.page(rooted.tenant, "a")).items
    assert sorted(str(f.external_image_id) for f in faces) == ["x/1.png", "x/inner.png"]


async def test_folders_that_are_refused(rooted: World, gallery: World, tmp_path: Path) -> None:
    (tmp_path / "photos" / "out").symlink_to(tmp_path)
    for folder in ("/etc", str(tmp_path / "photos" / ".."), str(tmp_path / "photos" / "out"), "photos", ""):
        with pytest.raises((Forbidden, BadInput)):
            await rooted.service.imports.from_folder(
                rooted.tenant, "a", folder, ImportRequest(IndexRequest())
            )
    with pytest.raises(BadInput, match="not there"):
        await rooted.service.imports.from_folder(
            rooted.tenant, "a", str(tmp_path / "photos" / "none"), ImportRequest(IndexRequest())
        )
    with pytest.raises(Forbidden):  # nothing is allowed by default
        await gallery.service.imports.from_folder(
            gallery.tenant, "a", str(tmp_path / "photos"), ImportRequest(IndexRequest())
        )


async def test_a_person_for_all(gallery: World) -> None:
    person = await gallery.service.persons.create(gallery.tenant, "a")
    request = replace(IndexRequest(), person_id=person.id)
    archive = await spool(zipped({"a.png": photo_bytes("astronaut")}))
    job = await gallery.service.imports.from_archive(gallery.tenant, "a", archive, ImportRequest(request))
    archive.close()
    await ended(gallery, job)
    (face,) = (await gallery.service.faces.page(gallery.tenant, "a")).items
    assert face.person_id == UUID(str(person.id))
