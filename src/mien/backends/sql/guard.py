"""The first lock between tenants: a session that can't state anything without its tenant.

Every statement of a tenant's session gets the predicate `tenant_id = <tenant>` on each tenant table
that it names (SQLAlchemy's `with_loader_criteria`, which reaches subqueries, joins and aliases). What
the predicate can't be added to is refused: raw SQL, tables that are named without their mapped class,
writes of rows of another tenant, and the session's ways past its own events.
"""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Any

from sqlalchemy import Alias, Column, Connection, Delete, Insert, Join, Select, Update, event, inspect
from sqlalchemy import Table as SqlTable
from sqlalchemy.orm import ORMExecuteState, QueryableAttribute, Session, with_loader_criteria
from sqlalchemy.sql import visitors
from sqlalchemy.sql.base import ExecutableOption
from sqlalchemy.sql.elements import ColumnClause, TextClause
from sqlalchemy.sql.selectable import SelectBase, TableClause, TextualSelect

from mien.backends.sql.base import KEPT, Table, TenantRoot, TenantTable
from mien.kit.tenant import TenantId

_TENANT_PARAMETER = re.compile(r"tenant_id(_m\d+)?$")
"""Names that the compiler gives the tenant column of one row or of many."""

_PLAIN_TEXT = re.compile(r"\*|\d+")
"""What SQLAlchemy itself writes as literal text: `count(*)`, `EXISTS (SELECT * …)`, `SELECT 1`."""


class UnguardedStatement(Exception):
    """A programming error: a statement that can't be bound to the unit's tenant."""


class TenantSession(Session):
    """A session of one tenant (`info["tenant"]`), or, where that is None, of a listed cross-tenant path."""

    def _refuse(self, way: str) -> None:
        if _tenant(self) is not None:
            raise UnguardedStatement(f"{way} goes past the guard of a tenant's unit")

    def execute(self, statement: Any, params: Any = None, **kwargs: Any) -> Any:
        """A kept statement (`KEPT`) is checked once for each tenant, and then takes a fifth of the time."""
        tenant = _tenant(self)
        if tenant is None or not isinstance(statement, Select):
            return super().execute(statement, params, **kwargs)
        if not statement.get_execution_options().get(KEPT):
            return super().execute(statement, params, **kwargs)
        return super().connection().execute(_bound(statement, tenant), params)

    def connection(self, *args: Any, **kwargs: Any) -> Connection:
        self._refuse("connection()")
        return super().connection(*args, **kwargs)

    def bulk_save_objects(self, *args: Any, **kwargs: Any) -> None:
        self._refuse("bulk_save_objects()")
        super().bulk_save_objects(*args, **kwargs)

    def bulk_insert_mappings(self, *args: Any, **kwargs: Any) -> None:
        self._refuse("bulk_insert_mappings()")
        super().bulk_insert_mappings(*args, **kwargs)

    def bulk_update_mappings(self, *args: Any, **kwargs: Any) -> None:
        self._refuse("bulk_update_mappings()")
        super().bulk_update_mappings(*args, **kwargs)


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
    if not isinstance(statement, (SelectBase, Insert, Update, Delete)):
        raise UnguardedStatement(f"{type(statement).__name__} in a tenant's unit")
    if not _is_key_lookup(state):
        _refuse_unbound(statement)
    if isinstance(statement, Insert):
        _check_insert(statement, state.parameters, tenant)
        return
    if isinstance(statement, Update):
        _check_update(statement, state.parameters, tenant)
    state.statement = statement.options(*_predicates(tenant))


@lru_cache(maxsize=512)
def _bound(statement: Select[Any], tenant: TenantId) -> Select[Any]:
    """A kept statement, checked and with the tenant's predicate.

    It goes past the ORM, so that only the plainest is taken: columns of tables of tenants. (Statements
    are told apart by identity, and the cache holds on to them.)
    """
    _refuse_unbound(statement)
    nested = sum(isinstance(element, SelectBase) for element in visitors.iterate(statement)) > 1
    tables = statement.get_final_froms()
    columns = all(isinstance(found["expr"], QueryableAttribute) for found in statement.column_descriptions)
    if nested or not columns or not all(_belongs(table) for table in tables):
        raise UnguardedStatement("a kept statement is a SELECT of columns of tenants' tables, and no more")
    return statement.where(*(table.c.tenant_id == tenant for table in tables))


@lru_cache(maxsize=256)
def _predicates(tenant: TenantId) -> tuple[ExecutableOption, ...]:
    """They hold no state, and making them anew for each statement is half of the guard's cost."""
    return (
        with_loader_criteria(TenantTable, lambda cls: cls.tenant_id == tenant, include_aliases=True),
        with_loader_criteria(TenantRoot, lambda cls: cls.id == tenant, include_aliases=True),
    )


def _is_mapped(element: Any) -> bool:
    """Whether it comes from a mapped class, which leaves this mark on the tables and columns it gives."""
    return "parententity" in getattr(element, "_annotations", {})


def _is_key_lookup(state: ORMExecuteState) -> bool:
    """Whether it is the ORM's own SELECT of one row by its key (`get`, `refresh`). Its WHERE is built of
    plain columns, and its entity takes the predicate."""
    where: Any = getattr(state.statement, "_where_criteria", ())
    mapper: Any = state.bind_mapper
    return mapper is not None and len(where) == 1 and where[0] is mapper._get_clause[0]


def _refuse_unbound(statement: Any) -> None:
    """Refuse text, and tables that are named directly: both would escape the predicate.

    A FROM that follows from a mapped column is a plain table, and is bound through that column.
    """
    for element in visitors.iterate(statement):
        if isinstance(element, (TextClause, TextualSelect)):
            raise UnguardedStatement("raw SQL in a tenant's unit")
        if (
            isinstance(element, ColumnClause)
            and element.is_literal
            and not _PLAIN_TEXT.fullmatch(element.name)
        ):
            raise UnguardedStatement("raw SQL in a tenant's unit")
        if isinstance(element, TableClause) and not isinstance(element, SqlTable):
            raise UnguardedStatement(f"{element.name} is named as text")
        direct: list[Any] = [*getattr(element, "_from_obj", ()), *getattr(element, "_raw_columns", ())]
        if isinstance(element, (Insert, Update, Delete)):
            direct.append(element.table)
        elif isinstance(element, Join):
            direct += [element.left, element.right]
        elif isinstance(element, Column) and not _is_mapped(element):
            direct.append(element.table)
        for target, _on, left, _flags in getattr(element, "_setup_joins", ()):
            direct += [target, left]
        for source in direct:
            plain = source.element if isinstance(source, Alias) and not _is_mapped(source) else source
            if isinstance(plain, SqlTable) and not _is_mapped(plain):
                raise UnguardedStatement(f"{plain.name} is named without its mapped class")


def _belongs(table: Any) -> bool:
    return isinstance(table, SqlTable) and "tenant_id" in table.c


def _check_insert(statement: Insert, parameters: Any, tenant: TenantId) -> None:
    if any(isinstance(element, SelectBase) for element in visitors.iterate(statement)):
        raise UnguardedStatement("INSERT with SELECT in a tenant's unit")
    conflict = statement._post_values_clause
    if conflict is not None:
        # Without the tenant in the conflict's target, the row that it changes may be anybody's.
        target: Iterable[Any] = getattr(conflict, "inferred_target_elements", None) or ()
        names = {getattr(element, "key", element) for element in target}
        if "tenant_id" not in names:
            raise UnguardedStatement("INSERT … ON CONFLICT without the tenant in its target")
        changed = dict(getattr(conflict, "update_values_to_set", ()))
        if any(getattr(name, "key", name) == "tenant_id" for name in changed):
            raise UnguardedStatement("INSERT … ON CONFLICT that changes the tenant")
    if not _belongs(statement.table):
        raise UnguardedStatement(f"INSERT into {statement.table} in a tenant's unit")
    rows: Iterable[Mapping[str, Any]]
    if parameters:
        rows = [parameters] if isinstance(parameters, Mapping) else parameters
    else:
        rows = [statement.compile().params]
    for row in rows:
        tenants = [value for name, value in row.items() if _TENANT_PARAMETER.match(name)]
        if not tenants or any(value != tenant for value in tenants):
            raise UnguardedStatement(f"a row of another tenant for {statement.table.name}")


def _check_update(statement: Update, parameters: Any, tenant: TenantId) -> None:
    names = list(statement._values or ())
    if isinstance(parameters, Mapping):
        names += parameters
    elif parameters and any(row.get("tenant_id") != tenant for row in parameters):
        # UPDATE by primary keys, which takes no predicate: the keys themselves must be the tenant's.
        raise UnguardedStatement(f"a row of another tenant for {statement.table}")
    if any(getattr(name, "key", name) == "tenant_id" for name in names):
        raise UnguardedStatement("UPDATE that changes the tenant")


@event.listens_for(TenantSession, "before_flush")
def _check_flush(session: Session, _context: object, _instances: object) -> None:
    tenant = _tenant(session)
    if tenant is None:
        return
    for row in (*session.new, *session.dirty, *session.deleted):
        moved = isinstance(row, TenantTable) and inspect(row).attrs.tenant_id.history.deleted
        if not isinstance(row, TenantTable) or row.tenant_id != tenant or moved:
            raise UnguardedStatement(f"a row of another tenant for {type(row).__name__}")
