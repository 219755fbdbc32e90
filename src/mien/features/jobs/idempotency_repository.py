"""Queries over idempotency keys."""

from datetime import datetime
from typing import Any, cast
from uuid import UUID

from sqlalchemy import CursorResult, and_, func, insert, or_, select, update
from sqlalchemy import delete as delete_from
from sqlalchemy.ext.asyncio import AsyncSession

from mien.features.jobs.tables import IdempotencyRow
from mien.kit.tenant import TenantId

R = IdempotencyRow


def _count(result: Any) -> int:
    return cast(CursorResult[Any], result).rowcount


async def find(session: AsyncSession, key: str) -> IdempotencyRow | None:
    return (await session.scalars(select(R).where(R.key == key))).one_or_none()


async def add(
    session: AsyncSession,
    tenant: TenantId,
    key: str,
    fingerprint: bytes,
    owner: UUID,
    now: datetime,
    expires_at: datetime,
) -> None:
    """Reserve a key; IntegrityError if it is there."""
    await session.execute(
        insert(R).values(
            tenant_id=tenant,
            key=key,
            fingerprint=fingerprint,
            owner=owner,
            status=None,
            headers=None,
            body=None,
            created_at=now,
            expires_at=expires_at,
        )
    )


async def keep(
    session: AsyncSession, key: str, owner: UUID, status: int, headers: dict[str, str], body: bytes
) -> bool:
    """Store the answer of our reservation; False if it is not ours any more."""
    done = await session.execute(
        update(R)
        .where(R.key == key, R.owner == owner, R.status.is_(None))
        .values(status=status, headers=headers, body=body)
        .execution_options(synchronize_session=False)
    )
    return _count(done) == 1


async def release(session: AsyncSession, key: str, owner: UUID) -> None:
    """Delete our reservation, if it has no answer yet."""
    await session.execute(
        delete_from(R)
        .where(R.key == key, R.owner == owner, R.status.is_(None))
        .execution_options(synchronize_session=False)
    )


async def delete(session: AsyncSession, key: str) -> None:
    await session.execute(delete_from(R).where(R.key == key).execution_options(synchronize_session=False))


async def _delete_all(session: AsyncSession, found: list[tuple[UUID, str]]) -> int:
    if found:
        await session.execute(
            delete_from(R)
            .where(or_(*(and_(R.tenant_id == tenant, R.key == key) for tenant, key in found)))
            .execution_options(synchronize_session=False)
        )
    return len(found)


async def delete_expired(session: AsyncSession, now: datetime, limit: int) -> int:
    """Up to `limit` (at most 500: each is two parameters) expired keys, of the tenant or, across
    tenants, of all."""
    old = await session.execute(select(R.tenant_id, R.key).where(R.expires_at <= now).limit(limit))
    return await _delete_all(session, [(row[0], row[1]) for row in old])


async def measure(session: AsyncSession) -> tuple[int, int]:
    """(keys, bytes of their bodies)."""
    row = (
        await session.execute(select(func.count(R.key), func.coalesce(func.sum(func.length(R.body)), 0)))
    ).one()
    return int(row[0]), int(row[1])


async def delete_oldest_answers(session: AsyncSession, limit: int) -> int:
    """Up to `limit` (500 at a time) keys that have their answer, the oldest first."""
    old = await session.execute(
        select(R.tenant_id, R.key)
        .where(R.status.is_not(None))
        .order_by(R.created_at, R.key)
        .limit(min(limit, 500))
    )
    return await _delete_all(session, [(row[0], row[1]) for row in old])
