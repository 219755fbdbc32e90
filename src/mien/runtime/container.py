"""Settings to services: the only place that names adapters."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from typing import assert_never

import structlog

from mien.backends.blobs.base import BlobStore
from mien.backends.bus.base import EventBus
from mien.backends.pipelines.base import CacheStats, Pipelines
from mien.backends.pipelines.cached import CachedPipelines
from mien.backends.pipelines.threads import Analyzes, ThreadPipelines
from mien.backends.queue.base import JobQueue
from mien.backends.sql.base import Database
from mien.backends.vectors.base import VectorIndex
from mien.features.collections.limits import CollectionLimits, ImportLimits
from mien.features.collections.service import CollectionsService
from mien.features.jobs.idempotency import IdempotencyService
from mien.features.jobs.service import JobLimits, JobsService
from mien.features.tenants.service import TenantsService
from mien.kit.errors import MienError
from mien.kit.tenant import TenantId
from mien.runtime.fetch import Fetching, pack_in_use
from mien.runtime.settings import Settings
from mien.vision.calibration import Calibrations

log = structlog.get_logger("mien.container")

_MEGA = 1_000_000
_SWEEP_S = 3600.0


@dataclass(frozen=True, slots=True)
class Services:
    """Everything that runs in this process; `close` ends it in the reverse order."""

    settings: Settings
    database: Database
    tenants: TenantsService
    jobs: JobsService
    idempotency: IdempotencyService
    collections: CollectionsService
    pipelines: Pipelines
    vectors: VectorIndex
    blobs: BlobStore
    bus: EventBus
    tenant_id: TenantId
    first_key: str | None
    """The administrator's key, if this start made it."""
    cache_stats: Callable[[], CacheStats | None]
    missing: Callable[[], Awaitable[dict[str, str]]]
    close: Callable[[], Awaitable[None]]


async def build(settings: Settings, *, preload: bool = True, first_key: bool = True) -> Services:
    """Open everything, bring the schema up to date, start jobs and catching up.

    Raises SetupError. With `preload` models are loaded behind (`missing` tells when they are), so that
    a server answers at once, and packs that are missing are fetched; without it they are loaded when
    first used. A request that needs them waits for them. Without `first_key` a new tenant stays
    without a key (a command needs none, and its output may end in a log): the first server makes it.
    """
    async with AsyncExitStack() as stack:
        database = _database(settings)
        stack.push_async_callback(database.close)
        await database.migrate()

        tenants = TenantsService(database)
        stack.push_async_callback(tenants.close)
        tenant_id, made_key = await tenants.bootstrap(with_key=first_key)

        bus = _bus(settings)
        stack.push_async_callback(bus.close)
        blobs = _blobs(settings)
        stack.push_async_callback(blobs.close)
        vectors = _vectors(settings)
        stack.push_async_callback(vectors.close)

        fetching = Fetching(settings)
        stack.push_async_callback(fetching.close)
        threads = _pipelines(settings, fetching)
        cached = _cached(settings, threads)
        pipelines: Pipelines = cached if cached is not None else threads
        stack.push_async_callback(pipelines.close)

        jobs = JobsService(database, _queue(settings), bus, limits=JobLimits(sweep_s=settings.jobs.sweep_s))
        keep = timedelta(hours=settings.limits.idempotency_hours)
        idempotency = IdempotencyService(database, keep=keep)
        collections = CollectionsService(
            database,
            vectors,
            pipelines,
            jobs,
            blobs,
            bus,
            Calibrations(settings.data_dir / "calibration"),
            limits=_limits(settings),
        )
        stack.push_async_callback(collections.close)
        await collections.start()
        # An embedded folder has one owner process: every job that "runs" was left by a dead one.
        await jobs.start(alone=True)
        stack.push_async_callback(jobs.stop)
        sweeper = asyncio.create_task(_sweep(idempotency))
        stack.callback(sweeper.cancel)
        if preload:

            async def load() -> None:
                await threads.open()
                # What is loaded by now stays: without it a full collection stops the loop for 100 ms.
                gc.collect()
                gc.freeze()

            fetching.begin(load)

        async def missing() -> dict[str, str]:
            parts = {} if threads.is_open else fetching.missing()
            try:
                await database.ping()
            except MienError as error:
                parts["database"] = error.message
            return parts

        return Services(
            settings=settings,
            database=database,
            tenants=tenants,
            jobs=jobs,
            idempotency=idempotency,
            collections=collections,
            pipelines=pipelines,
            vectors=vectors,
            blobs=blobs,
            bus=bus,
            tenant_id=tenant_id,
            first_key=made_key,
            cache_stats=lambda: None if cached is None else cached.cache_stats(),
            missing=missing,
            close=stack.pop_all().aclose,
        )
    raise AssertionError("unreachable")  # an exit stack swallows nothing here


async def _sweep(idempotency: IdempotencyService) -> None:
    """Forget expired idempotency keys, every hour."""
    while True:
        await asyncio.sleep(_SWEEP_S)
        try:
            await idempotency.sweep()
        except MienError as error:
            log.warning("idempotency keys could not be swept", reason=error.message)


def _database(settings: Settings) -> Database:
    match settings.backends.sql:
        case "sqlite":
            from mien.backends.sql.sqlite import SqliteDatabase

            return SqliteDatabase(settings.db_path)
        case unknown:
            assert_never(unknown)


def _vectors(settings: Settings) -> VectorIndex:
    match settings.backends.vectors:
        case "local":
            from mien.backends.vectors.local import LocalVectorIndex

            return LocalVectorIndex(settings.data_dir / "vectors")
        case unknown:
            assert_never(unknown)


def _blobs(settings: Settings) -> BlobStore:
    match settings.backends.blobs:
        case "local":
            from mien.backends.blobs.local import LocalBlobStore

            most = int(settings.limits.import_mb * _MEGA)
            return LocalBlobStore(settings.data_dir / "blobs", max_bytes=most)
        case unknown:
            assert_never(unknown)


def _bus(settings: Settings) -> EventBus:
    match settings.backends.bus:
        case "memory":
            from mien.backends.bus.memory import MemoryEventBus

            return MemoryEventBus()
        case unknown:
            assert_never(unknown)


def _queue(settings: Settings) -> JobQueue:
    match settings.backends.queue:
        case "inline":
            from mien.backends.queue.inline import InlineJobQueue

            return InlineJobQueue(workers=settings.jobs.workers)
        case unknown:
            assert_never(unknown)


def _pipelines(settings: Settings, fetching: Fetching) -> ThreadPipelines:
    bounds = settings.pipelines
    match settings.backends.pipelines:
        case "threads":

            def opener() -> Analyzes:
                return fetching.open_analyzer()

            return ThreadPipelines(
                opener,
                pack_in_use(settings).space,
                threads=settings.pipeline_threads,
                waiting=bounds.waiting,
                wait_s=bounds.wait_s,
                run_s=bounds.run_s,
            )
        case unknown:
            assert_never(unknown)


def _cached(settings: Settings, inner: Pipelines) -> CachedPipelines | None:
    bounds = settings.pipelines
    if not bounds.cache_entries or not bounds.cache_mb:
        return None
    return CachedPipelines(inner, entries=bounds.cache_entries, max_bytes=bounds.cache_mb * _MEGA)


def _limits(settings: Settings) -> CollectionLimits:
    return CollectionLimits(
        import_roots=settings.import_roots,
        photo_bytes=int(settings.limits.photo_mb * _MEGA),
        imports=ImportLimits(archive_bytes=int(settings.limits.import_mb * _MEGA)),
    )
