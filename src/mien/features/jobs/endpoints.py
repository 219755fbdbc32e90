"""`/v1/jobs`."""

from collections.abc import Awaitable, Callable
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Query

from mien.features.jobs.schemas import JobOut, JobsOut, ProgressOut
from mien.features.jobs.service import Job, JobsService, JobState
from mien.kit.tenant import Principal


def router(service: JobsService, authenticate: Callable[..., Awaitable[Principal]]) -> APIRouter:
    """Endpoints of this slice; `authenticate` is the dependency that knows who asks."""
    routes = APIRouter(prefix="/v1/jobs", tags=["Jobs"])

    @routes.get("", summary="List jobs, newest first")
    async def list_jobs(
        who: Principal = Depends(authenticate),
        kind: Annotated[str | None, Query(max_length=64)] = None,
        state: JobState | None = None,
        cursor: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    ) -> JobsOut:
        """Imports and rebuilds, newest first, by kind and state if asked."""
        page = await service.list(who.tenant_id, kind=kind, state=state, cursor=cursor, limit=limit)
        return JobsOut(jobs=[out(job) for job in page.items], next_cursor=page.next_cursor)

    @routes.get("/{job_id}", summary="A job, its progress and its result")
    async def get_job(job_id: UUID, who: Principal = Depends(authenticate)) -> JobOut:
        """How far a job is, and its result or its error once it has ended."""
        return out(await service.get(who.tenant_id, job_id))

    @routes.post("/{job_id}/cancel", summary="Stop a job")
    async def cancel_job(job_id: UUID, who: Principal = Depends(authenticate)) -> JobOut:
        """A queued job does not start; a running one stops at its next step. What it did stays."""
        return out(await service.cancel(who.tenant_id, job_id))

    @routes.post("/{job_id}/retry", summary="Run an ended job again")
    async def retry_job(job_id: UUID, who: Principal = Depends(authenticate)) -> JobOut:
        """Queue a job again that failed, was parked or was cancelled."""
        return out(await service.retry(who.tenant_id, job_id))

    return routes


def out(job: Job) -> JobOut:
    """A job as it is shown."""
    return JobOut(
        id=job.id,
        kind=job.kind,
        state=job.state,
        progress=ProgressOut(done=job.done, total=job.total, note=job.note),
        result=None if job.result is None else dict(job.result),
        error=job.error,
        attempts=job.attempts,
        max_attempts=job.max_attempts,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
    )
