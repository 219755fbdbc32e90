"""What every event bus does. A new adapter adds a parameter to `bus`."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from mien.backends.bus.base import Event, EventBus
from mien.backends.bus.memory import LOST, MemoryEventBus
from mien.kit.errors import Busy, Unavailable
from mien.kit.ids import new_id
from mien.kit.tenant import TenantId

A, B = TenantId(new_id()), TenantId(new_id())
CAPACITY = 8


@pytest.fixture(params=["memory"])
async def bus(request: pytest.FixtureRequest) -> AsyncIterator[EventBus]:
    made = MemoryEventBus(capacity=CAPACITY, max_subscribers=4)
    yield made
    await made.close()


def event(i: int, topic: str = "jobs.progress") -> Event:
    return Event(topic, {"i": i})


async def take(events: AsyncIterator[Event], count: int) -> list[Event]:
    async with asyncio.timeout(10):
        return [await anext(events) for _ in range(count)]


async def test_events_come_in_order(bus: EventBus) -> None:
    async with bus.subscribe(A, ["jobs"]) as events:
        for i in range(5):
            await bus.publish(A, event(i))
        assert await take(events, 5) == [event(i) for i in range(5)]


async def test_a_subscriber_that_waits_is_woken(bus: EventBus) -> None:
    async with bus.subscribe(A, ["jobs"]) as events:
        waiting = asyncio.create_task(take(events, 1))
        while not waiting.done():
            await bus.publish(A, event(1))
            await asyncio.sleep(0)
        assert (await waiting)[0] == event(1)


async def test_a_topic_holds_what_lies_under_it(bus: EventBus) -> None:
    async with bus.subscribe(A, ["jobs", "faces.added"]) as events:
        for topic in [
            "jobsx",
            "faces",
            "faces.gone",
            "jobs",
            "jobs.a.b",
            "faces.added",
            "x.jobs",
            "faces.added.now",
        ]:
            await bus.publish(A, Event(topic, {}))
        seen = [found.topic for found in await take(events, 4)]
        assert seen == ["jobs", "jobs.a.b", "faces.added", "faces.added.now"]


async def test_every_subscriber_gets_every_event(bus: EventBus) -> None:
    async with bus.subscribe(A, ["jobs"]) as first, bus.subscribe(A, ["jobs"]) as second:
        await bus.publish(A, event(1))
        assert await take(first, 1) == await take(second, 1) == [event(1)]


async def test_tenants_are_apart(bus: EventBus) -> None:
    async with bus.subscribe(A, ["jobs"]) as of_a, bus.subscribe(B, ["jobs"]) as of_b:
        await bus.publish(A, event(1))
        await bus.publish(B, event(2))
        assert await take(of_a, 1) == [event(1)]
        assert await take(of_b, 1) == [event(2)]


async def test_a_slow_subscriber_loses_the_oldest_and_is_told_how_many(bus: EventBus) -> None:
    async with bus.subscribe(A, ["jobs"]) as slow, bus.subscribe(A, ["jobs"]) as quick:
        for i in range(CAPACITY + 3):
            await bus.publish(A, event(i))
            assert await take(quick, 1) == [event(i)]
        kept = [event(i) for i in range(3, CAPACITY + 3)]
        assert await take(slow, CAPACITY + 1) == [Event(LOST, {"count": 3}), *kept]
        await bus.publish(A, event(99))
        assert await take(slow, 1) == [event(99)]


async def test_what_was_published_before_or_after_is_not_seen(bus: EventBus) -> None:
    await bus.publish(A, event(1))
    async with bus.subscribe(A, ["jobs"]) as events:
        await bus.publish(A, event(2))
        assert await take(events, 1) == [event(2)]
    await bus.publish(A, event(3))
    assert [found async for found in events] == []


async def test_close_ends_every_subscription(bus: EventBus) -> None:
    async with bus.subscribe(A, ["jobs"]) as events:
        await bus.publish(A, event(1))
        reading = asyncio.create_task(_all(events))
        await bus.close()
        async with asyncio.timeout(10):
            assert await reading == [event(1)]
    with pytest.raises(Unavailable):
        async with bus.subscribe(A, ["jobs"]):
            pass
    await bus.publish(A, event(2))  # goes nowhere


async def _all(events: AsyncIterator[Event]) -> list[Event]:
    return [found async for found in events]


async def test_subscribers_are_bounded_and_places_come_back(bus: EventBus) -> None:
    for _ in range(3):
        async with (
            bus.subscribe(A, ["a"]),
            bus.subscribe(A, ["a"]),
            bus.subscribe(B, ["a"]),
            bus.subscribe(B, ["a"]),
        ):
            with pytest.raises(Busy):
                async with bus.subscribe(A, ["a"]):
                    pass
