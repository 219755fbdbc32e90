"""Threads with a bounded queue before them, for adapters whose work blocks."""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from mien.kit.errors import Busy, TimedOut, Unavailable

T = TypeVar("T")


class BoundedThreads:
    """`threads` pieces of work run at once, `waiting` more wait; `subject` names them in errors
    ("The vector index")."""

    def __init__(self, subject: str, *, threads: int, waiting: int) -> None:
        self._subject = subject
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix=subject.lower().replace(" ", "-"))
        self._bound = threads + waiting
        self._lock = threading.Lock()
        self._taken = 0

    async def run(self, timeout_s: float, work: Callable[[], T]) -> T:
        """What `work` returns or raises.

        Raises Busy when the queue is full, Unavailable after `close`, TimedOut when there is no
        result in time (work that has begun ends on its own, and keeps its place until then).
        """
        with self._lock:
            if self._taken >= self._bound:
                raise Busy(f"{self._subject} has too much to do; try again shortly.")
            self._taken += 1
        try:
            future = self._threads.submit(work)
        except RuntimeError:
            self._release(None)
            raise Unavailable(f"{self._subject} is closed.") from None
        future.add_done_callback(self._release)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(future), timeout_s)
        except TimeoutError:
            raise TimedOut(f"{self._subject} did not answer within {timeout_s:g} s.") from None

    def _release(self, _: Future[T] | None) -> None:
        with self._lock:
            self._taken -= 1

    def close(self) -> None:
        """Take no more; what waits is cancelled, what runs is waited for (so: not on an event loop)."""
        self._threads.shutdown(wait=True, cancel_futures=True)
