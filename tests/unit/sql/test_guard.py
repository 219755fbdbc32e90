"""The first lock between tenants, over every mapped tenant table; each proof also fails without it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy import (
    column,
    delete,
    event,
    exists,
    func,
    insert,
    literal,
    literal_column,
    select,
    table,
    text,
    union_all,
    update,
)
from sqlalchemy.dialects.sqlite import insert as upsert
from sqlalchemy.orm import aliased
from tests.unit.sql.all_tables import METADATA
from tests.unit.sql.conftest import Two, new_row

from mien.backends.sql import guard
from mien.backends.sql.base import TenantTable
from mien.backends.sql.guard import TenantSession, UnguardedStatement, tenant_tables
from mien.features.jobs.tables import IdempotencyRow, JobRow
from mien.features.tenants.tables import AccountRow, ApiKeyRow, TenantRow
from mien.kit.errors import Unavailable

ENTITIES = sorted(
    (m.class_ for m in TenantTable.registry.mappers if issubclass(m.class_, TenantTable)),
    key=lambda entity: entity.__tablename__,
)
each_table = pytest.mark.parametrize("entity", ENTITIES, ids=lambda entity: entity.__tablename__)

QUERIES: dict[str, Callable[[Any], Any]] = {
    "entity": lambda e: select(e.tenant_id),
    "whole row": lambda e: select(e),
    "alias": lambda e: select(aliased(e).tenant_id),
    "alias as FROM": lambda e: select(func.count()).select_from(aliased(e)),
    "count": lambda e: select(func.count(e.tenant_id)),
    "count of FROM": lambda e: select(func.count()).select_from(e),
    "only in WHERE": lambda e: select(literal(1)).where(e.tenant_id.is_not(None)),
    "EXISTS of the tenant": lambda e: select(TenantRow.id).where(exists().where(e.tenant_id == TenantRow.id)),
    "join": lambda e: select(TenantRow.id).join(e, e.tenant_id == TenantRow.id),
    "scalar subquery": lambda e: select(select(func.count(e.tenant_id)).scalar_subquery()),
    "subquery": lambda e: select(select(e.tenant_id).subquery().c.tenant_id),
    "CTE": lambda e: select(select(e.tenant_id).cte().c.tenant_id),
    "in ORDER BY": lambda e: select(TenantRow.id).order_by(select(func.count(e.tenant_id)).scalar_subquery()),
}


async def seen(two: Two, tenant: Any, query: Any) -> list[tuple[Any, ...]]:
    async with two.database.read(tenant) as unit:
        return [tuple(row) for row in (await unit.session.execute(query)).all()]


def plain(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Rows with entities as their tenant."""
    return [tuple(v.tenant_id if isinstance(v, TenantTable) else v for v in row) for row in rows]


def allowed(rows: list[tuple[Any, ...]], tenant: Any) -> bool:
    """One row: the tenant's id, or the number one."""
    return plain(rows) in ([(tenant,)], [(1,)])


def test_the_tables_are_those_of_the_schema() -> None:
    assert {t.name for t in tenant_tables()} == {t.name for t in METADATA.tables.values()} - {"tenant"}
    assert len(ENTITIES) >= 9


@each_table
@pytest.mark.parametrize("form", QUERIES)
async def test_a_query_in_any_form_sees_one_tenant(two: Two, entity: Any, form: str) -> None:
    for tenant in (two.a, two.b, two.a):  # again: the compiled statement is cached by now
        assert allowed(await seen(two, tenant, QUERIES[form](entity)), tenant)


@each_table
async def test_a_union_sees_one_tenant(two: Two, entity: Any) -> None:
    both = union_all(select(entity.tenant_id), select(aliased(entity).tenant_id))
    assert await seen(two, two.a, both) == [(two.a,)] * 2


@each_table
async def test_another_tenants_key_finds_nothing(two: Two, entity: Any) -> None:
    async with two.database.read(two.a) as unit:
        theirs = two.keys[entity.__tablename__, two.b]
        assert await unit.session.get(entity, theirs) is None
        mine = two.keys[entity.__tablename__, two.a]
        found: Any = await unit.session.get(entity, mine)
        assert found.tenant_id == two.a


@each_table
async def test_updates_and_deletes_stay_in_the_tenant(two: Two, entity: Any) -> None:
    some = next(
        c.key for c in entity.__mapper__.column_attrs if c.key not in two.keys[entity.__tablename__, two.a]
    )
    same = {some: getattr(entity, some)}
    quiet = {"synchronize_session": False}
    async with two.database.write(two.a) as unit:
        moved = await unit.session.execute(
            update(entity).where(entity.tenant_id == two.b).values(same).execution_options(**quiet)
        )
        assert moved.rowcount == 0  # type: ignore[attr-defined]
        moved = await unit.session.execute(update(entity).values(same).execution_options(**quiet))
        assert moved.rowcount == 1  # type: ignore[attr-defined]
        gone = await unit.session.execute(delete(entity).execution_options(**quiet))
        assert gone.rowcount == 1  # type: ignore[attr-defined]
    assert len(await seen(two, two.b, select(entity.tenant_id))) == 1


@each_table
async def test_rows_of_another_tenant_are_not_written(two: Two, entity: Any) -> None:
    row = new_row(entity.__table__, two.b, 7)
    named = {
        a.key: row[a.columns[0].name] for a in entity.__mapper__.column_attrs if a.columns[0].name in row
    }
    for statement in (
        insert(entity).values(named),
        insert(entity).values([named, named]),
        upsert(entity).values(named).on_conflict_do_nothing(index_elements=["tenant_id"]),
    ):
        with pytest.raises(UnguardedStatement):
            async with two.database.write(two.a) as unit:
                await unit.session.execute(statement)
    with pytest.raises(UnguardedStatement):
        async with two.database.write(two.a) as unit:
            await unit.session.execute(insert(entity), [named])
    with pytest.raises(UnguardedStatement):
        async with two.database.write(two.a) as unit:
            unit.session.add(entity(**named))
    with pytest.raises(UnguardedStatement):
        async with two.database.write(two.a) as unit:
            await unit.session.merge(entity(**named))
    async with two.database.across_tenants("backup") as unit:
        assert await unit.session.scalar(select(func.count()).select_from(entity)) == 2


@each_table
async def test_a_row_does_not_change_hands(two: Two, entity: Any) -> None:
    with pytest.raises(UnguardedStatement):
        async with two.database.write(two.a) as unit:
            await unit.session.execute(update(entity).values(tenant_id=two.b))
    with pytest.raises(UnguardedStatement):
        async with two.database.write(two.a) as unit:
            await unit.session.execute(update(entity), [two.keys[entity.__tablename__, two.b]])
    with pytest.raises(UnguardedStatement):  # noqa: PT012
        async with two.database.write(two.a) as unit:
            row: Any = await unit.session.get(entity, two.keys[entity.__tablename__, two.a])
            row.tenant_id = two.b
    with pytest.raises(UnguardedStatement):  # noqa: PT012
        async with two.database.write(two.a) as unit:
            async with two.database.across_tenants("backup") as other:
                theirs = await other.session.get(entity, two.keys[entity.__tablename__, two.b])
                other.session.expunge(theirs)
            await unit.session.delete(theirs)


CORE: Any = JobRow.__table__
TENANTS: Any = TenantRow.__table__
REFUSED: dict[str, Any] = {
    "text": text("SELECT * FROM job"),
    "text with columns": text("SELECT id FROM job").columns(JobRow.id),
    "FROM text": select(JobRow).from_statement(text("SELECT * FROM job")),
    "text in WHERE": select(JobRow.id).where(text("1 = 1 OR 1 = 1")),
    "text as column": select(literal_column("(SELECT count(*) FROM job)")),
    "table": select(CORE),
    "column of a table": select(CORE.c.id),
    "alias of a table": select(CORE.alias().c.id),
    "table in a subquery": select(JobRow.id).where(JobRow.id.in_(select(CORE.c.id))),
    "table in EXISTS": select(TenantRow.id).where(exists().where(CORE.c.tenant_id == TenantRow.id)),
    "table in a join": select(JobRow.id).join(CORE, literal(True)),
    "alias of a table in a join": select(JobRow.id).join(CORE.alias(), literal(True)),
    "table left of a join": select(JobRow.id).join_from(CORE.alias(), JobRow, literal(True)),
    "name of a table": select(column("id")).select_from(table("job")),
    "update of a table": update(CORE).values(note="x"),
    "delete of a table": delete(CORE),
    "insert into a table": insert(CORE).values(note="x"),
    "insert of a selection": insert(IdempotencyRow).from_select(["key"], select(IdempotencyRow.key)),
    "another tenant's own row": update(TENANTS).values(name="x"),
    "a new tenant": insert(TenantRow).values(slug="c"),
}


@pytest.mark.parametrize("form", REFUSED)
async def test_what_takes_no_predicate_is_refused(two: Two, form: str) -> None:
    with pytest.raises(UnguardedStatement):
        async with two.database.write(two.a) as unit:
            await unit.session.execute(REFUSED[form])


async def test_an_upsert_names_the_tenant_in_its_target(two: Two) -> None:
    row = new_row(ApiKeyRow.__table__, two.a, 0) | {"scopes": [], "prefix": "text-1"}
    by_prefix = (
        upsert(ApiKeyRow).values(row).on_conflict_do_update(index_elements=["prefix"], set_={"name": "x"})
    )
    with pytest.raises(UnguardedStatement):  # that prefix is of a row of b
        async with two.database.write(two.a) as unit:
            await unit.session.execute(by_prefix)
    row["prefix"] = "text-0"
    by_key = upsert(ApiKeyRow).values(row)
    async with two.database.write(two.a) as unit:
        await unit.session.execute(
            by_key.on_conflict_do_update(index_elements=["tenant_id", "id"], set_={"name": "mine"})
        )
    assert await seen(two, two.a, select(ApiKeyRow.name)) == [("mine",)]
    with pytest.raises(UnguardedStatement):
        async with two.database.write(two.a) as unit:
            await unit.session.execute(
                by_key.on_conflict_do_update(index_elements=["tenant_id", "id"], set_={"tenant_id": two.b})
            )


async def test_the_sessions_ways_past_its_events_are_closed(two: Two) -> None:
    row = new_row(AccountRow.__table__, two.b, 9)
    ways: list[Callable[[Any], Any]] = [
        lambda s: s.connection(),
        lambda s: s.bulk_save_objects([AccountRow(**row)]),
        lambda s: s.bulk_insert_mappings(AccountRow, [row]),
        lambda s: s.bulk_update_mappings(AccountRow, [row]),
    ]
    for way in ways:
        with pytest.raises(UnguardedStatement):
            async with two.database.write(two.a) as unit:
                await unit.session.run_sync(way)


async def test_a_tenant_reads_its_own_row_of_tenants_only(two: Two) -> None:
    assert await seen(two, two.a, select(TenantRow.id)) == [(two.a,)]
    with pytest.raises(UnguardedStatement):
        async with two.database.write(two.a) as unit:
            (await unit.session.scalars(select(TenantRow))).one().name = "x"


async def test_readers_do_not_write(two: Two) -> None:
    with pytest.raises(Unavailable):
        async with two.database.read(two.a) as unit:
            await unit.session.execute(delete(JobRow))
    assert len(await seen(two, two.a, select(JobRow.id))) == 1


async def test_foreign_keys_do_not_cross_tenants(two: Two) -> None:
    # The account exists, but it is b's: the composite key does not find it under a.
    row = new_row(ApiKeyRow.__table__, two.a, 5) | {"account_id": two.keys["account", two.b]["id"]}
    with pytest.raises(Exception, match="FOREIGN KEY"):
        async with two.database.write(two.a) as unit:
            unit.session.add(ApiKeyRow(**row))


@each_table
async def test_without_the_guard_each_proof_would_fail(two: Two, entity: Any) -> None:
    """The mutation: with the predicate and the flush check gone, A sees, changes and adds B's rows."""
    event.remove(TenantSession, "do_orm_execute", guard._bind)
    event.remove(TenantSession, "before_flush", guard._check_flush)
    try:
        for form, query in QUERIES.items():
            assert not allowed(await seen(two, two.a, query(entity)), two.a), form
        async with two.database.read(two.a) as unit:
            assert await unit.session.get(entity, two.keys[entity.__tablename__, two.b]) is not None
        async with two.database.write(two.a) as unit:
            gone = await unit.session.execute(delete(entity).execution_options(synchronize_session=False))
            assert gone.rowcount == 2  # type: ignore[attr-defined]
    finally:
        event.listen(TenantSession, "do_orm_execute", guard._bind)
        event.listen(TenantSession, "before_flush", guard._check_flush)
    assert await seen(two, two.a, select(func.count(entity.tenant_id))) == [(0,)]
