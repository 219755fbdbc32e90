"""Short reads of SQLite in one go: a whole transaction in one turn of one thread.

An async session hands each step (cursor, execute, fetch, close, begin, commit) to a thread and back,
nine times for one SELECT, which costs 0.9 to 3 ms beside a loaded pipeline; here it is once.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, create_engine, event
from sqlalchemy.orm import Session

from mien.backends.bounded_threads import BoundedThreads
from mien.backends.sql.guard import TenantSession
from mien.kit.tenant import TenantId

T = TypeVar("T")

_STEPS = 20_000
"""SQLite asks for the deadline each so many steps of its virtual machine (about a millisecond's work)."""


class SqliteQueries:
    """Runs `work(session)` in a thread, in a transaction that only reads."""

    def __init__(
        self, path: Path, pragmas: tuple[str, ...], *, threads: int, waiting: int, wait_s: float, run_s: float
    ) -> None:
        self._timeout_s = wait_s + run_s
        self._run_s = run_s
        self._threads = BoundedThreads("The database", threads=threads, waiting=waiting)
        self._engine = create_engine(
            f"sqlite+pysqlite:///{path}",
            pool_size=threads,
            max_overflow=0,
            pool_timeout=wait_s,
            connect_args={"timeout": wait_s, "check_same_thread": False},
        )
        event.listen(self._engine, "connect", partial(self._prepare, pragmas))
        event.listen(self._engine, "begin", self._begin)

    async def run(self, tenant: TenantId, work: Callable[[Session], T]) -> T:
        """What `work` returns or raises; Busy when too many wait, TimedOut after all bounds."""

        def in_one_go() -> T:
            with TenantSession(bind=self._engine, info={"tenant": tenant}) as session:
                return work(session)

        return await self._threads.run(self._timeout_s, in_one_go)

    def close(self) -> None:
        """Waits for what runs (so: not on an event loop)."""
        self._threads.close()
        self._engine.dispose()

    def _prepare(self, pragmas: tuple[str, ...], connection: Any, record: Any) -> None:
        connection.isolation_level = None  # sqlite3 opens transactions by itself and too late for reads
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")
        deadline = [float("inf")]
        record.info["mien_query_deadline"] = deadline
        connection.set_progress_handler(lambda: int(time.monotonic() > deadline[0]), _STEPS)

    def _begin(self, connection: Connection) -> None:
        connection.info["mien_query_deadline"][0] = time.monotonic() + self._run_s
        connection.exec_driver_sql("BEGIN")
