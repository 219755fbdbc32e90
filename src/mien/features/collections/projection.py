"""Brings the vector index up to the changes of a collection.

The database is the truth; an index is a projection of a collection's numbered changes. After each
commit it is told (`notify`), and a search makes sure (`ensure`) that everything committed before it
began is in. One catch-up runs per collection at a time, under that collection's lock.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

from mien.backends.sql.base import Database
from mien.backends.vectors.base import Change, CollectionRef, VectorIndex
from mien.features.collections.limits import CollectionLimits
from mien.features.collections.records import Collection
from mien.features.collections.repository import CollectionRepository, change_heads
from mien.features.collections.repository_search import vectors_after
from mien.kit.errors import MienError, Unavailable
from mien.kit.tenant import TenantId

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Work:
    """The state of one collection's projection while somebody is at it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0
    task: asyncio.Task[None] | None = None
    again: bool = False


class Projection:
    """Applies changes to the index, in order, in bounded batches."""

    def __init__(self, database: Database, vectors: VectorIndex, limits: CollectionLimits) -> None:
        self._database = database
        self._vectors = vectors
        self._limits = limits
        self._work: dict[tuple[TenantId, UUID], _Work] = {}
        self._places = asyncio.Semaphore(limits.catch_ups_at_once)
        self._closed = False
        # Heads as this process found them, of collections whose index it has not looked at yet. One that
        # is ahead of that is of another past of the database (a restored backup), and its labels may be
        # given to other faces now: it is trusted with nothing before it was compared.
        self._unproven: dict[tuple[TenantId, UUID], int] = {}

    # --- for others ------------------------------------------------------------------------------

    async def start(self) -> None:
        """Begin to catch up with what a crash or a restored backup left; before anything is written."""
        async with self._database.across_tenants("project") as unit:
            heads = await change_heads(unit.session)
        self._unproven = {(TenantId(tenant), collection): head for tenant, collection, head in heads}
        for (tenant, collection), head in list(self._unproven.items()):
            if head > 0:
                await self.notify(tenant, collection)

    async def notify(self, tenant: TenantId, collection: UUID) -> None:
        """Say that the collection has new changes; returns at once."""
        if not self._closed:
            self._begin(tenant, collection)

    async def ensure(self, tenant: TenantId, ref: CollectionRef, head: int) -> None:
        """Return when the index has applied change `head`.

        Unavailable after `catch_up_s`, or when the store does not answer. The work goes on behind.
        """
        if await self._has(tenant, ref, head):
            return
        if self._closed:
            raise Unavailable("The server is stopping; try again.")
        task = self._begin(tenant, ref.id)
        done, _ = await asyncio.wait({task}, timeout=self._limits.catch_up_s)
        if not done:
            raise Unavailable(
                "The collection's index is still taking in its newest faces; try again in a moment.",
                retry_after_s=2.0,
            )
        if task.cancelled():
            raise Unavailable("The server is stopping; try again.")
        task.result()
        if not await self._has(tenant, ref, head):
            raise Unavailable("The collection was deleted, or its index lost, meanwhile; try again.")

    async def _has(self, tenant: TenantId, ref: CollectionRef, head: int) -> bool:
        proven = (tenant, ref.id) not in self._unproven
        return proven and await self._vectors.applied(tenant, ref) >= head

    async def rebuild(self, tenant: TenantId, collection: UUID) -> int:
        """Build the index anew from the live faces; returns how many. For maintenance."""
        async with self.exclusive(tenant, collection), self._places:
            current = await self._read(tenant, collection)
            return 0 if current is None else await self._rebuild(tenant, current)

    async def drop(self, tenant: TenantId, collection: UUID) -> None:
        """Forget the index of a deleted collection, once no catch-up is at it."""
        async with self.exclusive(tenant, collection):
            self._unproven.pop((tenant, collection), None)
            await self._vectors.drop(tenant, collection)

    @asynccontextmanager
    async def exclusive(self, tenant: TenantId, collection: UUID) -> AsyncIterator[None]:
        """The collection's lock within this process; catch-ups and rebuilds take it, too."""
        work = self._work.setdefault((tenant, collection), _Work())
        work.users += 1
        try:
            async with work.lock:
                yield
        finally:
            work.users -= 1
            self._forget(tenant, collection, work)

    async def close(self, timeout_s: float = 10.0) -> None:
        """Take no more, and wait for what is under way. What is left is caught up at the next start."""
        self._closed = True
        tasks = {work.task for work in self._work.values() if work.task is not None}
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout_s)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    # --- catching up -----------------------------------------------------------------------------

    def _begin(self, tenant: TenantId, collection: UUID) -> asyncio.Task[None]:
        """The running catch-up, told to look once more, or a new one."""
        work = self._work.setdefault((tenant, collection), _Work())
        if work.task is not None and not work.task.done():
            work.again = True
            return work.task
        work.again = True
        work.task = asyncio.create_task(self._run(tenant, collection, work))
        work.task.add_done_callback(lambda task: self._ended(tenant, collection, work, task))
        return work.task

    def _ended(self, tenant: TenantId, collection: UUID, work: _Work, task: asyncio.Task[None]) -> None:
        if work.task is task:
            work.task = None
        self._forget(tenant, collection, work)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, MienError):
            log.warning("collection %s could not be caught up: %s", collection, error.message)
        elif error is not None:
            log.error("collection %s could not be caught up", collection, exc_info=error)

    def _forget(self, tenant: TenantId, collection: UUID, work: _Work) -> None:
        if work.users == 0 and work.task is None and self._work.get((tenant, collection)) is work:
            del self._work[(tenant, collection)]

    async def _run(self, tenant: TenantId, collection: UUID, work: _Work) -> None:
        while work.again:
            work.again = False
            async with self.exclusive(tenant, collection), self._places:
                await self._catch_up(tenant, collection)

    async def _read(self, tenant: TenantId, collection: UUID) -> Collection | None:
        async with self._database.read(tenant) as unit:
            return await CollectionRepository(unit.session, tenant).by_id(collection)

    async def _catch_up(self, tenant: TenantId, collection: UUID) -> None:
        first = await self._read(tenant, collection)
        if first is None:
            return
        # The index is asked before the head is read: changes only grow, so that an index ahead of
        # the head can only mean that the database is an older one (a restored backup).
        applied = await self._vectors.applied(tenant, first.ref)
        current = await self._read(tenant, collection)
        if current is None:
            return
        behind = current.change_head - applied
        ahead = behind < 0 or applied > self._unproven.get((tenant, collection), applied)
        lost = ahead or applied < current.change_tail
        if lost or (applied == 0 and behind > self._limits.rebuild_over):
            await self._rebuild(tenant, current)
            applied = current.change_head
        self._unproven.pop((tenant, collection), None)
        while applied < current.change_head:
            async with self._database.read(tenant) as unit:
                changes = await CollectionRepository(unit.session, tenant).changes_after(
                    collection, applied, self._limits.change_batch
                )
            if not changes:
                break  # deleted meanwhile
            applied = await self._vectors.apply(tenant, current.ref, changes)
        if current.change_head - current.change_tail > 2 * self._limits.changes_kept:
            await self._prune(tenant, current)

    async def _rebuild(self, tenant: TenantId, current: Collection) -> int:
        # Page by page, so that no transaction is long. A face deleted after the head was read may be
        # missing here; its tombstone then does nothing.
        adds: list[Change] = []
        head, limit = current.change_head, self._limits.rebuild_page
        while True:
            after = adds[-1].label if adds else 0
            page = await self._database.query(
                tenant,
                partial(
                    vectors_after,
                    tenant=tenant,
                    collection=current.id,
                    label=after,
                    head=head,
                    limit=limit,
                ),
            )
            adds += page
            if len(page) < limit:
                break
        await self._vectors.replace(tenant, current.ref, adds, current.change_head)
        self._unproven.pop((tenant, current.id), None)
        return len(adds)

    async def _prune(self, tenant: TenantId, current: Collection) -> None:
        async with self._database.write(tenant) as unit:
            await CollectionRepository(unit.session, tenant).prune(
                current.id, current.change_head - self._limits.changes_kept
            )
