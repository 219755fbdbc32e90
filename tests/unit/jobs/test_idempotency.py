"""Idempotency keys: one request runs, the same one gets its answer, another one is refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from tests.unit.jobs.conftest import Office, SetClock, close_office, open_office

from mien.features.jobs.idempotency import IdempotencyLimits, IdempotencyService, StoredAnswer
from mien.kit.errors import BadInput, Busy, Conflict

ASKED, ASKED_ELSE = b"\x01" * 32, b"\x02" * 32
ANSWER = StoredAnswer(201, {"content-type": "application/json"}, b'{"id": 1}')


@pytest.fixture
async def open_(tmp_path: Path) -> AsyncIterator[Office]:
    made = await open_office(tmp_path)
    yield made
    await close_office(made)


async def test_the_same_request_gets_the_same_answer(open_: Office) -> None:
    keys = IdempotencyService(open_.database)
    assert await keys.begin(open_.tenant, "k", ASKED) is None
    await keys.finish(open_.tenant, "k", ANSWER)
    assert await keys.begin(open_.tenant, "k", ASKED) == ANSWER
    await keys.abandon(open_.tenant, "k")  # a kept answer stays
    assert await IdempotencyService(open_.database).begin(open_.tenant, "k", ASKED) == ANSWER


async def test_another_request_with_the_key_is_refused(open_: Office) -> None:
    keys = IdempotencyService(open_.database)
    await keys.begin(open_.tenant, "k", ASKED)
    for finished in (False, True):
        with pytest.raises(BadInput) as refused:
            await keys.begin(open_.tenant, "k", ASKED_ELSE)
        assert refused.value.status == 422
        if not finished:
            await keys.finish(open_.tenant, "k", ANSWER)


async def test_of_many_at_once_one_runs(open_: Office) -> None:
    keys = IdempotencyService(open_.database)
    got = await asyncio.gather(
        *(keys.begin(open_.tenant, "k", ASKED) for _ in range(20)), return_exceptions=True
    )
    assert got.count(None) == 1
    assert sum(isinstance(g, Conflict) for g in got) == 19


async def test_an_abandoned_key_is_free(open_: Office) -> None:
    keys = IdempotencyService(open_.database)
    await keys.begin(open_.tenant, "k", ASKED)
    await keys.abandon(open_.tenant, "k")
    assert await keys.begin(open_.tenant, "k", ASKED_ELSE) is None


async def test_tenants_do_not_share_keys(open_: Office) -> None:
    keys = IdempotencyService(open_.database)
    await keys.begin(open_.tenant, "k", ASKED)
    await keys.finish(open_.tenant, "k", ANSWER)
    assert await keys.begin(open_.other, "k", ASKED_ELSE) is None
    assert await keys.begin(open_.tenant, "k", ASKED) == ANSWER


async def test_a_dead_process_leaves_its_keys(open_: Office) -> None:
    dead = IdempotencyService(open_.database)
    await dead.begin(open_.tenant, "k", ASKED)
    clock = SetClock()
    several = IdempotencyService(open_.database, limits=IdempotencyLimits(alone=False), clock=clock)
    with pytest.raises(Conflict):
        await several.begin(open_.tenant, "k", ASKED)
    clock.forward(seconds=601)
    assert await several.begin(open_.tenant, "k", ASKED) is None
    # The embedded form has one process: whoever held the key before is gone.
    restarted = IdempotencyService(open_.database)
    assert await restarted.begin(open_.tenant, "k", ASKED) is None
    await dead.finish(open_.tenant, "k", ANSWER)  # comes back, and changes nothing
    with pytest.raises(Conflict):
        await restarted.begin(open_.tenant, "k", ASKED)


async def test_keys_expire(open_: Office) -> None:
    clock = SetClock()
    keys = IdempotencyService(open_.database, keep=timedelta(hours=1), clock=clock)
    for key in ("a", "b"):
        await keys.begin(open_.tenant, key, ASKED)
        await keys.finish(open_.tenant, key, ANSWER)
    assert await keys.sweep() == 0
    clock.forward(hours=1, seconds=1)
    assert await keys.begin(open_.tenant, "a", ASKED_ELSE) is None
    assert await keys.sweep() == 1


async def test_a_tenant_keeps_a_bounded_number(open_: Office) -> None:
    few = IdempotencyLimits(keys=20)
    keys = IdempotencyService(open_.database, limits=few)
    for i in range(150):
        await keys.begin(open_.tenant, f"{i}", ASKED)
        await keys.finish(open_.tenant, f"{i}", ANSWER)
    kept = 0
    for i in range(150):
        if await keys.begin(open_.tenant, f"{i}", ASKED) is not None:
            kept += 1
        else:
            await keys.abandon(open_.tenant, f"{i}")
    assert 0 < kept <= 84  # looked at every 64th time


async def test_too_many_under_way_are_refused(open_: Office) -> None:
    keys = IdempotencyService(open_.database, limits=IdempotencyLimits(keys=10))

    async def begin_many() -> None:
        for i in range(200):
            await keys.begin(open_.tenant, f"{i}", ASKED)

    with pytest.raises(Busy):
        await begin_many()


async def test_an_answer_is_bounded(open_: Office) -> None:
    keys = IdempotencyService(open_.database)
    await keys.begin(open_.tenant, "k", ASKED)
    with pytest.raises(ValueError, match="1 MiB"):
        await keys.finish(open_.tenant, "k", StoredAnswer(200, {}, bytes((1 << 20) + 1)))
    await keys.finish(open_.tenant, "k", StoredAnswer(200, {}, bytes(1 << 20)))
