"""Pipelines as threads of this process: the embedded form.

ONNX Runtime, OpenCV and simplejpeg release the GIL in their long calls, so threads use all cores.
A started analysis can't be interrupted: after a time-out its caller is answered, but its thread stays
taken until it is done, and counts as running.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from mien.backends.pipelines.base import PipelineStats
from mien.kit.errors import Busy, MienError, TimedOut, Unavailable
from mien.kit.tenant import TenantId
from mien.vision.values import Analysis, AnalyzeRequest, Space


class Analyzes(Protocol):
    """What this adapter needs of an analyzer; it is called from several threads at once."""

    def analyze(self, data: bytes, request: AnalyzeRequest) -> Analysis: ...


class ThreadPipelines:
    """`threads` analyses at once, `waiting` callers in line (first come, first served), the rest refused.

    `opener` makes the analyzer; it runs once, in a thread, at `open()` or before the first analysis,
    and again after a failure (a model that was missing may have arrived).
    """

    def __init__(
        self,
        opener: Callable[[], Analyzes],
        space: Space,
        *,
        threads: int,
        waiting: int,
        wait_s: float,
        run_s: float,
    ) -> None:
        self._opener = opener
        self._space = space
        self._threads = threads
        self._max_waiting = waiting
        self._wait_s = wait_s
        self._run_s = run_s
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="pipeline")
        self._analyzer: Analyzes | None = None
        self._opening = asyncio.Lock()
        self._line: deque[asyncio.Future[None]] = deque()
        self._running = 0
        self._refused = 0
        self._done = 0
        self._mean_s = 0.2
        self._closed = False

    @property
    def space(self) -> Space:
        return self._space

    @property
    def is_open(self) -> bool:
        """Whether the models are loaded."""
        return self._analyzer is not None

    async def open(self) -> None:
        """Load the models now. Raises ModelError when one is missing or does not hold."""
        await self._opened()

    async def _opened(self) -> Analyzes:
        if self._analyzer is None:
            async with self._opening:
                if self._analyzer is None:
                    loop = asyncio.get_running_loop()
                    self._analyzer = await loop.run_in_executor(self._pool, self._opener)
        return self._analyzer

    async def analyze(self, tenant: TenantId, data: bytes, request: AnalyzeRequest) -> Analysis:
        if self._closed:
            raise Unavailable("The server is stopping; ask again soon.", retry_after_s=5)
        await self._take()
        try:
            analyzer = await self._opened()
            started = time.monotonic()
            work = asyncio.get_running_loop().run_in_executor(self._pool, analyzer.analyze, data, request)
        except BaseException:
            self._give()
            raise
        work.add_done_callback(lambda done: self._finished(done, started))
        # The shield keeps the thread's place taken until it is really free.
        result, _ = await asyncio.wait({work}, timeout=self._run_s)
        if not result:
            raise TimedOut(f"The photo took longer than {self._run_s:g} s; send a smaller one.")
        return work.result()

    def _finished(self, work: asyncio.Future[Analysis], started: float) -> None:
        self._mean_s += 0.1 * (time.monotonic() - started - self._mean_s)
        self._done += 1
        if not work.cancelled():
            work.exception()  # looked at, so that a caller who left makes no noise
        self._give()

    async def _take(self) -> None:
        if self._running < self._threads and not self._line:
            self._running += 1
            return
        if len(self._line) >= self._max_waiting:
            raise self._refusal("All pipelines are taken and the line is full; ask again later.")
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._line.append(place)
        try:
            await asyncio.wait_for(asyncio.shield(place), self._wait_s)
        except BaseException as error:
            if place.done() and not place.cancelled() and place.exception() is None:
                # The place was given in the same instant: hand it on.
                self._give()
            elif place in self._line:
                self._line.remove(place)
            place.cancel()
            if isinstance(error, TimeoutError):
                raise self._refusal(
                    f"No pipeline came free within {self._wait_s:g} s; ask again later."
                ) from None
            raise

    def _give(self) -> None:
        """Hand this place to the first in line, or free it."""
        while self._line:
            place = self._line.popleft()
            if not place.done():
                place.set_result(None)
                return
        self._running -= 1

    def _refusal(self, message: str) -> MienError:
        self._refused += 1
        wait = self._mean_s * (len(self._line) + self._running) / self._threads
        return Busy(message, retry_after_s=float(min(60, max(1, round(wait)))))

    def stats(self) -> PipelineStats:
        return PipelineStats(
            capacity=self._threads,
            running=self._running,
            waiting=len(self._line),
            refused_total=self._refused,
            done_total=self._done,
        )

    async def close(self) -> None:
        """Refuse who waits, wait for what runs (at most `run_s`)."""
        self._closed = True
        while self._line:
            place = self._line.popleft()
            if not place.done():
                place.set_exception(Unavailable("The server is stopping; ask again soon.", retry_after_s=5))
        self._pool.shutdown(wait=False, cancel_futures=True)
        await asyncio.get_running_loop().run_in_executor(None, self._pool.shutdown)
