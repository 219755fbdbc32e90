"""`mien index` and `mien import`."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import click

from mien.runtime.cli.frame import Shown, options, quoted
from mien.runtime.cli.photos import upload

if TYPE_CHECKING:
    from mien.runtime.client import Client

_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
_ERRORS_SHOWN = 20
_BUSY_TRIES = 30


@dataclass
class _Sum:
    """What became of the photos."""

    photos: int = 0
    faces: int = 0
    known: int = 0
    without_face: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    errors: list[dict[str, str]] = field(default_factory=list)


def _photos(paths: tuple[Path, ...]) -> Iterator[tuple[Path, str]]:
    """Each photo and its name: the path below the folder that was given, with its sub-folders."""
    for path in paths:
        if not path.is_dir():
            yield path, path.name
            continue
        for folder, inner, names in os.walk(path):
            inner.sort()
            for name in sorted(names):
                file = Path(folder) / name
                if file.suffix.lower() in _SUFFIXES and not name.startswith("."):
                    yield file, file.relative_to(path).as_posix()


def _utf8(name: str) -> str:
    """Names of files need not be UTF-8; what is not is replaced, as the API takes only UTF-8."""
    return os.fsencode(name).decode("utf-8", "replace")[-512:]


async def _known(client: Client, base: str) -> set[tuple[str, str]]:
    """(external id, SHA-256) of every photo that has a face in the collection."""
    return {
        (face["external_image_id"] or "", face["image_sha256"])
        async for face in client.pages(f"{base}/faces", "faces", limit=1000)
    }


async def _ensure(client: Client, collection: str, *, create: bool) -> None:
    from mien.runtime.client import Answered

    try:
        await client.call("GET", f"/v1/collections/{quoted(collection)}")
    except Answered as error:
        if error.status != 404 or not create:
            raise
        await client.call("POST", "/v1/collections", json={"name": collection})


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
    found = list(_photos(paths))
    if not found:
        raise click.ClickException("There is no photo (JPEG, PNG, WebP, BMP, TIFF) there.")
    total = _Sum()
    base = f"/v1/collections/{quoted(collection)}"
    fields = {"max_faces": str(max_faces), "min_quality": str(min_quality)}

    async def work(client: Client) -> None:
        await _ensure(client, collection, create=create)
        known = set() if again else await _known(client, base)
        persons = _Persons(client, base)
        if person_per_folder:
            await persons.load()
        whose = persons if person_per_folder else None
        await _index_all(shown, client, base, found, known, whose, fields, at_once, total)

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
            label = _utf8(name)
            total.photos += 1
            try:
                data = await asyncio.to_thread(path.read_bytes)
                if (label, hashlib.sha256(data).hexdigest()) in known:
                    total.known += 1
                    return
                sent = {**fields, "external_image_id": label}
                folder = _utf8(path.parent.name)
                if persons is not None and folder:
                    sent["person_id"] = await persons.of(folder)
                reply = await _send(client, f"{base}/faces", sent, data)
            except OSError as error:
                total.errors.append({"photo": label, "error": error.strerror or "can't be read"})
            except Answered as error:
                # What is wrong with one photo is noted; what is wrong with all ends the command.
                if error.status not in (413, 415, 422, 504):
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

        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(worker())


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
    parts = [f"{total.photos} photos: {total.faces} faces indexed"]
    if total.known:
        parts.append(f"{total.known} photos already there")
    if total.without_face:
        parts.append(f"{total.without_face} without a face")
    if total.left_out:
        parts.append("left out: " + ", ".join(f"{n} {reason}" for reason, n in total.left_out.most_common()))
    shown.out.print("; ".join(parts), markup=False)
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
    """Import a zip of photos into COLLECTION as a job of the server."""
    from mien.runtime.cli.jobs import follow, show_job

    fields = {"persons": "by_folder" if person_per_folder else "none"}

    async def work(client: Client) -> dict[str, Any]:
        await _ensure(client, collection, create=create)
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
        return job

    job = shown.run(work, models=True)
    show_job(shown, job)
    return 0 if job["state"] in ("queued", "running", "succeeded") else 3
