"""SQLite: the default database, one file, one owner process.

WAL, so that readers never wait for the writer; `synchronous=FULL`, so that an acknowledged write
survives a power cut (https://www.sqlite.org/pragma.html#pragma_synchronous); one writer at a time,
queued in this process first come first served, so that none waits inside SQLite with a connection in
hand. The writer has a connection of its own: readers can't keep it from one.
"""

import asyncio
import contextlib
import os
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, event, text
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import Session
from sqlalchemy.pool import NullPool

from mien.backends.sql.base import CrossTenantPath
from mien.backends.sql.sqlite_query import SqliteQueries
from mien.backends.sql.unit import SqlUnit, open_unit
from mien.kit.errors import Busy, MienError, SetupError, TimedOut, Unavailable
from mien.kit.tenant import TenantId

T = TypeVar("T")

_MAX_WAITING_WRITERS = 1000
_MAX_WAITING_QUERIES = 1000
_DEADLINE = "mien_deadline"
# SQLite asks the handler each so many steps of its virtual machine (about a millisecond's work).
_STEPS = 20_000

_PRAGMAS = (
    "synchronous=FULL",
    "temp_store=MEMORY",
    "cache_size=-16384",  # KiB to a connection; the pool is bounded
    "journal_size_limit=67108864",
    "trusted_schema=OFF",
)


class SqliteDatabase:
    """See `Database`.

    `pool_size` bounds the readers' connections; `wait_s` bounds every wait for one, for the turn to
    write and for SQLite's own locks (Busy); `run_s` bounds each transaction's statements (TimedOut).
    """

    def __init__(self, path: Path, *, pool_size: int = 8, wait_s: float = 15.0, run_s: float = 60.0) -> None:
        self._path = path
        self._wait_s = wait_s
        self._run_s = run_s
        self._readers = self._engine("BEGIN", ("query_only=ON",), pool_size)
        self._writer = self._engine("BEGIN IMMEDIATE", (), 1)
        self._queries = SqliteQueries(
            path,
            ("journal_mode=WAL", *_PRAGMAS, "query_only=ON"),
            threads=max(2, pool_size // 2),
            waiting=_MAX_WAITING_QUERIES,
            wait_s=wait_s,
            run_s=run_s,
        )
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._commits = 0

    def _engine(self, begin: str, pragmas: tuple[str, ...], size: int) -> AsyncEngine:
        engine = create_async_engine(
            f"sqlite+aiosqlite:///{self._path}",
            pool_size=size,
            max_overflow=0,
            pool_timeout=self._wait_s,
            connect_args={"timeout": self._wait_s},
        )
        event.listen(engine.sync_engine, "connect", partial(_prepare, ("foreign_keys=ON", *pragmas)))
        event.listen(engine.sync_engine, "begin", partial(_begin, begin, self._run_s))
        return engine

    def read(self, tenant: TenantId) -> contextlib.AbstractAsyncContextManager[SqlUnit]:
        return self._read(tenant)

    def write(self, tenant: TenantId) -> contextlib.AbstractAsyncContextManager[SqlUnit]:
        return self._write(tenant)

    async def query(self, tenant: TenantId, work: Callable[[Session], T]) -> T:
        with _translated():
            return await self._queries.run(tenant, work)

    def version(self) -> int | None:
        return self._commits  # an embedded data folder has one owner process

    def across_tenants(
        self, path: CrossTenantPath, *, write: bool = False
    ) -> contextlib.AbstractAsyncContextManager[SqlUnit]:
        return self._write(None) if write else self._read(None)

    @contextlib.asynccontextmanager
    async def _read(self, tenant: TenantId | None) -> AsyncIterator[SqlUnit]:
        with _translated():
            async with open_unit(self._readers, tenant) as unit:
                yield unit
        await unit.committed()

    @contextlib.asynccontextmanager
    async def _write(self, tenant: TenantId | None) -> AsyncIterator[SqlUnit]:
        async with self._turn_to_write():
            try:
                with _translated():
                    async with open_unit(self._writer, tenant) as unit:
                        yield unit
            finally:
                self._commits += 1  # also when it is not known whether the commit succeeded
        # The turn is given up first: hints may write themselves.
        await unit.committed()

    @contextlib.asynccontextmanager
    async def _turn_to_write(self) -> AsyncIterator[None]:
        busy = Busy("The database is busy with other writes; try again.", retry_after_s=2.0)
        if self._waiting >= _MAX_WAITING_WRITERS:
            raise busy
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_s):
                await self._turn.acquire()
        except TimeoutError:
            raise busy from None
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turn.release()

    async def migrate(self) -> None:
        from mien.migrations.run import migrate

        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # Faces are for their owner's eyes; SQLite gives its side files the mode of this one.
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600))
        except OSError as error:
            raise SetupError(f"The database can't be opened: {error.strerror}: {self._path}") from None
        # Tables are altered by copying (Alembic's batch mode); with foreign keys on, dropping the old
        # copy would delete what refers to it. They are checked as a whole instead.
        # https://www.sqlite.org/lang_altertable.html#otheralter
        engine = create_async_engine(f"sqlite+aiosqlite:///{self._path}", poolclass=NullPool)
        event.listen(engine.sync_engine, "connect", partial(_prepare, ("foreign_keys=OFF",)))
        event.listen(engine.sync_engine, "begin", partial(_begin, "BEGIN IMMEDIATE", float("inf")))
        try:
            async with self._turn_to_write():
                with _translated():
                    async with engine.begin() as connection:
                        await connection.run_sync(migrate)
                        broken = (await connection.execute(text("PRAGMA foreign_key_check"))).first()
                        if broken is not None:
                            raise SetupError(
                                f"The new schema would leave rows of {broken[0]} without what they refer "
                                "to; nothing was changed. Restore a backup, or report this."
                            )
        finally:
            await engine.dispose()

    async def ping(self) -> None:
        try:
            async with asyncio.timeout(self._wait_s), self._readers.connect() as connection:
                await connection.execute(text("SELECT 1"))
        except (SQLAlchemyError, sqlite3.Error, TimeoutError, OSError):
            raise Unavailable("The database does not answer; see the server's log.") from None

    async def close(self) -> None:
        # The writer last: SQLite then folds the WAL into the file as its last connection goes.
        await self._readers.dispose()
        await asyncio.to_thread(self._queries.close)
        await self._writer.dispose()


@contextlib.contextmanager
def _translated() -> Iterator[None]:
    try:
        yield
    except PoolTimeout:
        raise Busy("All database connections are in use; try again.") from None
    except OperationalError as error:
        raise _meaning(error) from error


def _meaning(error: DBAPIError) -> MienError | DBAPIError:
    code = getattr(error.orig, "sqlite_errorcode", None)
    match code if code is None else code & 0xFF:  # the low byte is the primary code
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return Busy("The database is held by another process; try again.")
        case sqlite3.SQLITE_INTERRUPT:
            return TimedOut("The database took too long over this; ask for less at once.")
        case sqlite3.SQLITE_FULL:
            return Unavailable("The disk of the database is full; nothing was written.", retry_after_s=30.0)
        case sqlite3.SQLITE_IOERR | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_READONLY:
            return Unavailable("The database's file can't be used; see the server's log.", retry_after_s=5.0)
    return error


def _prepare(pragmas: tuple[str, ...], connection: Any, record: Any) -> None:
    # sqlite3 opens transactions by itself and too late for reads; we begin them (`_begin`).
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", *_PRAGMAS, *pragmas):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
    record.info[_DEADLINE] = deadline = _Deadline()
    connection.run_async(lambda driver: driver.set_progress_handler(deadline.is_over, _STEPS))


class _Deadline:
    """When the transaction of a connection has to stop; read by SQLite in the connection's thread."""

    def __init__(self) -> None:
        self.at = float("inf")

    def is_over(self) -> int:
        return int(time.monotonic() > self.at)


def _begin(statement: str, run_s: float, connection: Connection) -> None:
    # IMMEDIATE for writers: a deferred one that writes late fails when another has written meanwhile.
    deadline: _Deadline = connection.info[_DEADLINE]
    deadline.at = float("inf")
    connection.exec_driver_sql(statement)
    deadline.at = time.monotonic() + run_s
