"""The bounds of thread pipelines and of the cache, with an analyzer that the test holds and releases."""

import asyncio
import hashlib
import threading

import numpy as np
import pytest

from mien.backends.pipelines.cached import CachedPipelines
from mien.backends.pipelines.threads import ThreadPipelines
from mien.kit.errors import Busy, ModelError, TimedOut, Unavailable
from mien.kit.ids import new_id
from mien.kit.tenant import TenantId
from mien.vision.values import Analysis, AnalyzedFace, AnalyzeRequest, Box, Embedding, Face, Space

SPACE = Space("sface", 1, "arcface112", 128)
A, B = TenantId(new_id()), TenantId(new_id())
REQUEST = AnalyzeRequest()


class Held:
    """Records what it was given and answers when `gate` is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)
        self.seen: list[bytes] = []

    def analyze(self, data: bytes, request: AnalyzeRequest) -> Analysis:
        self.seen.append(data)
        self.started.release()
        assert self.gate.wait(30)
        vector = np.frombuffer(hashlib.sha512(data).digest() * 2, dtype=np.uint8).astype(np.float32)
        vector /= np.linalg.norm(vector)
        face = Face(Box(0, 0, 9, 9), np.zeros((5, 2), np.float32), 0.9)
        return Analysis(9, 9, (AnalyzedFace(face, embedding=Embedding(vector, SPACE)),))

    async def wait_started(self) -> None:
        assert await asyncio.to_thread(self.started.acquire, timeout=30)


def make(
    held: Held, *, threads: int = 1, waiting: int = 8, wait_s: float = 30, run_s: float = 30
) -> ThreadPipelines:
    return ThreadPipelines(lambda: held, SPACE, threads=threads, waiting=waiting, wait_s=wait_s, run_s=run_s)


async def queued(pipelines: ThreadPipelines, count: int) -> None:
    """Let the loop turn until `count` callers stand in line."""
    for _ in range(1000):
        if pipelines.stats().waiting == count:
            return
        await asyncio.sleep(0)
    raise AssertionError(pipelines.stats())


async def test_below_at_and_over_the_bound() -> None:
    held = Held()
    pipelines = make(held, threads=2, waiting=2)
    running = [asyncio.ensure_future(pipelines.analyze(A, bytes([n]), REQUEST)) for n in range(2)]
    await held.wait_started()
    await held.wait_started()
    waiting = [asyncio.ensure_future(pipelines.analyze(A, bytes([n]), REQUEST)) for n in (2, 3)]
    await queued(pipelines, 2)
    with pytest.raises(Busy) as refused:
        await pipelines.analyze(A, b"over", REQUEST)
    assert refused.value.retry_after_s >= 1
    stats = pipelines.stats()
    assert (stats.capacity, stats.running, stats.waiting, stats.refused_total) == (2, 2, 2, 1)
    held.gate.set()
    await asyncio.gather(*running, *waiting)
    assert b"over" not in held.seen
    stats = pipelines.stats()
    assert (stats.running, stats.waiting, stats.done_total) == (0, 0, 4)
    await pipelines.close()


async def test_first_come_first_served_and_cancelled_work_never_runs() -> None:
    held = Held()
    pipelines = make(held)
    tasks = []
    for n in range(5):
        tasks.append(asyncio.ensure_future(pipelines.analyze(A, bytes([n]), REQUEST)))
        await queued(pipelines, n)
    tasks[2].cancel()
    await queued(pipelines, 3)
    held.gate.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert isinstance(results[2], asyncio.CancelledError)
    assert held.seen == [bytes([n]) for n in (0, 1, 3, 4)]
    assert pipelines.stats().running == 0
    await pipelines.close()


async def test_waiting_is_bounded_in_time() -> None:
    held = Held()
    pipelines = make(held, wait_s=0.05)
    first = asyncio.ensure_future(pipelines.analyze(A, b"1", REQUEST))
    await held.wait_started()
    with pytest.raises(Busy, match=r"within 0\.05 s"):
        await pipelines.analyze(A, b"2", REQUEST)
    held.gate.set()
    await first
    await pipelines.analyze(A, b"3", REQUEST)
    assert held.seen == [b"1", b"3"]
    await pipelines.close()


async def test_a_long_run_is_answered_but_keeps_its_place() -> None:
    held = Held()
    pipelines = make(held, run_s=0.05, waiting=0)
    with pytest.raises(TimedOut):
        await pipelines.analyze(A, b"slow", REQUEST)
    assert pipelines.stats().running == 1
    with pytest.raises(Busy):
        await pipelines.analyze(A, b"next", REQUEST)
    held.gate.set()
    await pipelines.close()


async def test_a_model_that_arrives_later_is_loaded_then() -> None:
    held = Held()
    held.gate.set()
    present = False

    def opener() -> Held:
        if not present:
            raise ModelError("yunet is not here; run `mien models pull`.")
        return held

    pipelines = ThreadPipelines(opener, SPACE, threads=1, waiting=1, wait_s=1, run_s=30)
    with pytest.raises(ModelError):
        await pipelines.analyze(A, b"1", REQUEST)
    assert pipelines.is_open is False
    assert pipelines.stats().running == 0
    present = True
    assert len((await pipelines.analyze(A, b"1", REQUEST)).faces) == 1
    await pipelines.close()


async def test_closing_refuses_who_waits() -> None:
    held = Held()
    pipelines = make(held)
    first = asyncio.ensure_future(pipelines.analyze(A, b"1", REQUEST))
    await held.wait_started()
    second = asyncio.ensure_future(pipelines.analyze(A, b"2", REQUEST))
    await queued(pipelines, 1)
    closing = asyncio.ensure_future(pipelines.close())
    with pytest.raises(Unavailable):
        await second
    held.gate.set()
    assert len((await first).faces) == 1
    await closing
    with pytest.raises(Unavailable):
        await pipelines.analyze(A, b"3", REQUEST)


async def test_the_cache_is_per_tenant_request_and_content() -> None:
    held = Held()
    held.gate.set()
    cached = CachedPipelines(make(held), entries=8, max_bytes=1 << 20)
    first = await cached.analyze(A, b"photo", REQUEST)
    assert await cached.analyze(A, b"photo", REQUEST) is first
    assert len(held.seen) == 1
    await cached.analyze(B, b"photo", REQUEST)
    await cached.analyze(A, b"photo", AnalyzeRequest(pose=True))
    await cached.analyze(A, b"other", REQUEST)
    assert len(held.seen) == 4
    assert cached.cache_stats().hits_total == 1
    assert first.faces[0].embedding is not None
    with pytest.raises(ValueError, match="read-only"):
        first.faces[0].embedding.vector[0] = 2
    await cached.close()


@pytest.mark.parametrize(
    ("entries", "max_bytes", "kept"), [(2, 1 << 20, 2), (8, 3 * 3512, 3), (0, 1 << 20, 0)]
)
async def test_the_cache_is_bounded_in_number_and_bytes(entries: int, max_bytes: int, kept: int) -> None:
    held = Held()
    held.gate.set()
    cached = CachedPipelines(make(held), entries=entries, max_bytes=max_bytes)
    for n in range(6):
        await cached.analyze(A, bytes([n]), REQUEST)
    stats = cached.cache_stats()
    assert stats.entries == kept
    assert stats.bytes <= max_bytes
    if kept:
        await cached.analyze(A, bytes([5]), REQUEST)
        assert cached.cache_stats().hits_total == 1
        await cached.analyze(A, bytes([0]), REQUEST)
        assert len(held.seen) == 7
    await cached.close()
