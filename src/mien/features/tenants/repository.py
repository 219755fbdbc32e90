"""Queries of tenants, accounts and keys."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncSession

from mien.features.tenants.tables import AccountRow, ApiKeyRow, TenantRow


async def tenant_by_slug(session: AsyncSession, slug: str) -> TenantRow | None:
    return (await session.scalars(select(TenantRow).where(TenantRow.slug == slug))).one_or_none()


async def tenant_by_id(session: AsyncSession, tenant_id: UUID) -> TenantRow | None:
    return (await session.scalars(select(TenantRow).where(TenantRow.id == tenant_id))).one_or_none()


async def first_account(session: AsyncSession, tenant_id: UUID, role: str) -> AccountRow | None:
    found = await session.scalars(
        select(AccountRow)
        .where(AccountRow.tenant_id == tenant_id, AccountRow.role == role, AccountRow.disabled_at.is_(None))
        .order_by(AccountRow.created_at, AccountRow.id)
        .limit(1)
    )
    return found.one_or_none()


async def account_by_id(session: AsyncSession, account_id: UUID) -> AccountRow | None:
    return (await session.scalars(select(AccountRow).where(AccountRow.id == account_id))).one_or_none()


async def key_by_prefix(session: AsyncSession, prefix: str) -> tuple[ApiKeyRow, AccountRow] | None:
    """A key and its account, for `authenticate` (before a tenant is known)."""
    found = await session.execute(
        select(ApiKeyRow, AccountRow)
        .join(
            AccountRow,
            (AccountRow.tenant_id == ApiKeyRow.tenant_id) & (AccountRow.id == ApiKeyRow.account_id),
        )
        .where(ApiKeyRow.prefix == prefix)
    )
    row = found.one_or_none()
    return None if row is None else (row[0], row[1])


async def keys(session: AsyncSession, after: UUID | None, limit: int) -> Sequence[ApiKeyRow]:
    """Keys in the order that they were made (ids are UUIDv7)."""
    query = select(ApiKeyRow).order_by(ApiKeyRow.id).limit(limit)
    if after is not None:
        query = query.where(ApiKeyRow.id > after)
    return (await session.scalars(query)).all()


async def any_key(session: AsyncSession, tenant_id: UUID) -> bool:
    """Whether the tenant ever had a key; for the bootstrap (before a tenant is known)."""
    query = select(ApiKeyRow.id).where(ApiKeyRow.tenant_id == tenant_id).limit(1)
    return (await session.scalars(query)).first() is not None


async def key_by_id(session: AsyncSession, key_id: UUID) -> ApiKeyRow | None:
    return (await session.scalars(select(ApiKeyRow).where(ApiKeyRow.id == key_id))).one_or_none()


async def touch(session: AsyncSession, key_id: UUID, used_at: datetime) -> None:
    await session.execute(update(ApiKeyRow).where(ApiKeyRow.id == key_id).values(last_used_at=used_at))
