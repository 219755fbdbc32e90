"""Bulk imports: an archive or a folder of photos becomes faces, as a job with progress.

A job may be killed and taken up again at any point: a photo whose content is in the collection under
the same path already is skipped, so that nothing is stored twice.
"""

import asyncio
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any, Literal
from uuid import UUID

from mien.backends.blobs.base import BlobStore
from mien.backends.sql.base import Database
from mien.features.collections import archives, checks
from mien.features.collections.faces import Faces
from mien.features.collections.limits import CollectionLimits
from mien.features.collections.persons import Persons
from mien.features.collections.records import Collection, IndexRequest
from mien.features.collections.repository import CollectionRepository
from mien.features.collections.uploads import Spool
from mien.features.jobs.service import Job, JobContext, JobsService
from mien.kit.errors import BadInput, Busy, Forbidden, MienError, NotFound, TimedOut, TooLarge
from mien.kit.ids import new_id
from mien.kit.tenant import TenantId

KIND = "collections.import"


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """How to import. `index.external_image_id` and `index.person_id` are set per photo."""

    index: IndexRequest
    persons: Literal["none", "by_folder"] = "none"


@dataclass(slots=True)
class _Tally:
    """What became of the photos so far; `errors` is bounded."""

    errors_kept: int
    done: int = 0
    indexed: int = 0
    faces: int = 0
    without_faces: int = 0
    unindexed: int = 0
    skipped: int = 0
    failed: int = 0
    errors: list[dict[str, str]] = field(default_factory=list)

    def fail(self, name: str, reason: str) -> None:
        self.failed += 1
        if len(self.errors) < self.errors_kept:
            self.errors.append({"name": name, "reason": reason})

    def result(self, total: int) -> dict[str, Any]:
        return {
            "photos": total,
            "indexed": self.indexed,
            "faces": self.faces,
            "without_faces": self.without_faces,
            "unindexed_faces": self.unindexed,
            "skipped": self.skipped,
            "failed": self.failed,
            "errors": self.errors,
        }


class Imports:
    """Starts imports and, as a job's handler, carries them out."""

    def __init__(
        self,
        database: Database,
        blobs: BlobStore,
        jobs: JobsService,
        faces: Faces,
        persons: Persons,
        limits: CollectionLimits,
    ) -> None:
        self._database = database
        self._blobs = blobs
        self._jobs = jobs
        self._faces = faces
        self._persons = persons
        self._limits = limits

    def register(self) -> None:
        """Tell the jobs who runs imports."""
        self._jobs.register(KIND, self.run)

    # --- starting ----------------------------------------------------------------------------------

    async def from_archive(self, tenant: TenantId, name: str, archive: Spool, request: ImportRequest) -> Job:
        """Keep a zip archive and queue its import. Nothing is kept when the archive is refused."""
        collection = await self._collection(tenant, name)
        payload = self._payload(collection, request)
        await asyncio.to_thread(archives.check, archive.file, self._limits)
        key = f"imports/{collection.id}/{new_id()}.zip"
        await self._blobs.put_stream(tenant, key, archive.chunks())
        try:
            async with self._database.write(tenant) as unit:
                return await self._jobs.enqueue(unit, tenant, KIND, {**payload, "archive": key})
        except BaseException:
            await self._blobs.delete(tenant, key)
            raise

    async def from_folder(self, tenant: TenantId, name: str, folder: str, request: ImportRequest) -> Job:
        """Queue the import of a folder of this server; Forbidden unless it lies below an import root."""
        collection = await self._collection(tenant, name)
        payload = self._payload(collection, request)
        checked = await asyncio.to_thread(self._allowed, folder)
        async with self._database.write(tenant) as unit:
            return await self._jobs.enqueue(unit, tenant, KIND, {**payload, "folder": str(checked)})

    def _allowed(self, folder: str) -> Path:
        refused = Forbidden(
            "The server reads no such folder. Its operator allows folders with the import_roots setting; "
            "a zip archive can always be sent."
        )
        checks.text(folder, "folder", 4096, empty=False)
        path = Path(folder).resolve()
        if not Path(folder).is_absolute() or not any(
            path.is_relative_to(root.resolve()) for root in self._limits.import_roots
        ):
            raise refused
        if not path.is_dir():
            raise BadInput("The folder is not there, or is no folder.", field="folder")
        return path

    async def _collection(self, tenant: TenantId, name: str) -> Collection:
        async with self._database.read(tenant) as unit:
            return await CollectionRepository(unit.session, tenant).get(name)

    def _payload(self, collection: Collection, request: ImportRequest) -> dict[str, Any]:
        index = request.index
        return {
            "collection": collection.name,
            "collection_id": str(collection.id),
            "persons": request.persons,
            "metadata": checks.facts(index.facts, self._limits),
            "person_id": None if index.person_id is None else str(index.person_id),
            "max_faces": index.max_faces,
            "min_quality": index.min_quality,
            "min_confidence": index.min_confidence,
            "attributes": sorted(index.attributes),
            "thorough": index.thorough,
        }

    # --- carrying out ------------------------------------------------------------------------------

    async def run(self, context: JobContext) -> dict[str, Any]:
        """The job's handler: photos at most `at_once` at a time; returns the counts and faults."""
        payload, tenant = context.payload, context.tenant
        try:
            collection = await self._collection(tenant, payload["collection"])
            if str(collection.id) != payload["collection_id"]:
                raise NotFound("The collection was deleted, and another of its name made, since.")
        except NotFound:
            if "archive" in payload:
                await self._blobs.delete(tenant, payload["archive"])
            raise
        if "folder" in payload:
            folder = await asyncio.to_thread(self._allowed, payload["folder"])
            entries = await asyncio.to_thread(lambda: list(archives.folder_entries(folder, self._limits)))
            return await self._index_all(context, entries, None)
        async with self._opened(tenant, payload["archive"]) as archive:
            entries = await asyncio.to_thread(lambda: list(archives.entries(archive, self._limits)))
            result = await self._index_all(context, entries, archive)
        if not context.cancelled:  # a cancelled import can be tried again, and goes on where it was
            await self._blobs.delete(tenant, payload["archive"])
        return result

    @asynccontextmanager
    async def _opened(self, tenant: TenantId, key: str) -> Any:
        path = await self._blobs.local_path(tenant, key)
        with tempfile.TemporaryFile() as spare:
            source: str | IO[bytes] = spare
            if path is not None:
                source = path
            else:
                data = await self._blobs.get(tenant, key)
                await asyncio.to_thread(spare.write, data)
                del data
            try:
                archive = await asyncio.to_thread(zipfile.ZipFile, source)
            except (zipfile.BadZipFile, OSError):
                raise NotFound("The archive of this import is no longer there; send it again.") from None
            with archive:
                yield archive

    async def _index_all(
        self, context: JobContext, entries: list[archives.Entry], archive: zipfile.ZipFile | None
    ) -> dict[str, Any]:
        tally = _Tally(self._limits.imports.errors_kept)
        waiting = iter(entries)
        persons: dict[str, asyncio.Task[UUID]] = {}
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(self._limits.imports.at_once):
                    group.create_task(self._worker(context, waiting, len(entries), archive, tally, persons))
        except BaseExceptionGroup as errors:
            # One cause is enough to tell; an error of ours before any other.
            raise next(
                (e for e in errors.exceptions if isinstance(e, MienError)), errors.exceptions[0]
            ) from None
        return tally.result(len(entries))

    async def _worker(
        self,
        context: JobContext,
        waiting: Iterator[archives.Entry],
        total: int,
        archive: zipfile.ZipFile | None,
        tally: _Tally,
        persons: dict[str, asyncio.Task[UUID]],
    ) -> None:
        for entry in waiting:
            if context.cancelled:
                return
            if entry.fault is not None:
                tally.fail(entry.name, entry.fault)
            else:
                await self._index_one(context, entry, archive, tally, persons)
            tally.done += 1
            await context.progress(tally.done, total, f"{tally.faces} faces")

    async def _index_one(
        self,
        context: JobContext,
        entry: archives.Entry,
        archive: zipfile.ZipFile | None,
        tally: _Tally,
        persons: dict[str, asyncio.Task[UUID]],
    ) -> None:
        payload = context.payload
        try:
            data = await asyncio.to_thread(self._bytes, entry, archive)
            request = IndexRequest(
                external_image_id=entry.name,
                person_id=await self._person(context, entry, persons),
                facts=payload["metadata"],
                max_faces=payload["max_faces"],
                min_quality=payload["min_quality"],
                min_confidence=payload["min_confidence"],
                attributes=frozenset(payload["attributes"]),
                thorough=payload["thorough"],
                skip_known=True,
            )
            done = await self._patiently(context.tenant, payload["collection"], data, request)
        except (BadInput, TooLarge, TimedOut) as error:
            tally.fail(entry.name, error.message)
            return
        if done.skipped:
            tally.skipped += 1
        elif done.faces:
            tally.indexed += 1
        else:
            tally.without_faces += 1
        tally.faces += len(done.faces)
        tally.unindexed += len(done.unindexed)

    def _bytes(self, entry: archives.Entry, archive: zipfile.ZipFile | None) -> bytes:
        if isinstance(entry.handle, Path):
            try:
                with entry.handle.open("rb") as file:
                    data = file.read(self._limits.photo_bytes + 1)
            except OSError:
                raise BadInput("it can't be read") from None
            if len(data) > self._limits.photo_bytes:
                raise TooLarge(f"it is over {self._limits.photo_bytes} bytes")
            return data
        assert archive is not None
        return archives.read(archive, entry.handle, self._limits)

    async def _person(
        self, context: JobContext, entry: archives.Entry, persons: dict[str, asyncio.Task[UUID]]
    ) -> UUID | None:
        payload = context.payload
        if payload["persons"] != "by_folder":
            return None if payload["person_id"] is None else UUID(payload["person_id"])
        folder = archives.parent_of(entry.name)
        if folder is None:
            return None
        if folder not in persons:
            persons[folder] = asyncio.create_task(
                self._persons.ensure(context.tenant, payload["collection"], folder, folder)
            )
        return await persons[folder]

    async def _patiently(self, tenant: TenantId, collection: str, data: bytes, request: IndexRequest) -> Any:
        """Index a photo; waits for a pipeline, as an import is in no hurry."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._limits.imports.busy_wait_s
        while True:
            try:
                return await self._faces.index(tenant, collection, data, replace(request))
            except Busy as busy:
                if loop.time() + busy.retry_after_s > deadline:
                    raise
                await asyncio.sleep(busy.retry_after_s)
