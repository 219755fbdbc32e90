"""Queries of jobs."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import and_, delete, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from mien.features.jobs.tables import JobRow


async def get(session: AsyncSession, job_id: UUID) -> JobRow | None:
    return (await session.scalars(select(JobRow).where(JobRow.id == job_id))).one_or_none()


async def page(
    session: AsyncSession, *, kind: str | None, state: str | None, before: UUID | None, limit: int
) -> Sequence[JobRow]:
    """Newest first (ids are UUIDv7)."""
    query = select(JobRow).order_by(JobRow.id.desc()).limit(limit)
    if kind is not None:
        query = query.where(JobRow.kind == kind)
    if state is not None:
        query = query.where(JobRow.state == state)
    if before is not None:
        query = query.where(JobRow.id < before)
    return (await session.scalars(query)).all()


async def claim(
    session: AsyncSession, job_id: UUID, owner: UUID, now: datetime, stale_before: datetime
) -> JobRow | None:
    """Take a job that waits, or that a silent process holds. Of two claimers one gets it: the row's
    update is the decision."""
    claimed = await session.execute(
        update(JobRow)
        .where(
            JobRow.id == job_id,
            JobRow.not_before <= now,
            or_(
                JobRow.state == "queued",
                (JobRow.state == "running") & (JobRow.heartbeat_at < stale_before),
            ),
        )
        .values(
            state="running",
            owner=owner,
            attempts=JobRow.attempts + 1,
            heartbeat_at=now,
            started_at=func.coalesce(JobRow.started_at, now, type_=JobRow.started_at.type),
            error=None,
        )
        .execution_options(synchronize_session=False)
    )
    if not _count(claimed):
        return None
    return await get(session, job_id)


async def beat(session: AsyncSession, job_id: UUID, owner: UUID, values: dict[str, Any]) -> bool | None:
    """Write a sign of life and progress. Whether a cancellation was asked for; None: no longer ours."""
    found = await session.execute(
        update(JobRow)
        .where(JobRow.id == job_id, JobRow.owner == owner, JobRow.state == "running")
        .values(**values)
        .execution_options(synchronize_session=False)
    )
    if not _count(found):
        return None
    return (await session.scalars(select(JobRow.cancel_requested).where(JobRow.id == job_id))).one()


async def finish(session: AsyncSession, job_id: UUID, owner: UUID, values: dict[str, Any]) -> bool:
    """End an attempt of ours; False if another process has taken the job over."""
    done = await session.execute(
        update(JobRow)
        .where(JobRow.id == job_id, JobRow.owner == owner, JobRow.state == "running")
        .values(owner=None, **values)
        .execution_options(synchronize_session=False)
    )
    return _count(done) > 0


async def release_stale(session: AsyncSession, now: datetime, stale_before: datetime) -> int:
    """Queue again what processes that fell silent were running (across tenants)."""
    freed = await session.execute(
        update(JobRow)
        .where(JobRow.state == "running", JobRow.heartbeat_at < stale_before)
        .values(state="queued", owner=None, not_before=now)
        .execution_options(synchronize_session=False)
    )
    return _count(freed)


async def ready(session: AsyncSession, now: datetime, limit: int) -> Sequence[UUID]:
    """Ids of jobs that wait to be run, oldest first (across tenants)."""
    return (
        await session.scalars(
            select(JobRow.id)
            .where(JobRow.state == "queued", JobRow.not_before <= now)
            .order_by(JobRow.not_before, JobRow.id)
            .limit(limit)
        )
    ).all()


async def counts(session: AsyncSession) -> dict[str, int]:
    """Jobs by state (across tenants)."""
    rows = await session.execute(select(JobRow.state, func.count(JobRow.id)).group_by(JobRow.state))
    return {row[0]: row[1] for row in rows.all()}


async def count_queued(session: AsyncSession, tenant: UUID) -> int:
    """Jobs of the tenant that wait."""
    found = await session.scalar(
        select(func.count(JobRow.id)).where(JobRow.tenant_id == tenant, JobRow.state == "queued")
    )
    return found or 0


async def delete_ended(session: AsyncSession, states: Sequence[str], before: datetime, limit: int) -> int:
    """Forget up to `limit` (at most 500) jobs in these states that ended before then (across tenants)."""
    old = (
        await session.execute(
            select(JobRow.tenant_id, JobRow.id)
            .where(JobRow.state.in_(states), JobRow.finished_at < before)
            .limit(limit)
        )
    ).all()
    if old:
        await session.execute(
            delete(JobRow)
            .where(or_(*(and_(JobRow.tenant_id == tenant, JobRow.id == job) for tenant, job in old)))
            .execution_options(synchronize_session=False)
        )
    return len(old)


def _count(result: Any) -> int:
    return int(result.rowcount)
