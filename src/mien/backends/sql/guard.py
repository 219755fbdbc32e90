"""The first lock between tenants: a session that can't state anything without its tenant.

Every statement of a tenant's session gets the predicate `tenant_id = <tenant>` on each tenant table
that it names (SQLAlchemy's `with_loader_criteria`, which reaches subqueries and joins too). What the
predicate can't be added to is refused: raw SQL, Core statements on tenant tables, inserts of rows of
another tenant.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Alias, Column, Delete, Insert, Join, Update, event
from sqlalchemy import Table as SqlTable
from sqlalchemy.orm import ORMExecuteState, Session, with_loader_criteria
from sqlalchemy.sql import visitors
from sqlalchemy.sql.elements import TextClause

from mien.backends.sql.base import Table, TenantTable
from mien.kit.tenant import TenantId

_TENANT_PARAMETER = re.compile(r"tenant_id(_m\d+)?$")
"""Names that the compiler gives the tenant column of one row or of many."""


class UnguardedStatement(Exception):
    """A programming error: a statement that can't be bound to the unit's tenant."""


class TenantSession(Session):
    """A session of one tenant (`info["tenant"]`), or, where that is None, of a listed cross-tenant path."""


def _tenant(session: Session) -> TenantId | None:
    tenant: TenantId | None = session.info["tenant"]
    return tenant


def tenant_tables() -> frozenset[SqlTable]:
    """Every mapped table that belongs to a tenant."""
    return frozenset(
        m.local_table
        for m in Table.registry.mappers
        if issubclass(m.class_, TenantTable) and isinstance(m.local_table, SqlTable)
    )


@event.listens_for(TenantSession, "do_orm_execute")
def _bind(state: ORMExecuteState) -> None:
    tenant = _tenant(state.session)
    if tenant is None:
        return
    statement = state.statement
    if isinstance(statement, TextClause):
        raise UnguardedStatement("raw SQL in a tenant's unit")
    if isinstance(statement, Insert):
        _check_insert(statement, state.parameters, tenant)
        return
    _refuse_core(statement)
    state.statement = statement.options(
        with_loader_criteria(TenantTable, lambda cls: cls.tenant_id == tenant, include_aliases=True)
    )


def _refuse_core(statement: Any) -> None:
    """Refuse tenant tables that are named directly: they would escape the predicate.

    A mapped class leaves its mark ("parententity") on the tables and columns that it gives; a FROM
    that follows from a mapped column is a plain table, and is bound through that column.
    """
    owned = tenant_tables()

    def named_directly(element: Any) -> bool:
        return "parententity" not in getattr(element, "_annotations", {}) and element in owned

    for element in visitors.iterate(statement):
        if isinstance(element, TextClause):
            raise UnguardedStatement("raw SQL in a tenant's unit")
        direct: list[Any] = [*getattr(element, "_from_obj", ()), *getattr(element, "_raw_columns", ())]
        if isinstance(element, (Update, Delete)):
            direct.append(element.table)
        elif isinstance(element, Join):
            direct += [element.left, element.right]
        elif isinstance(element, Alias):
            direct.append(element.element)
        elif isinstance(element, Column) and "parententity" not in element._annotations:
            direct.append(element.table)
        for source in direct:
            if named_directly(source):
                raise UnguardedStatement(f"{source} is named without its mapped class")


def _check_insert(statement: Insert, parameters: Any, tenant: TenantId) -> None:
    if statement.table not in tenant_tables():
        return
    if statement.select is not None:
        raise UnguardedStatement("INSERT from SELECT in a tenant's unit")
    rows: Iterable[Mapping[str, Any]]
    if parameters:
        rows = [parameters] if isinstance(parameters, Mapping) else parameters
    else:
        rows = [statement.compile().params]
    for row in rows:
        tenants = [value for name, value in row.items() if _TENANT_PARAMETER.match(name)]
        if not tenants or any(value != tenant for value in tenants):
            raise UnguardedStatement(f"a row of another tenant for {statement.table.name}")


@event.listens_for(TenantSession, "before_flush")
def _check_flush(session: Session, _context: object, _instances: object) -> None:
    tenant = _tenant(session)
    if tenant is None:
        return
    for row in (*session.new, *session.dirty, *session.deleted):
        if isinstance(row, TenantTable) and row.tenant_id != tenant:
            raise UnguardedStatement(f"a row of another tenant for {type(row).__name__}")
