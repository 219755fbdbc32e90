"""Jobs on a real database and queue, with limits short enough for a test."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mien.backends.bus.memory import MemoryEventBus
from mien.backends.queue.inline import InlineJobQueue
from mien.backends.sql.sqlite import SqliteDatabase
from mien.features.jobs.service import Job, JobLimits, JobsService
from mien.features.tenants.service import TenantsService
from mien.features.tenants.tables import TenantRow
from mien.kit.clock import utc_now
from mien.kit.ids import new_id
from mien.kit.tenant import TenantId

LIMITS = JobLimits(beat_s=0.02, progress_s=0.5, sweep_s=0.02, backoff_s=0.01, payload_bytes=2000)


class SetClock:
    """A clock that tests move."""

    def __init__(self) -> None:
        self.now = utc_now()

    def __call__(self) -> datetime:
        return self.now

    def forward(self, **kwargs: float) -> None:
        self.now += timedelta(**kwargs)


@dataclass
class Office:
    """One process: its services on a database that may be shared."""

    database: SqliteDatabase
    tenant: TenantId
    other: TenantId
    bus: MemoryEventBus
    jobs: JobsService

    async def enqueue(
        self, kind: str, payload: dict[str, Any] | None = None, *, max_attempts: int = 3
    ) -> Job:
        async with self.database.write(self.tenant) as unit:
            return await self.jobs.enqueue(unit, self.tenant, kind, payload or {}, max_attempts=max_attempts)

    async def ended(self, job: Job) -> Job:
        """The job once it has ended. Its end is told on the bus after its commit."""
        async with self.bus.subscribe(self.tenant, ["jobs"]) as events:
            while (found := await self.jobs.get(self.tenant, job.id)).finished_at is None:
                await anext(events)
        return found


async def open_office(
    path: Path, *, limits: JobLimits = LIMITS, clock: Any = utc_now, workers: int = 2
) -> Office:
    database = SqliteDatabase(path / "mien.db")
    await database.migrate()
    tenant, _ = await TenantsService(database).bootstrap()
    other = TenantId(new_id())
    async with database.across_tenants("bootstrap", write=True) as unit:
        unit.session.add(TenantRow(id=other, slug=other.hex, name="Other", created_at=utc_now()))
    bus = MemoryEventBus()
    jobs = JobsService(
        database, InlineJobQueue(workers=workers), bus, limits=limits, clock=clock, jitter=lambda: 0.0
    )
    return Office(database, tenant, other, bus, jobs)


async def close_office(office: Office) -> None:
    await office.jobs.stop(timeout_s=2.0)
    await office.bus.close()
    await office.database.close()


@pytest.fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    """Not started yet: a test registers its handlers first."""
    made = await open_office(tmp_path)
    yield made
    await close_office(made)
