"""Blobs as files of this machine.

`<root>/<tenant>/<folders of the key>/<2 hex>@/<last part>@`: the "@" is in no key, so that a blob "a"
and a blob "a/b" do not collide; the two hex digits (of the SHA-256 of the last part) spread a folder
with very many blobs over 256.
"""

import asyncio
import contextlib
import functools
import hashlib
import os
import re
import shutil
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO, TypeVar

from mien.backends.blobs.base import BlobInfo
from mien.backends.bounded_threads import BoundedThreads
from mien.kit.errors import BadInput, NotFound, TooLarge, Unavailable
from mien.kit.ids import new_id
from mien.kit.tenant import TenantId

T = TypeVar("T")

MAX_KEY = 512
MAX_PART = 200
"""File systems take names of 255 bytes."""
MARK = "@"

_PART = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


def key_parts(key: str) -> list[str]:
    """The parts of a key; BadInput for one that is not made as `BlobStore` says."""
    parts = key.split("/")
    if len(key) > MAX_KEY or not all(
        _PART.fullmatch(part) and part not in {".", ".."} and len(part) <= MAX_PART for part in parts
    ):
        raise BadInput(
            "A blob's key is made of parts of letters, digits, '.', '_' and '-' with '/' between them, "
            f"at most {MAX_PART} each and {MAX_KEY} in all, and no part is '.' or '..'."
        )
    return parts


class LocalBlobStore:
    """`BlobStore` in the folder `root`, which one process owns. Files are readable by it alone."""

    def __init__(
        self,
        root: Path,
        *,
        max_bytes: int = 1 << 30,
        timeout_s: float = 60.0,
        threads: int = 4,
        waiting: int = 256,
    ) -> None:
        """`max_bytes` of one blob (TooLarge above it); `timeout_s` for each piece of work on the disk."""
        self._root = root
        self._parts = root / f"parts{MARK}"
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._threads = BoundedThreads("The blob store", threads=threads, waiting=waiting)
        # A put makes folders and a delete takes empty ones away: neither while the other is at it.
        self._shape = threading.Lock()
        # What a crash left half-written; this process is the only writer and has not begun.
        shutil.rmtree(self._parts, ignore_errors=True)

    # -- writing -------------------------------------------------------------------------------

    async def put(self, tenant: TenantId, key: str, data: bytes) -> BlobInfo:
        """See `BlobStore.put`. Raises BadInput, TooLarge, Unavailable, TimedOut."""
        path = self._path(tenant, key)
        if len(data) > self._max_bytes:
            raise self._too_large()

        def work() -> BlobInfo:
            name, part = self._begin()
            try:
                with part:
                    part.write(data)
                    _sync(part)
                self._publish(name, path)
            except BaseException:
                name.unlink(missing_ok=True)
                raise
            return BlobInfo(key, len(data), hashlib.sha256(data).hexdigest())

        return await self._run(work)

    async def put_stream(self, tenant: TenantId, key: str, chunks: AsyncIterator[bytes]) -> BlobInfo:
        """See `BlobStore.put_stream`; what `chunks` raises leaves the blob as it was."""
        path = self._path(tenant, key)
        digest, size = hashlib.sha256(), 0
        name, part = await self._run(self._begin)
        try:
            async for chunk in chunks:
                size += len(chunk)
                if size > self._max_bytes:
                    raise self._too_large()
                digest.update(chunk)
                await self._run(functools.partial(part.write, chunk))

            def finish() -> None:
                _sync(part)
                part.close()
                self._publish(name, path)

            await self._run(finish)
        except BaseException:
            part.close()
            name.unlink(missing_ok=True)
            raise
        return BlobInfo(key, size, digest.hexdigest())

    async def delete(self, tenant: TenantId, key: str) -> bool:
        """See `BlobStore.delete`."""
        path = self._path(tenant, key)

        def work() -> bool:
            with self._shape:
                try:
                    path.unlink()
                except (FileNotFoundError, NotADirectoryError):
                    return False
                left = path.parent
                with contextlib.suppress(OSError):  # until one that is not empty
                    while left != self._root:
                        left.rmdir()
                        left = left.parent
            with contextlib.suppress(FileNotFoundError):  # deleted since
                _sync_folder(left)
            return True

        return await self._run(work)

    # -- reading -------------------------------------------------------------------------------

    async def get(self, tenant: TenantId, key: str) -> bytes:
        """See `BlobStore.get`."""
        path = self._path(tenant, key)

        def work() -> bytes:
            try:
                return path.read_bytes()
            except (FileNotFoundError, NotADirectoryError):
                raise NotFound("There is no such blob.") from None

        return await self._run(work)

    async def local_path(self, tenant: TenantId, key: str) -> str | None:
        """See `BlobStore.local_path`; None if there is no such blob."""
        path = self._path(tenant, key)
        return str(path) if await self._run(path.is_file) else None

    async def list(self, tenant: TenantId, prefix: str = "") -> AsyncIterator[str]:
        """See `BlobStore.list`. Blobs put or deleted meanwhile may or may not be listed."""
        folder, slash, _ = prefix.rpartition("/")
        if slash:
            key_parts(folder)
        start = self._root.joinpath(str(tenant), *folder.split("/")) if folder else self._root / str(tenant)
        waiting = [(start, f"{folder}/" if folder else "", True)]
        while waiting:
            path, key, is_folder = waiting.pop()
            if not is_folder:
                yield key
                continue
            entries = await self._run(functools.partial(_entries, path, key, prefix))
            waiting += reversed(entries)

    async def close(self) -> None:
        """Wait for what runs; later calls raise Unavailable."""
        await asyncio.to_thread(self._threads.close)

    # -- within --------------------------------------------------------------------------------

    async def _run(self, work: Callable[[], T]) -> T:
        try:
            return await self._threads.run(self._timeout_s, work)
        except OSError as error:
            raise Unavailable("The blob store's disk does not take or give data.") from error

    def _too_large(self) -> TooLarge:
        return TooLarge(f"A blob has at most {self._max_bytes} bytes.", max_bytes=self._max_bytes)

    def _path(self, tenant: TenantId, key: str) -> Path:
        *folders, last = key_parts(key)
        shard = hashlib.sha256(last.encode()).hexdigest()[:2] + MARK
        return self._root.joinpath(str(tenant), *folders, shard, last + MARK)

    def _begin(self) -> tuple[Path, BinaryIO]:
        self._parts.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self._parts / str(new_id())
        return path, open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")

    def _publish(self, part: Path, path: Path) -> None:
        """Rename a synced part into its place, durably."""
        with self._shape:
            made = [folder for folder in path.parents if self._root in folder.parents and not folder.exists()]
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.replace(part, path)
        for folder in (path.parent, *(folder.parent for folder in made)):
            with contextlib.suppress(FileNotFoundError):  # deleted since
                _sync_folder(folder)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _entries(folder: Path, key: str, prefix: str) -> list[tuple[Path, str, bool]]:
    """What lies in a folder: (path, key so far, whether a folder), ascending by key, only what can
    begin with `prefix`. A folder's key ends in "/", which sorts as the keys below it do."""
    found: list[tuple[Path, str, bool]] = []
    for entry in _scan(folder):
        if not entry.name.endswith(MARK):
            found.append((folder / entry.name, f"{key}{entry.name}/", True))
            continue
        found += [
            (folder / entry.name / blob.name, key + blob.name.removesuffix(MARK), False)
            for blob in _scan(folder / entry.name)
        ]
    kept = [
        (path, name, is_folder)
        for path, name, is_folder in found
        if name.startswith(prefix) or (is_folder and prefix.startswith(name))
    ]
    return sorted(kept, key=lambda item: item[1])


def _scan(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except (FileNotFoundError, NotADirectoryError):
        return []
