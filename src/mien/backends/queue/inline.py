"""The inline queue: worker tasks of this process. Durable because the rows are."""

import asyncio
import contextlib
import logging
from uuid import UUID

from mien.backends.queue.base import JobHandler

_log = logging.getLogger(__name__)


class InlineJobQueue:
    """See `JobQueue`: `workers` jobs at the same time, `size` ids waiting. An id that is waiting or
    running is not taken a second time; one that finds the queue full is dropped (rows are swept)."""

    def __init__(self, *, workers: int = 2, size: int = 1000) -> None:
        self._workers = workers
        self._waiting: asyncio.Queue[UUID] = asyncio.Queue(size)
        self._known: set[UUID] = set()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, handler: JobHandler) -> None:
        if self._tasks:
            raise RuntimeError("the queue is started once")
        self._tasks = [asyncio.create_task(self._work(handler)) for _ in range(self._workers)]

    async def send(self, job_id: UUID) -> None:
        if job_id in self._known:
            return
        with contextlib.suppress(asyncio.QueueFull):
            self._waiting.put_nowait(job_id)
            self._known.add(job_id)

    async def _work(self, handler: JobHandler) -> None:
        while True:
            job_id = await self._waiting.get()
            try:
                await handler(job_id)
            except Exception:  # a handler never raises; should one, its worker goes on
                _log.exception("a job's handler raised", extra={"job": str(job_id)})
            finally:
                self._known.discard(job_id)
                self._waiting.task_done()

    async def stop(self, timeout_s: float = 10.0) -> None:
        """Drops what waits, waits for what runs, then cancels it."""
        while not self._waiting.empty():
            self._known.discard(self._waiting.get_nowait())
            self._waiting.task_done()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._waiting.join(), timeout_s)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
