"""The unit of work: one session, one transaction, hints that run after its commit."""

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from mien.backends.sql.guard import TenantSession
from mien.kit.tenant import TenantId

AfterCommit = Callable[[], Awaitable[None]]


class SqlUnit:
    """See `UnitOfWork`."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self.actions: list[AfterCommit] = []

    @property
    def session(self) -> AsyncSession:
        return self._session

    def after_commit(self, action: AfterCommit) -> None:
        self.actions.append(action)


@contextlib.asynccontextmanager
async def open_unit(engine: AsyncEngine, tenant: TenantId | None) -> AsyncIterator[SqlUnit]:
    """One transaction on `engine`; `tenant` None is for the listed cross-tenant paths only.

    Commits on a clean exit, rolls back on any exception (a cancellation too).
    """
    session = AsyncSession(
        bind=engine,
        sync_session_class=TenantSession,
        expire_on_commit=False,
        info={"tenant": tenant},
    )
    unit = SqlUnit(session)
    async with session, session.begin():
        yield unit
