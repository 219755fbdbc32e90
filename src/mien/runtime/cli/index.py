"""`mien index` and `mien import`."""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import click

from mien.kit.errors import MienError
from mien.runtime.cli.frame import Shown, counted, options, quoted, readable
from mien.runtime.cli.photos import photos_in, upload

if TYPE_CHECKING:
    from mien.runtime.client import Client

_ERRORS_SHOWN = 20
_BUSY_TRIES = 30
_GOING = ("queued", "running")


@dataclass
class _Sum:
    """What became of the photos."""

    photos: int = 0
    faces: int = 0
    known: int = 0
    without_face: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    errors: list[dict[str, str]] = field(default_factory=list)


@dataclass
class _Kept:
    """Whether a collection that was just made is worth keeping."""

    worth: bool = False


def _label(name: str) -> str:
    """A photo's name as the API takes it."""
    return readable(name)[-512:]


async def _known(client: Client, base: str) -> set[tuple[str, str]]:
    """(external id, SHA-256) of every photo that has a face in the collection."""
    return {
        (face["external_image_id"] or "", face["image_sha256"])
        async for face in client.pages(f"{base}/faces", "faces", limit=1000)
    }


@asynccontextmanager
async def _collection(client: Client, name: str, *, create: bool) -> AsyncIterator[_Kept]:
    """The collection, made if need be; one that was made here goes again if nothing came into it.

    The work sets `worth` once something could be read, faces or not.
    """
    from mien.runtime.client import Answered

    path = f"/v1/collections/{quoted(name)}"
    made = False
    try:
        await client.call("GET", path)
    except Answered as error:
        if error.status != 404 or not create:
            raise
        await client.call("POST", "/v1/collections", json={"name": name})
        made = True
    kept = _Kept()
    try:
        yield kept
    finally:
        if made and not kept.worth:
            with suppress(MienError):
                if not (await client.call("GET", path))["face_count"]:
                    await client.call("DELETE", path)


class _Persons:
    """Person ids by folder name, made when first met."""

    def __init__(self, client: Client, base: str) -> None:
        self._client = client
        self._base = base
        self._ids: dict[str, str] = {}
        self._lock = asyncio.Lock()

    async def load(self) -> None:
        async for person in self._client.pages(f"{self._base}/persons", "persons", limit=1000):
            if person["external_id"]:
                self._ids[person["external_id"]] = person["person_id"]

    async def of(self, folder: str) -> str:
        async with self._lock:
            if folder not in self._ids:
                body = {"name": folder, "external_id": folder}
                person = await self._client.call("POST", f"{self._base}/persons", json=body)
                self._ids[folder] = person["person_id"]
            return self._ids[folder]


async def _send(client: Client, path: str, fields: dict[str, str], data: bytes) -> dict[str, Any]:
    """Index one photo; a busy server is asked again with the same idempotency key."""
    from mien.runtime.client import Answered

    key = str(uuid4())
    for attempt in range(_BUSY_TRIES):
        try:
            reply: dict[str, Any] = await client.call(
                "POST", path, data=fields, files={"file": upload(data)}, idempotency_key=key
            )
            return reply
        except Answered as error:
            if error.code != "busy" or attempt == _BUSY_TRIES - 1:
                raise
            await asyncio.sleep(min(5.0, 0.2 * 2**attempt))
    raise AssertionError


@click.command()
@click.argument("collection")
@click.argument(
    "paths", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True), metavar="PATH…"
)
@click.option("--create/--no-create", default=True, show_default=True, help="Make the collection if missing.")
@click.option("--person-per-folder", is_flag=True, help="Each photo's folder names its person.")
@click.option("--again", is_flag=True, help="Index photos that are already there, too.")
@click.option("--at-once", type=click.IntRange(1, 64), default=4, show_default=True, help="Photos in flight.")
@click.option("--max-faces", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--min-quality", type=click.FloatRange(0, 1), default=0.0, show_default=True)
@options
def index(
    shown: Shown,
    collection: str,
    paths: tuple[Path, ...],
    create: bool,
    person_per_folder: bool,
    again: bool,
    at_once: int,
    max_faces: int,
    min_quality: float,
) -> int:
    """Put the faces of photos, and of all photos in folders, into COLLECTION.

    A photo that is already there (same name, same content) is skipped. Exit code 3 if some photos
    could not be read, 1 if no face was found.
    """
    found = list(photos_in(paths))
    if not found:
        raise click.ClickException("There is no photo (JPEG, PNG, WebP, BMP, TIFF) there.")
    total = _Sum()
    base = f"/v1/collections/{quoted(collection)}"
    fields = {"max_faces": str(max_faces), "min_quality": str(min_quality)}

    async def work(client: Client) -> None:
        async with _collection(client, collection, create=create) as kept:
            known = set() if again else await _known(client, base)
            persons = _Persons(client, base)
            if person_per_folder:
                await persons.load()
            whose = persons if person_per_folder else None
            await _index_all(shown, client, base, found, known, whose, fields, at_once, total)
            kept.worth = len(total.errors) < total.photos

    shown.run(work, models=True)
    _show_sum(shown, collection, total)
    if total.errors:
        return 3
    return 0 if total.faces or total.known else 1


async def _index_all(
    shown: Shown,
    client: Client,
    base: str,
    found: list[tuple[Path, str]],
    known: set[tuple[str, str]],
    persons: _Persons | None,
    fields: dict[str, str],
    at_once: int,
    total: _Sum,
) -> None:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from mien.runtime.client import Answered

    entries = iter(found)
    columns = (
        TextColumn("indexing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[faces]} faces"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=shown.err, disable=not shown.err.is_terminal) as bar:
        task = bar.add_task("", total=len(found), faces=0)

        async def one(path: Path, name: str) -> None:
            label = _label(name)
            total.photos += 1
            try:
                data = await asyncio.to_thread(path.read_bytes)
                if (label, hashlib.sha256(data).hexdigest()) in known:
                    total.known += 1
                    return
                sent = {**fields, "external_image_id": label}
                folder = _label(path.parent.name)
                if persons is not None and folder:
                    sent["person_id"] = await persons.of(folder)
                reply = await _send(client, f"{base}/faces", sent, data)
            except OSError as error:
                total.errors.append({"photo": label, "error": error.strerror or "can't be read"})
            except Answered as error:
                # What is wrong with one photo is noted; what is wrong with all ends the command.
                if not error.of_one_photo and error.status != 422:
                    raise
                total.errors.append({"photo": label, "error": error.message})
            else:
                total.faces += len(reply["faces"])
                total.without_face += not reply["faces"] and not reply["unindexed"]
                for face in reply["unindexed"]:
                    total.left_out.update(face["reasons"])

        async def worker() -> None:
            for path, name in entries:
                await one(path, name)
                bar.update(task, advance=1, faces=total.faces)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(at_once):
                    group.create_task(worker())
        except ExceptionGroup as faults:
            # What ended one worker ended all: the command tells that one.
            raise faults.exceptions[0] from None


def _show_sum(shown: Shown, collection: str, total: _Sum) -> None:
    total.errors.sort(key=lambda error: error["photo"])
    if shown.as_json:
        shown.json(
            {
                "collection": collection,
                "photos": total.photos,
                "faces": total.faces,
                "already_there": total.known,
                "without_face": total.without_face,
                "left_out": dict(sorted(total.left_out.items())),
                "errors": total.errors,
            }
        )
        return
    parts = [f"{counted(total.photos, 'photo')}: {counted(total.faces, 'face')} indexed"]
    if total.known:
        parts.append(f"{counted(total.known, 'photo')} already there")
    if total.without_face:
        parts.append(f"{total.without_face} without a face")
    if total.left_out:
        parts.append("left out: " + ", ".join(f"{n} {reason}" for reason, n in total.left_out.most_common()))
    shown.line("; ".join(parts))
    if total.errors:
        rows = [(error["photo"], error["error"]) for error in total.errors[:_ERRORS_SHOWN]]
        shown.table(["not indexed", "why"], rows)
        if len(total.errors) > _ERRORS_SHOWN:
            shown.out.print(f"  and {len(total.errors) - _ERRORS_SHOWN} more (--json lists all)")


@click.command("import")
@click.argument("collection")
@click.argument("archive", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--create/--no-create", default=True, show_default=True, help="Make the collection if missing.")
@click.option("--person-per-folder", is_flag=True, help="Each photo's folder names its person.")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for the job to end.")
@options
def import_zip(
    shown: Shown, collection: str, archive: Path, create: bool, person_per_folder: bool, wait: bool
) -> int:
    """Import a zip of photos into COLLECTION as a job of the server.

    Exit code 3 if some photos could not be read, 1 if no face was found.
    """
    from mien.runtime.cli.jobs import follow, show_job

    fields = {"persons": "by_folder" if person_per_folder else "none"}

    async def work(client: Client) -> dict[str, Any]:
        async with _collection(client, collection, create=create) as kept:
            with archive.open("rb") as file:
                job: dict[str, Any] = await client.call(
                    "POST",
                    f"/v1/collections/{quoted(collection)}/imports",
                    data=fields,
                    files={"file": ("archive.zip", file, "application/zip")},
                )
            # A command that is its own owner must stay until the job has ended.
            if wait or client.served_by is None:
                job = await follow(shown, client, job["id"])
            result = job.get("result") or {}
            kept.worth = job["state"] in _GOING or result.get("failed", 0) < result.get("photos", 0)
        return job

    job = shown.run(work, models=True)
    show_job(shown, job)
    if job["state"] in _GOING:
        return 0
    result = job.get("result") or {}
    if job["state"] != "succeeded" or result.get("failed"):
        return 3
    return 0 if result.get("faces") or result.get("skipped") else 1
