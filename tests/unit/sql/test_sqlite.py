"""SQLite's units of work: what they promise to callers, to each other, and after a crash."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, text

from mien.backends.sql.sqlite import SqliteDatabase
from mien.features.tenants.tables import AccountRow, TenantRow
from mien.kit.clock import utc_now
from mien.kit.errors import Busy, TimedOut, Unavailable
from mien.kit.ids import new_id
from mien.kit.tenant import TenantId


async def opened(path: Path, **bounds: Any) -> tuple[SqliteDatabase, TenantId]:
    database = SqliteDatabase(path / "mien.db", **bounds)
    await database.migrate()
    tenant = TenantId(new_id())
    async with database.across_tenants("bootstrap", write=True) as unit:
        unit.session.add(TenantRow(id=tenant, slug=tenant.hex, name="", created_at=utc_now()))
    return database, tenant


@pytest.fixture
async def one(tmp_path: Path) -> AsyncIterator[tuple[SqliteDatabase, TenantId]]:
    made = await opened(tmp_path, wait_s=5.0)
    yield made
    await made[0].close()


def account(tenant: TenantId, email: str) -> AccountRow:
    return AccountRow(
        tenant_id=tenant, id=new_id(), email=email, name="", role="operator", created_at=utc_now()
    )


async def emails(database: SqliteDatabase, tenant: TenantId) -> list[str]:
    async with database.read(tenant) as unit:
        return list(await unit.session.scalars(select(AccountRow.email).order_by(AccountRow.email)))


async def test_what_an_acknowledged_write_rests_on(one: tuple[SqliteDatabase, TenantId]) -> None:
    database, _ = one
    for write in (False, True):
        async with database.across_tenants("backup", write=write) as unit:
            asked = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
            found = {p: await unit.session.scalar(text(f"PRAGMA {p}")) for p in asked}
        assert found == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1, "busy_timeout": 5000}


async def test_an_exception_rolls_back_and_runs_no_hint(one: tuple[SqliteDatabase, TenantId]) -> None:
    database, tenant = one
    ran: list[str] = []

    async def hint() -> None:
        ran.append(",".join(await emails(database, tenant)))

    async def work(email: str, *, fail: bool) -> None:
        async with database.write(tenant) as unit:
            unit.session.add(account(tenant, email))
            unit.after_commit(hint)
            await unit.session.flush()
            if fail:
                raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await work("lost", fail=True)
    assert await emails(database, tenant) == []
    await work("kept", fail=False)
    assert ran == ["kept"]  # it sees what was committed


async def test_a_failing_hint_does_not_undo_the_answer(one: tuple[SqliteDatabase, TenantId]) -> None:
    database, tenant = one
    ran: list[int] = []

    async def bad() -> None:
        raise RuntimeError("the bus is down")

    async def good() -> None:
        async with database.write(tenant) as unit:  # hints may write: the turn is given up before
            unit.session.add(account(tenant, "b"))
        ran.append(1)

    async with database.write(tenant) as unit:
        unit.session.add(account(tenant, "a"))
        unit.after_commit(bad)
        unit.after_commit(good)
    assert ran == [1]
    assert await emails(database, tenant) == ["a", "b"]


async def test_a_cancelled_write_leaves_nothing_and_blocks_nobody(
    one: tuple[SqliteDatabase, TenantId],
) -> None:
    database, tenant = one
    inside = asyncio.Event()

    async def work() -> None:
        async with database.write(tenant) as unit:
            unit.session.add(account(tenant, "lost"))
            await unit.session.flush()
            inside.set()
            await asyncio.Event().wait()

    for _ in range(5):
        inside.clear()
        task = asyncio.create_task(work())
        await inside.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with database.write(tenant) as unit:
        unit.session.add(account(tenant, "kept"))
    assert await emails(database, tenant) == ["kept"]


async def test_readers_see_a_snapshot_and_never_wait(one: tuple[SqliteDatabase, TenantId]) -> None:
    database, tenant = one
    count = select(func.count(AccountRow.id))
    async with database.read(tenant) as reader:
        assert await reader.session.scalar(count) == 0
        async with database.write(tenant) as writer:
            writer.session.add(account(tenant, "a"))
            await writer.session.flush()
            assert await emails(database, tenant) == []
        assert await reader.session.scalar(count) == 0
    assert await emails(database, tenant) == ["a"]


async def test_increments_are_never_lost(one: tuple[SqliteDatabase, TenantId]) -> None:
    database, tenant = one
    async with database.write(tenant) as unit:
        unit.session.add(account(tenant, "a"))

    async def one_more() -> None:
        async with database.write(tenant) as unit:
            row = (await unit.session.scalars(select(AccountRow))).one()
            row.name = str(int(row.name or "0") + 1)

    await asyncio.gather(*(one_more() for _ in range(50)))
    async with database.read(tenant) as unit:
        assert await unit.session.scalar(select(AccountRow.name)) == "50"


async def test_writers_take_their_turns_in_order(one: tuple[SqliteDatabase, TenantId]) -> None:
    database, tenant = one
    order: list[int] = []

    async def work(i: int) -> None:
        async with database.write(tenant):
            order.append(i)

    await asyncio.gather(*(work(i) for i in range(20)))
    assert order == list(range(20))


async def test_a_wait_for_the_writer_ends(tmp_path: Path) -> None:
    database, tenant = await opened(tmp_path, wait_s=0.1)
    async with database.write(tenant):
        with pytest.raises(Busy):
            async with database.write(tenant):
                pytest.fail("two writers at once")
    async with database.write(tenant) as unit:
        unit.session.add(account(tenant, "a"))
    await database.close()


async def test_a_wait_for_a_connection_ends(tmp_path: Path) -> None:
    database, tenant = await opened(tmp_path, wait_s=0.1, pool_size=1)
    async with database.read(tenant) as unit:
        await unit.session.scalar(select(AccountRow.id))
        with pytest.raises(Busy):
            await emails(database, tenant)
        async with database.write(tenant) as writer:  # readers can't keep the writer from its own
            writer.session.add(account(tenant, "a"))
    assert await emails(database, tenant) == ["a"]
    await database.close()


async def test_another_process_with_the_lock_makes_busy(tmp_path: Path) -> None:
    first, tenant = await opened(tmp_path, wait_s=0.1)
    second = SqliteDatabase(tmp_path / "mien.db", wait_s=0.1)
    async with first.write(tenant) as unit:
        unit.session.add(account(tenant, "a"))
        await unit.session.flush()
        with pytest.raises(Busy):
            async with second.write(tenant) as other:
                await other.session.scalar(select(AccountRow.id))
    await first.close()
    await second.close()


async def test_a_statement_that_runs_too_long_is_stopped(tmp_path: Path) -> None:
    database, tenant = await opened(tmp_path, run_s=0.2)
    endless = text("WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n")
    for write in (False, True):
        with pytest.raises(TimedOut):
            async with database.across_tenants("backup", write=write) as unit:
                await unit.session.execute(endless)
    async with database.write(tenant) as unit:  # the connection is as good as new
        unit.session.add(account(tenant, "a"))
    assert await emails(database, tenant) == ["a"]
    await database.close()


async def test_a_database_that_is_not_there_does_not_answer(tmp_path: Path) -> None:
    database = SqliteDatabase(tmp_path / "no" / "such" / "mien.db", wait_s=0.2)
    with pytest.raises(Unavailable):
        await database.ping()
    with pytest.raises(Unavailable):
        await emails(database, TenantId(new_id()))
    await database.close()


CHILD = Path(__file__).with_name("crashing_process.py")


def _killed_while_writing(path: Path, after: int) -> tuple[int, list[str]]:
    """(pid, what the process acknowledged) of one that is killed -9 once it has acknowledged `after`."""
    child = subprocess.Popen(
        [sys.executable, str(CHILD), str(path)], stdout=subprocess.PIPE, text=True, env={**os.environ}
    )
    watch = threading.Timer(60, child.kill)
    watch.start()
    assert child.stdout is not None
    told: list[str] = []
    for line in child.stdout:
        if line.endswith("\n"):
            told.append(line.strip())
        if len(told) == after:
            child.send_signal(signal.SIGKILL)
    child.stdout.close()
    assert child.wait(timeout=30) == -signal.SIGKILL
    watch.cancel()
    return child.pid, told


async def test_kill_9_loses_no_acknowledged_row_and_its_job_is_taken_up(tmp_path: Path) -> None:
    from tests.unit.jobs.conftest import close_office, open_office

    acknowledged: set[str] = set()
    for round_ in range(3):
        _, told = await asyncio.to_thread(_killed_while_writing, tmp_path, 20 + 7 * round_)
        acknowledged |= set(told)

    office = await open_office(tmp_path)
    kept = set(await emails(office.database, office.tenant))
    assert acknowledged <= kept | {"admin@localhost"}
    assert len(acknowledged) >= 20 + 27 + 34
    async with office.database.across_tenants("backup") as unit:
        assert await unit.session.scalar(text("PRAGMA integrity_check")) == "ok"
        assert (await unit.session.execute(text("PRAGMA foreign_key_check"))).all() == []

    # Each process was killed inside its job: all of them are here, and run to their end now.
    ran: list[str] = []

    async def finish(context: Any) -> dict[str, Any]:
        ran.append(str(context.id))
        return {}

    office.jobs.register("crash", finish)
    left = (await office.jobs.list(office.tenant)).items
    assert len(left) == 3
    assert {job.state for job in left} <= {"running", "queued"}
    await office.jobs.start(alone=True)
    for job in left:
        assert (await office.ended(job)).state == "succeeded"
    assert sorted(ran) == sorted(str(job.id) for job in left)
    await close_office(office)
