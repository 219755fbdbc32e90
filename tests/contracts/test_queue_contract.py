"""The contract of job queues, held by every adapter."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from mien.backends.queue.base import JobQueue
from mien.backends.queue.inline import InlineJobQueue
from mien.kit.ids import new_id


@pytest.fixture(params=["inline"])
async def queue(request: pytest.FixtureRequest) -> AsyncIterator[JobQueue]:
    """Two jobs at once, at most 50 ids waiting."""
    assert request.param == "inline"
    made = InlineJobQueue(workers=2, size=50)
    yield made
    await made.stop(timeout_s=1.0)


class Ran:
    """A handler that notes what it ran, and waits where it is told to."""

    def __init__(self, *, held: bool = False) -> None:
        self.ids: list[UUID] = []
        self.running = 0
        self.most = 0
        self.cancelled = 0
        self.go = asyncio.Event()
        self.changed = asyncio.Condition()
        if not held:
            self.go.set()

    async def __call__(self, job_id: UUID) -> None:
        self.running += 1
        self.most = max(self.most, self.running)
        async with self.changed:
            self.changed.notify_all()
        try:
            await self.go.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1
        async with self.changed:
            self.ids.append(job_id)
            self.changed.notify_all()

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5), self.changed:
            await self.changed.wait_for(lambda: len(self.ids) >= count)

    async def until_running(self, count: int) -> None:
        async with asyncio.timeout(5), self.changed:
            await self.changed.wait_for(lambda: self.running >= count)


async def test_every_id_is_handed_over(queue: JobQueue) -> None:
    ran = Ran()
    await queue.start(ran)
    ids = [new_id() for _ in range(20)]
    for job_id in ids:
        await queue.send(job_id)
    await ran.until(20)
    assert set(ids) <= set(ran.ids)


async def test_no_more_run_at_once_than_workers(queue: JobQueue) -> None:
    ran = Ran(held=True)
    await queue.start(ran)
    for _ in range(10):
        await queue.send(new_id())
    await ran.until_running(2)
    ran.go.set()
    await ran.until(10)
    assert ran.most == 2


async def test_a_full_queue_drops_and_does_not_block(queue: JobQueue) -> None:
    ran = Ran(held=True)
    await queue.start(ran)
    async with asyncio.timeout(5):
        for _ in range(1000):
            await queue.send(new_id())
    ran.go.set()
    await ran.until(50)
    assert 50 <= len(ran.ids) <= 60


async def test_what_ended_can_be_sent_again(queue: JobQueue) -> None:
    ran = Ran()
    await queue.start(ran)
    job_id = new_id()
    await queue.send(job_id)
    await ran.until(1)
    await asyncio.sleep(0)
    await queue.send(job_id)
    await ran.until(2)
    assert ran.ids == [job_id, job_id]


async def test_a_worker_survives_its_handler(queue: JobQueue) -> None:
    ran = Ran()
    bad = {new_id() for _ in range(5)}

    async def handler(job_id: UUID) -> None:
        if job_id in bad:
            raise RuntimeError("a handler never raises, but this one does")
        await ran(job_id)

    await queue.start(handler)
    for job_id in bad:
        await queue.send(job_id)
    await queue.send(new_id())
    await ran.until(1)


async def test_stop_waits_for_what_runs(queue: JobQueue) -> None:
    ran = Ran(held=True)
    await queue.start(ran)
    await queue.send(new_id())
    await ran.until_running(1)
    stopping = asyncio.create_task(queue.stop(timeout_s=5.0))
    await asyncio.sleep(0)
    ran.go.set()
    await stopping
    assert len(ran.ids) == 1
    assert ran.cancelled == 0


async def test_stop_cancels_what_runs_too_long(queue: JobQueue) -> None:
    ran = Ran(held=True)
    await queue.start(ran)
    await queue.send(new_id())
    await ran.until_running(1)
    async with asyncio.timeout(5):
        await queue.stop(timeout_s=0.05)
    assert ran.cancelled == 1
    assert ran.ids == []
