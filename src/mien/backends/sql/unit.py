"""The unit of work: one session, one transaction, hints that run after its commit."""

import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession

from mien.backends.sql.guard import TenantSession
from mien.kit.tenant import TenantId

AfterCommit = Callable[[], Awaitable[None]]

log = logging.getLogger(__name__)


class SqlUnit:
    """See `UnitOfWork`."""

    def __init__(self, session: AsyncSession) -> None:
        self._session = session
        self._actions: list[AfterCommit] = []

    @property
    def session(self) -> AsyncSession:
        return self._session

    def after_commit(self, action: AfterCommit) -> None:
        self._actions.append(action)

    async def committed(self) -> None:
        """Run the hints in their order. One that fails is logged: the write is done and acknowledged,
        and what a hint speeds up happens without it, too."""
        for action in self._actions:
            try:
                await action()
            except Exception:
                log.exception("a hint after a commit failed")


@contextlib.asynccontextmanager
async def open_unit(engine: AsyncEngine, tenant: TenantId | None) -> AsyncIterator[SqlUnit]:
    """One transaction on `engine`; `tenant` None is for the listed cross-tenant paths only.

    Commits on a clean exit, rolls back on any exception (a cancellation too). `committed` is the
    caller's to call, once it has released what it holds.
    """
    session = AsyncSession(
        bind=engine,
        sync_session_class=TenantSession,
        expire_on_commit=False,
        info={"tenant": tenant},
    )
    async with session, session.begin():
        yield SqlUnit(session)
