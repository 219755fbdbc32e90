"""The port of SQL databases: one transaction at the edge, tenant in every statement.

Services open a unit (`Database.write` or `Database.read`), hand its session to repositories, and
leave it; a clean exit commits, an exception rolls back. Nothing else commits.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any, Literal, Protocol, TypeVar
from uuid import UUID

from sqlalchemy import DateTime, MetaData, Uuid
from sqlalchemy.engine import Dialect
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from sqlalchemy.types import TypeDecorator

from mien.kit.tenant import TenantId

T = TypeVar("T")


class UtcDateTime(TypeDecorator[datetime]):
    """Timezone-aware UTC with microseconds on every dialect (SQLite and MySQL store naive UTC)."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("times are timezone-aware")
        utc = value.astimezone(UTC)
        return utc if dialect.name == "postgresql" else utc.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


KEPT = "mien_kept"
"""Execution option of a SELECT that is built once, when its module is loaded, and used for every request:
the guard looks at it once for each tenant. Its values come as parameters (`bindparam`)."""


class Table(DeclarativeBase):
    """Base of every table of Mien."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: dict[Any, Any] = {datetime: UtcDateTime(), UUID: Uuid()}  # noqa: RUF012


class TenantTable(Table):
    """Base of every table that belongs to a tenant. The session guard adds the tenant to each
    statement on one of these and refuses statements that it can't bind."""

    __abstract__ = True

    tenant_id: Mapped[UUID] = mapped_column(primary_key=True, sort_order=-1)


class TenantRoot(Table):
    """Base of the table of tenants itself: its `id` is the tenant. A tenant's unit reads its own row
    only; rows are made and changed in `across_tenants`."""

    __abstract__ = True

    id: Mapped[UUID] = mapped_column(primary_key=True)


CrossTenantPath = Literal["authenticate", "claim_jobs", "sweep", "project", "bootstrap", "backup"]
"""The only paths that may work before a tenant is known or across tenants."""


class UnitOfWork(Protocol):
    """One transaction."""

    @property
    def session(self) -> AsyncSession: ...

    def after_commit(self, action: Callable[[], Awaitable[None]]) -> None:
        """Run `action` once the commit has succeeded (hints only: it may never run after a crash)."""
        ...


class Database(Protocol):
    def read(self, tenant: TenantId) -> AbstractAsyncContextManager[UnitOfWork]:
        """A transaction that only reads."""
        ...

    def write(self, tenant: TenantId) -> AbstractAsyncContextManager[UnitOfWork]:
        """A transaction that may write (on SQLite it takes the write lock at its start)."""
        ...

    async def query(self, tenant: TenantId, work: Callable[[Session], T]) -> T:
        """What `work` reads in a transaction of its own, in one go and perhaps in another thread.

        For short reads on hot paths; `work` must wait for nothing but the session. The same guard holds.
        """
        ...

    def version(self) -> int | None:
        """A number that moves with every commit, before its caller goes on; None where others than this
        process may write. What was read at a version still holds while the version does."""
        ...

    def across_tenants(
        self, path: CrossTenantPath, *, write: bool = False
    ) -> AbstractAsyncContextManager[UnitOfWork]:
        """A transaction of one of the listed paths, without the tenant guard."""
        ...

    async def migrate(self) -> None:
        """Bring the schema to the newest version."""
        ...

    async def ping(self) -> None:
        """Unavailable if the database does not answer."""
        ...

    async def close(self) -> None: ...
