"""The embedded bus: events between the parts of one process, on its event loop."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from mien.backends.bus.base import Event
from mien.kit.errors import Busy, Unavailable
from mien.kit.tenant import TenantId

LOST = "bus.lost"
"""Topic of the event that tells a slow subscriber how many it lost: body {"count": int}. It comes
before the oldest event that was kept, whatever the topics asked for."""


class _Subscriber:
    def __init__(self, topics: Sequence[str], capacity: int) -> None:
        self._topics = frozenset(topics)
        self._waiting: deque[Event] = deque()
        self._capacity = capacity
        self._lost = 0
        self._closed = False
        self._news = asyncio.Event()

    def offer(self, event: Event) -> None:
        if not self._wants(event.topic):
            return
        if len(self._waiting) == self._capacity:
            self._waiting.popleft()
            self._lost += 1
        self._waiting.append(event)
        self._news.set()

    def _wants(self, topic: str) -> bool:
        parts = topic.split(".")
        return any(".".join(parts[:depth]) in self._topics for depth in range(1, len(parts) + 1))

    def end(self) -> None:
        self._closed = True
        self._news.set()

    async def events(self) -> AsyncIterator[Event]:
        while True:
            while self._lost or self._waiting:
                if self._lost:
                    lost, self._lost = self._lost, 0
                    yield Event(LOST, {"count": lost})
                else:
                    yield self._waiting.popleft()
            if self._closed:
                return
            self._news.clear()
            await self._news.wait()


class MemoryEventBus:
    """`EventBus` within one process. Not thread-safe: all calls come from one event loop."""

    def __init__(self, *, capacity: int = 256, max_subscribers: int = 1_000) -> None:
        """`capacity`: events that wait for one subscriber; `max_subscribers`: of all tenants."""
        if capacity < 1 or max_subscribers < 1:
            raise ValueError("a bus holds at least one event and one subscriber")
        self._capacity = capacity
        self._max_subscribers = max_subscribers
        self._subscribers: dict[TenantId, set[_Subscriber]] = {}
        self._count = 0
        self._closed = False

    async def publish(self, tenant: TenantId, event: Event) -> None:
        """See `EventBus.publish`; never waits. After `close` events go nowhere."""
        for subscriber in self._subscribers.get(tenant, ()):
            subscriber.offer(event)

    @asynccontextmanager
    async def subscribe(self, tenant: TenantId, topics: Sequence[str]) -> AsyncIterator[AsyncIterator[Event]]:
        """See `EventBus.subscribe`. The iterator ends at `close`. Raises Busy, Unavailable."""
        if self._closed:
            raise Unavailable("The event bus is closed.")
        if self._count >= self._max_subscribers:
            raise Busy("Too many listeners for live events; try again later.", retry_after_s=5.0)
        subscriber = _Subscriber(topics, self._capacity)
        self._subscribers.setdefault(tenant, set()).add(subscriber)
        self._count += 1
        try:
            yield subscriber.events()
        finally:
            self._count -= 1
            peers = self._subscribers.get(tenant, set())
            peers.discard(subscriber)
            if not peers:
                self._subscribers.pop(tenant, None)
            subscriber.end()

    async def close(self) -> None:
        """End every subscription once it has read what waits for it."""
        self._closed = True
        for subscribers in self._subscribers.values():
            for subscriber in subscribers:
                subscriber.end()
