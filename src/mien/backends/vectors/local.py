"""The embedded vector index: faiss in this process, one index and one file per collection."""

import asyncio
import functools
import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from mien.backends.bounded_threads import BoundedThreads
from mien.backends.vectors.base import Change, CollectionRef, Hit, IndexStats
from mien.backends.vectors.local_index import IndexLimits, checked_vectors
from mien.backends.vectors.local_open import OpenIndexes
from mien.kit.errors import BadInput
from mien.kit.tenant import TenantId

log = logging.getLogger(__name__)

MAX_QUERIES = 100
MAX_HITS = 5_000


@dataclass(frozen=True, slots=True)
class LocalVectorLimits:
    """`search_threads` searches run side by side (one thread each); `waiting` more may wait for one,
    the next is refused with Busy. `max_open` indexes are kept in memory."""

    search_threads: int = field(default_factory=lambda: os.cpu_count() or 1)
    waiting: int = 256
    search_timeout_s: float = 10.0
    change_timeout_s: float = 300.0
    max_open: int = 64
    housekeeping_s: float = 1.0
    index: IndexLimits = field(default_factory=IndexLimits)


class LocalVectorIndex:
    """`VectorIndex` in the folder `root` (`<tenant>/<collection>/faces.idx`), which one process owns.

    The files are a cache of the database: what a crash loses is applied again, a damaged file counts
    as applied 0. Memory and disk per face: 2 * D + 8 bytes up to `flat_rows` faces, 2.25 * D + 16
    above (304 bytes at 128-D, 1,168 at 512-D), and both for the time of a rebuild.
    """

    def __init__(self, root: Path, limits: LocalVectorLimits | None = None) -> None:
        self._limits = limits or LocalVectorLimits()
        self._open = OpenIndexes(root, self._limits.index, self._limits.max_open, self._keep_house)
        waiting = self._limits.waiting
        self._searching = BoundedThreads(
            "The vector search", threads=self._limits.search_threads, waiting=waiting
        )
        self._changing = BoundedThreads("The vector index", threads=2, waiting=waiting)
        self._closing = threading.Event()
        self._wake = threading.Event()
        self._housekeeper: threading.Thread | None = None
        self._starting = threading.Lock()

    async def applied(self, tenant: TenantId, collection: CollectionRef) -> int:
        """See `VectorIndex.applied`."""
        here = None if self._closing.is_set() else self._open.peek(tenant, collection)
        if here is not None:
            return here.applied

        def work() -> int:
            with self._open.use(tenant, collection) as index:
                return index.applied

        return await self._changing.run(self._limits.change_timeout_s, work)

    async def apply(self, tenant: TenantId, collection: CollectionRef, changes: Sequence[Change]) -> int:
        """See `VectorIndex.apply`."""

        def work() -> int:
            with self._open.use(tenant, collection) as index:
                return index.apply(changes)

        number = await self._changing.run(self._limits.change_timeout_s, work)
        self._keep_house()
        return number

    async def search(
        self,
        tenant: TenantId,
        collection: CollectionRef,
        queries: NDArray[np.float32],
        k: int,
        *,
        allow: NDArray[np.int64] | None = None,
        min_score: float = -1.0,
    ) -> list[list[Hit]]:
        """See `VectorIndex.search`; at most 100 queries and 5,000 hits for each. Raises BadInput."""
        if not 1 <= k <= MAX_HITS:
            raise BadInput(f"A search gives 1 to {MAX_HITS} hits, not {k}.")
        if len(queries) > MAX_QUERIES:
            raise BadInput(f"A search takes at most {MAX_QUERIES} embeddings, not {len(queries)}.")
        if np.isnan(min_score):
            raise BadInput("The least score of a search is a number, not NaN.")
        queries = checked_vectors(queries, collection.dim)

        def work() -> list[list[Hit]]:
            labels = None if allow is None else _ascending(allow)
            with self._open.use(tenant, collection) as index:
                return index.search(queries, k, labels, min_score)

        return await self._searching.run(self._limits.search_timeout_s, work)

    async def replace(
        self, tenant: TenantId, collection: CollectionRef, changes: Sequence[Change], applied: int
    ) -> None:
        """See `VectorIndex.replace`."""

        def work() -> None:
            with self._open.use(tenant, collection) as index:
                index.replace(changes, applied)

        await self._changing.run(self._limits.change_timeout_s, work)
        self._keep_house()

    async def drop(self, tenant: TenantId, collection: UUID) -> None:
        """See `VectorIndex.drop`."""
        work = functools.partial(self._open.drop, tenant, collection)
        await self._changing.run(self._limits.change_timeout_s, work)

    async def stats(self, tenant: TenantId, collection: CollectionRef) -> IndexStats:
        """See `VectorIndex.stats`; `kind` is fp16-flat or pq4-fastscan+fp16."""

        def work() -> IndexStats:
            with self._open.use(tenant, collection) as index:
                return index.stats()

        return await self._changing.run(self._limits.change_timeout_s, work)

    async def flush(self) -> None:
        """See `VectorIndex.flush`."""
        await self._changing.run(self._limits.change_timeout_s, self._open.save_all)

    async def settle(self) -> None:
        """Do now what housekeeping would do in its time: rebuilds that are due, then save."""

        def work() -> None:
            while self._open.maintain(self._closing.is_set):
                pass
            self._open.save_all()

        await self._changing.run(self._limits.change_timeout_s, work)

    async def close(self) -> None:
        """See `VectorIndex.close`. A second time does nothing; other calls raise Unavailable after it."""
        if not self._closing.is_set():
            self._closing.set()
            self._wake.set()
            await asyncio.to_thread(self._close)

    def _close(self) -> None:
        self._searching.close()
        self._changing.close()
        with self._starting:
            housekeeper = self._housekeeper
        if housekeeper is not None:
            housekeeper.join()
        self._open.save_all()

    def _keep_house(self) -> None:
        """Start the housekeeping thread with the first change, and wake it."""
        with self._starting:
            if self._housekeeper is None and not self._closing.is_set():
                self._housekeeper = threading.Thread(
                    target=self._housekeeping, name="vectors-housekeeping", daemon=True
                )
                self._housekeeper.start()
        self._wake.set()

    def _housekeeping(self) -> None:
        """Rebuild and save what is due: looks every `housekeeping_s` while anything is unsaved, and
        else sleeps until the next change."""
        pause = self._limits.housekeeping_s
        while not self._closing.is_set():
            self._wake.wait()
            self._wake.clear()
            while not self._closing.wait(pause):
                try:
                    self._open.maintain(self._closing.is_set)
                    pause = self._limits.housekeeping_s
                    if not self._open.unsaved():
                        break
                except Exception:  # out of memory while rebuilding: the old rows serve on
                    log.exception("Housekeeping of vector indexes failed; it is tried again in a minute")
                    pause = 60.0


def _ascending(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """`labels` ascending and unique, which most callers' are already."""
    labels = np.asarray(labels, np.int64).reshape(-1)
    return labels if (np.diff(labels) > 0).all() else np.unique(labels)
