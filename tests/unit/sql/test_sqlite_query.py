"""`Database.query` and `Database.version`: short reads in one go, under the same guard."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Select, func, insert, select, text
from sqlalchemy.orm import Session, aliased

from mien.backends.sql.base import KEPT
from mien.backends.sql.guard import UnguardedStatement
from mien.backends.sql.sqlite import SqliteDatabase
from mien.features.jobs.tables import JobRow
from mien.features.tenants.service import TenantsService
from mien.features.tenants.tables import AccountRow, TenantRow
from mien.kit.errors import TimedOut, Unavailable
from mien.kit.ids import new_id
from mien.kit.tenant import TenantId


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    made = SqliteDatabase(tmp_path / "mien.db", run_s=0.2)
    await made.migrate()
    yield made
    await made.close()


def accounts(session: Session) -> int:
    return session.execute(select(func.count(AccountRow.id))).scalar_one()


async def test_only_the_tenants_rows_are_seen(database: SqliteDatabase) -> None:
    tenant, _ = await TenantsService(database).bootstrap()
    assert await database.query(tenant, accounts) == 1
    assert await database.query(TenantId(new_id()), accounts) == 0


async def test_what_the_guard_refuses_is_refused_here_too(database: SqliteDatabase) -> None:
    tenant, _ = await TenantsService(database).bootstrap()
    with pytest.raises(UnguardedStatement):
        await database.query(tenant, lambda session: session.execute(text("SELECT 1")))
    with pytest.raises(UnguardedStatement):
        await database.query(tenant, lambda session: session.execute(select(AccountRow.__table__)))


async def test_a_kept_statement_sees_its_tenants_rows_only(database: SqliteDatabase) -> None:
    """It goes past the ORM's criteria: the guard adds the tenant itself."""
    tenant, _ = await TenantsService(database).bootstrap()
    kept = select(AccountRow.id).execution_options(**{KEPT: True})
    for _ in range(2):
        assert len(await database.query(tenant, lambda session: session.execute(kept).all())) == 1
        assert await database.query(TenantId(new_id()), lambda session: session.execute(kept).all()) == []


@pytest.mark.parametrize(
    "statement",
    [
        select(AccountRow),
        select(aliased(AccountRow).id),
        select(func.count(AccountRow.id)),
        select(AccountRow.id).join(JobRow, JobRow.tenant_id == AccountRow.tenant_id),
        select(AccountRow.id).where(AccountRow.id.in_(select(JobRow.id))),
        select(AccountRow.id).where(select(JobRow.id).exists()),
        select(AccountRow.__table__.c.id),
        select(TenantRow.id),
        select(AccountRow.id).where(text("1 = 1")),
    ],
)
async def test_a_kept_statement_is_plain_or_refused(database: SqliteDatabase, statement: Select[Any]) -> None:
    tenant, _ = await TenantsService(database).bootstrap()
    kept = statement.execution_options(**{KEPT: True})
    with pytest.raises(UnguardedStatement):
        await database.query(tenant, lambda session: session.execute(kept).all())


async def test_it_only_reads(database: SqliteDatabase) -> None:
    tenant, _ = await TenantsService(database).bootstrap()
    row = {"tenant_id": tenant, "id": new_id(), "kind": "x", "state": "queued", "payload": {}}
    with pytest.raises(Unavailable):
        await database.query(tenant, lambda session: session.execute(insert(JobRow).values(row)))


async def test_it_ends_in_time(database: SqliteDatabase) -> None:
    tenant, _ = await TenantsService(database).bootstrap()

    def endless(session: Session) -> None:
        numbers = select(JobRow.done.label("n")).cte("numbers", recursive=True)
        numbers = numbers.union_all(select(numbers.c.n + 1))
        session.execute(select(func.max(numbers.c.n))).scalar_one()

    async with database.write(tenant) as unit:
        await unit.session.execute(
            insert(JobRow).values(
                tenant_id=tenant, id=new_id(), kind="x", state="queued", payload={}, note="", done=0,
                attempts=0, max_attempts=1, cancel_requested=False, not_before=func.now(),
                created_at=func.now(),
            )
        )  # fmt: skip
    with pytest.raises(TimedOut):
        await database.query(tenant, endless)
    assert await database.query(tenant, accounts) == 1  # the connection is good for more


async def test_the_version_moves_with_every_commit(database: SqliteDatabase) -> None:
    tenant, _ = await TenantsService(database).bootstrap()
    before = database.version()
    async with database.read(tenant):
        pass
    await database.query(tenant, accounts)
    assert database.version() == before
    async with database.write(tenant):
        pass
    assert database.version() != before
