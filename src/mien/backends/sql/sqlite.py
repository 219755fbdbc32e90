"""SQLite: the default database, one file, one owner process.

WAL, so that readers never wait for the writer; `synchronous=FULL`, so that an acknowledged write
survives a power cut (https://www.sqlite.org/pragma.html#pragma_synchronous); one writer at a time,
queued in this process, so that none waits inside SQLite with a connection in hand.
"""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from mien.backends.sql.base import CrossTenantPath
from mien.backends.sql.unit import SqlUnit, open_unit
from mien.kit.errors import Busy, Unavailable
from mien.kit.tenant import TenantId

_WRITES = "mien_writes"


class SqliteDatabase:
    """See `Database`. `pool_size` bounds open connections; `wait_s` bounds every wait for one, for the
    write lock and for SQLite's own locks."""

    def __init__(self, path: Path, *, pool_size: int = 8, wait_s: float = 15.0) -> None:
        self._path = path
        self._wait_s = wait_s
        self._engine = create_async_engine(
            f"sqlite+aiosqlite:///{path}",
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=wait_s,
            connect_args={"timeout": wait_s},
        )
        self._writing = self._engine.execution_options(**{_WRITES: True})
        self._write_lock = asyncio.Lock()
        event.listen(self._engine.sync_engine, "connect", _prepare)
        event.listen(self._engine.sync_engine, "begin", _begin)

    def read(self, tenant: TenantId) -> contextlib.AbstractAsyncContextManager[SqlUnit]:
        return self._unit(self._engine, tenant)

    def write(self, tenant: TenantId) -> contextlib.AbstractAsyncContextManager[SqlUnit]:
        return self._locked_unit(tenant)

    def across_tenants(
        self, path: CrossTenantPath, *, write: bool = False
    ) -> contextlib.AbstractAsyncContextManager[SqlUnit]:
        return self._locked_unit(None) if write else self._unit(self._engine, None)

    @contextlib.asynccontextmanager
    async def _unit(self, engine: AsyncEngine, tenant: TenantId | None) -> AsyncIterator[SqlUnit]:
        try:
            async with open_unit(engine, tenant) as unit:
                yield unit
        except PoolTimeout:
            raise Busy("All database connections are in use; try again.", retry_after_s=1.0) from None
        except OperationalError as error:
            if "locked" in str(error.orig) or "busy" in str(error.orig):
                raise Busy("The database is held by another process; try again.", retry_after_s=1.0) from None
            raise
        for action in unit.actions:
            await action()

    @contextlib.asynccontextmanager
    async def _locked_unit(self, tenant: TenantId | None) -> AsyncIterator[SqlUnit]:
        try:
            await asyncio.wait_for(self._write_lock.acquire(), self._wait_s)
        except TimeoutError:
            raise Busy("The database is busy with other writes; try again.", retry_after_s=2.0) from None
        released = False

        async def release() -> None:
            # Before the hints: they may write themselves.
            nonlocal released
            released = True
            self._write_lock.release()

        try:
            async with self._unit(self._writing, tenant) as unit:
                unit.actions.append(release)
                yield unit
        finally:
            if not released:
                self._write_lock.release()

    async def migrate(self) -> None:
        from mien.migrations.run import migrate

        self._path.parent.mkdir(parents=True, exist_ok=True)
        async with self._engine.connect() as connection:
            await connection.run_sync(migrate)
            await connection.commit()

    async def ping(self) -> None:
        try:
            async with asyncio.timeout(self._wait_s), self._engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        except (SQLAlchemyError, sqlite3.Error, TimeoutError, OSError):
            raise Unavailable("The database does not answer; see the server's log.") from None

    async def close(self) -> None:
        await self._engine.dispose()


def _prepare(connection: Any, _record: object) -> None:
    # sqlite3 opens transactions by itself and too late for reads; we begin them (`_begin`).
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode=WAL",
        "synchronous=FULL",
        "foreign_keys=ON",
        "temp_store=MEMORY",
        "cache_size=-16384",  # KiB to a connection; the pool is bounded
        "journal_size_limit=67108864",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    # A read that later writes would fail with SQLITE_BUSY at once when another has written in between.
    writes = connection.get_execution_options().get(_WRITES, False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
