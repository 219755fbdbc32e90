"""Jobs: rows of work, and the running of them.

A row is written in the transaction of the data that it belongs to. Whoever drains the queue claims a
row (one claimer wins), beats while it works, and ends it. A job may run more than once (a process
that fell silent is taken over), so a handler does each piece of its work idempotently.
"""

import asyncio
import contextlib
import json
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, cast
from uuid import UUID

from mien.backends.bus.base import Event, EventBus
from mien.backends.queue.base import JobQueue
from mien.backends.sql.base import Database, UnitOfWork
from mien.features.jobs import repository
from mien.features.jobs.tables import JobRow
from mien.kit.clock import Clock, utc_now
from mien.kit.errors import BadInput, Busy, Conflict, Forbidden, MienError, NotFound
from mien.kit.ids import new_id
from mien.kit.paging import Page, decode_cursor, encode_cursor
from mien.kit.tenant import TenantId

JobState = Literal["queued", "running", "succeeded", "failed", "parked", "cancelled"]
STATES: tuple[JobState, ...] = ("queued", "running", "succeeded", "failed", "parked", "cancelled")
ENDED: frozenset[str] = frozenset({"succeeded", "failed", "parked", "cancelled"})

_TIDY_BATCH = 500
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Job:
    """`failed`: its input can't work, so it was not tried again; `parked`: tried too often."""

    id: UUID
    kind: str
    state: JobState
    result: Mapping[str, Any] | None
    error: str | None
    note: str
    done: int
    total: int | None
    attempts: int
    max_attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class JobLimits:
    """Times in seconds. A job whose process has not beaten for `lease_s` is taken over. A retry waits
    `backoff_s` doubled with each attempt, up to `backoff_max_s`, and up to half as much again. Ended
    jobs are forgotten after `kept_days` days, looked for every `tidy_s`."""

    lease_s: float = 60.0
    beat_s: float = 10.0
    progress_s: float = 0.5
    sweep_s: float = 5.0
    sweep_batch: int = 1000
    backoff_s: float = 2.0
    backoff_max_s: float = 300.0
    payload_bytes: int = 64 * 1024
    queued_of_a_tenant: int = 10_000
    kept_days: float = 30.0
    tidy_s: float = 3600.0


class JobContext:
    """What a handler is given: whose job, what to do, and where to tell how far it is."""

    def __init__(self, service: "JobsService", row: JobRow) -> None:
        self._service = service
        self.id = row.id
        self.kind = row.kind
        self.tenant = TenantId(row.tenant_id)
        self.payload: Mapping[str, Any] = row.payload
        self.attempt = row.attempts
        self.cancelled = row.cancel_requested
        self._progress = (row.done, row.total, row.note)
        self._written_at = 0.0
        self._lock = asyncio.Lock()

    async def progress(self, done: int, total: int | None = None, note: str = "") -> None:
        """Tell how far the job is; written at most every `progress_s`, so calling it often is cheap.

        Sets `cancelled` when someone asked for that; a handler then stops at its next safe point.
        """
        self._progress = (done, total, note[:255])
        now = asyncio.get_running_loop().time()
        if now - self._written_at >= self._service.limits.progress_s and not self._lock.locked():
            await self.beat()

    async def beat(self) -> None:
        async with self._lock:
            self._written_at = asyncio.get_running_loop().time()
            done, total, note = self._progress
            if await self._service.beat(self, done, total, note):
                self.cancelled = True

    @property
    def last_progress(self) -> tuple[int, int | None, str]:
        return self._progress


Handler = Callable[[JobContext], Awaitable[dict[str, Any]]]


class JobsService:
    """See the module. `owner` names this process; rows that it holds are its own to end."""

    def __init__(
        self,
        database: Database,
        queue: JobQueue,
        bus: EventBus | None = None,
        *,
        limits: JobLimits | None = None,
        clock: Clock = utc_now,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._database = database
        self._queue = queue
        self._bus = bus
        self._clock = clock
        self._jitter = jitter
        self._handlers: dict[str, Handler] = {}
        self._running: dict[UUID, JobContext] = {}
        self._sweeper: asyncio.Task[None] | None = None
        self._tidied_at: datetime | None = None
        self.limits = limits or JobLimits()
        self.owner = new_id()

    def register(self, kind: str, handler: Handler) -> None:
        """Say who carries out jobs of this kind; once for each kind."""
        if kind in self._handlers:
            raise ValueError(f"jobs of kind {kind} have a handler")
        self._handlers[kind] = handler

    # --- writing and reading rows ------------------------------------------------------------------

    async def enqueue(
        self,
        unit: UnitOfWork,
        tenant: TenantId,
        kind: str,
        payload: dict[str, Any],
        *,
        max_attempts: int = 3,
    ) -> Job:
        """Write a job into the caller's transaction; it is offered to the queue after the commit.

        BadInput for a payload that is too large, Busy when too many of the tenant's jobs wait.
        """
        if len(json.dumps(payload)) > self.limits.payload_bytes:
            raise BadInput(f"A job's payload is at most {self.limits.payload_bytes} bytes of JSON.")
        if await repository.count_queued(unit.session, tenant) >= self.limits.queued_of_a_tenant:
            raise Busy("Too many jobs are waiting; try again when some have ended.", retry_after_s=60.0)
        now = self._clock()
        row = JobRow(
            tenant_id=tenant, id=new_id(), kind=kind, state="queued", payload=payload, result=None,
            error=None, note="", done=0, total=None, attempts=0, max_attempts=max_attempts,
            cancel_requested=False, owner=None, not_before=now, heartbeat_at=None, created_at=now,
            started_at=None, finished_at=None,
        )  # fmt: skip
        unit.session.add(row)
        await unit.session.flush()
        job_id = row.id
        unit.after_commit(lambda: self._queue.send(job_id))
        return _job(row)

    async def get(self, tenant: TenantId, job_id: UUID) -> Job:
        async with self._database.read(tenant) as unit:
            return _job(_found(await repository.get(unit.session, job_id), job_id))

    async def list(
        self,
        tenant: TenantId,
        *,
        kind: str | None = None,
        state: str | None = None,
        cursor: str | None = None,
        limit: int = 100,
    ) -> Page[Job]:
        """Newest first."""
        if state is not None and state not in STATES:
            raise BadInput(f"A job's state is one of: {', '.join(STATES)}.", field="state")
        query = f"jobs:{kind}:{state}"
        before = UUID(decode_cursor(query, cursor)) if cursor else None
        async with self._database.read(tenant) as unit:
            rows = await repository.page(unit.session, kind=kind, state=state, before=before, limit=limit + 1)
        more = len(rows) > limit
        rows = rows[:limit]
        return Page(tuple(map(_job, rows)), encode_cursor(query, str(rows[-1].id)) if more else None)

    async def cancel(self, tenant: TenantId, job_id: UUID) -> Job:
        """A waiting job ends at once, a running one at its handler's next safe point."""
        async with self._database.write(tenant) as unit:
            row = _found(await repository.get(unit.session, job_id), job_id)
            if row.state == "queued":
                row.state, row.finished_at = "cancelled", self._clock()
            elif row.state == "running":
                row.cancel_requested = True
                unit.after_commit(lambda: self._stop_here(job_id))
            elif row.state != "cancelled":
                raise Conflict(f"The job has already ended ({row.state}).", state=row.state)
            job = _job(row)
        await self._tell(tenant, job)
        return job

    async def retry(self, tenant: TenantId, job_id: UUID) -> Job:
        """Run a failed, parked or cancelled job again, with all its attempts before it."""
        async with self._database.write(tenant) as unit:
            row = _found(await repository.get(unit.session, job_id), job_id)
            if row.state not in {"failed", "parked", "cancelled"}:
                raise Conflict(f"Only an ended job can be tried again; this one is {row.state}.")
            row.state, row.attempts, row.cancel_requested = "queued", 0, False
            row.finished_at, row.error, row.result, row.not_before = None, None, None, self._clock()
            unit.after_commit(lambda: self._queue.send(job_id))
            return _job(row)

    async def _stop_here(self, job_id: UUID) -> None:
        """Tell the handler at once if it runs in this process; elsewhere its next beat tells it."""
        context = self._running.get(job_id)
        if context is not None:
            context.cancelled = True

    async def counts(self) -> dict[str, int]:
        """Jobs of all tenants by state, for `/metrics`."""
        async with self._database.across_tenants("claim_jobs") as unit:
            return await repository.counts(unit.session)

    # --- running -------------------------------------------------------------------------------------

    async def start(self, *, alone: bool) -> None:
        """Take over what a dead process left, and begin to drain.

        `alone`: this is the only process on the database (an embedded data folder), so that every
        running row belongs to a dead one.
        """
        now = self._clock()
        stale = now + timedelta(seconds=1) if alone else now - timedelta(seconds=self.limits.lease_s)
        async with self._database.across_tenants("claim_jobs", write=True) as unit:
            freed = await repository.release_stale(unit.session, now, stale)
        if freed:
            _log.info("jobs of an earlier process are queued again", extra={"jobs": freed})
        await self._queue.start(self.run)
        await self.sweep()
        self._sweeper = asyncio.create_task(self._sweep_forever())

    async def stop(self, timeout_s: float = 10.0) -> None:
        if self._sweeper is not None:
            self._sweeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeper
            self._sweeper = None
        await self._queue.stop(timeout_s)

    async def sweep(self) -> int:
        """Offer waiting jobs to the queue again, and free those of processes that fell silent."""
        now = self._clock()
        stale = now - timedelta(seconds=self.limits.lease_s)
        async with self._database.across_tenants("claim_jobs") as unit:
            waiting = await repository.ready(unit.session, now, self.limits.sweep_batch)
        async with self._database.across_tenants("claim_jobs", write=True) as unit:
            await repository.release_stale(unit.session, now, stale)
        for job_id in waiting:
            await self._queue.send(job_id)
        if self._tidied_at is None or now - self._tidied_at >= timedelta(seconds=self.limits.tidy_s):
            self._tidied_at = now
            await self._tidy(now - timedelta(days=self.limits.kept_days))
        return len(waiting)

    async def _tidy(self, before: datetime) -> None:
        """Forget jobs that ended before then, in batches, so that no writer waits long."""
        while True:
            async with self._database.across_tenants("sweep", write=True) as unit:
                gone = await repository.delete_ended(unit.session, sorted(ENDED), before, _TIDY_BATCH)
            if gone < _TIDY_BATCH:
                return

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(self.limits.sweep_s)
            try:
                await self.sweep()
            except MienError as error:
                _log.warning("jobs could not be swept", extra={"code": error.code})
            except Exception:  # the loop is what brings lost jobs back: it outlives any fault
                _log.exception("jobs could not be swept")

    async def run(self, job_id: UUID) -> None:
        """Carry out a job if it is still to be carried out. Never raises but when cancelled."""
        try:
            await self._run(job_id)
        except MienError as error:
            # The database is busy or away: the row stays, the sweeper brings it again.
            _log.warning("a job could not be claimed or ended", extra={"code": error.code})

    async def _run(self, job_id: UUID) -> None:
        now = self._clock()
        stale = now - timedelta(seconds=self.limits.lease_s)
        async with self._database.across_tenants("claim_jobs", write=True) as unit:
            row = await repository.claim(unit.session, job_id, self.owner, now, stale)
        if row is None:
            return
        context = JobContext(self, row)
        handler = self._handlers.get(row.kind)
        self._running[row.id] = context
        beats = asyncio.create_task(self._keep_beating(context))
        try:
            if handler is None:
                raise NotFound(f"Nothing here carries out jobs of kind {row.kind}.")
            if row.attempts > row.max_attempts:
                raise Busy("The job's process died in each of its attempts.")
            result = await handler(context)
        except asyncio.CancelledError:
            # This process stops: that is no fault of the job, so the attempt does not count.
            again = {"state": "queued", "attempts": row.attempts - 1, "not_before": self._clock()}
            await self._finish(context, again)
            raise
        except Exception as error:  # whatever a handler raises ends its attempt, not the worker
            await self._failed(context, row, error)
        else:
            state: JobState = "cancelled" if context.cancelled else "succeeded"
            await self._finish(context, {"state": state, "result": result, "finished_at": self._clock()})
        finally:
            del self._running[row.id]
            beats.cancel()

    async def _failed(self, context: JobContext, row: JobRow, error: Exception) -> None:
        if isinstance(error, MienError):
            reason = error.message
        else:
            reason = "An internal error; the server's log has it under this job's id."
            _log.error("a job failed", extra={"job": str(row.id), "kind": row.kind}, exc_info=error)
        now = self._clock()
        hopeless = isinstance(error, (BadInput, NotFound, Forbidden, Conflict))
        if hopeless or row.attempts >= row.max_attempts:
            state = "failed" if hopeless else "parked"
            await self._finish(context, {"state": state, "error": reason, "finished_at": now})
            return
        wait_s = min(self.limits.backoff_s * 2 ** (row.attempts - 1), self.limits.backoff_max_s)
        wait_s *= 1.0 + 0.5 * self._jitter()
        later = now + timedelta(seconds=wait_s)
        await self._finish(context, {"state": "queued", "error": reason, "not_before": later})

    async def _finish(self, context: JobContext, values: dict[str, Any]) -> None:
        done, total, note = context.last_progress
        values |= {"done": done, "total": total, "note": note}
        async with self._database.write(context.tenant) as unit:
            ours = await repository.finish(unit.session, context.id, self.owner, values)
            row = await repository.get(unit.session, context.id) if ours else None
        if row is not None:
            await self._tell(context.tenant, _job(row))

    async def _keep_beating(self, context: JobContext) -> None:
        while True:
            await asyncio.sleep(self.limits.beat_s)
            with contextlib.suppress(MienError):
                await context.beat()

    async def beat(self, context: JobContext, done: int, total: int | None, note: str) -> bool:
        """Write a context's progress; True when the job is to stop."""
        values = {"heartbeat_at": self._clock(), "done": done, "total": total, "note": note}
        async with self._database.write(context.tenant) as unit:
            cancel = await repository.beat(unit.session, context.id, self.owner, values)
        if self._bus is not None:
            body = {"id": str(context.id), "kind": context.kind, "state": "running"}
            await self._bus.publish(
                context.tenant, Event("jobs.progress", {**body, "done": done, "total": total, "note": note})
            )
        return cancel is not False

    async def _tell(self, tenant: TenantId, job: Job) -> None:
        if self._bus is not None:
            body = {"id": str(job.id), "kind": job.kind, "state": job.state}
            more = {"done": job.done, "total": job.total, "note": job.note}
            await self._bus.publish(tenant, Event("jobs.progress", {**body, **more}))


def _found(row: JobRow | None, job_id: UUID) -> JobRow:
    if row is None:
        raise NotFound(f"There is no job {job_id}.")
    return row


def _job(row: JobRow) -> Job:
    return Job(
        id=row.id,
        kind=row.kind,
        state=cast(JobState, row.state),
        result=row.result,
        error=row.error,
        note=row.note,
        done=row.done,
        total=row.total,
        attempts=row.attempts,
        max_attempts=row.max_attempts,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )
