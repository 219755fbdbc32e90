"""Jobs: claimed once, tried again, taken up after a crash, stopped, and kept apart by tenant."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from tests.unit.jobs.conftest import LIMITS, Office, SetClock, close_office, open_office

from mien.features.jobs.service import Job, JobContext, JobLimits
from mien.kit.errors import BadInput, Busy, Conflict, NotFound
from mien.kit.ids import new_id


async def done(_: JobContext) -> dict[str, Any]:
    return {"answer": 42}


async def test_a_job_runs_and_keeps_its_result(office: Office) -> None:
    seen: list[JobContext] = []

    async def handler(context: JobContext) -> dict[str, Any]:
        seen.append(context)
        await context.progress(3, 7, "three")
        return {"answer": context.payload["question"] * 2}

    office.jobs.register("sum", handler)
    await office.jobs.start(alone=True)
    job = await office.ended(await office.enqueue("sum", {"question": 21}))
    assert (job.state, job.result, job.attempts, job.error) == ("succeeded", {"answer": 42}, 1, None)
    assert (job.done, job.total, job.note) == (3, 7, "three")
    assert seen[0].tenant == office.tenant
    assert job.started_at is not None
    assert job.created_at <= job.started_at <= job.finished_at  # type: ignore[operator]


async def test_a_job_of_a_transaction_that_fails_is_not_there(office: Office) -> None:
    office.jobs.register("x", done)
    await office.jobs.start(alone=True)
    jobs: list[Job] = []

    async def fail() -> None:
        async with office.database.write(office.tenant) as unit:
            jobs.append(await office.jobs.enqueue(unit, office.tenant, "x", {}))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    with pytest.raises(NotFound):
        await office.jobs.get(office.tenant, jobs[0].id)


async def test_a_fault_that_may_pass_is_tried_again(office: Office) -> None:
    tries = iter([Busy("not yet"), RuntimeError("secret path /etc/x"), None])

    async def handler(_: JobContext) -> dict[str, Any]:
        fault = next(tries)
        if fault is not None:
            raise fault
        return {}

    office.jobs.register("x", handler)
    await office.jobs.start(alone=True)
    job = await office.ended(await office.enqueue("x"))
    assert (job.state, job.attempts) == ("succeeded", 3)


async def test_a_job_that_never_works_is_parked_and_tells_nothing_internal(office: Office) -> None:
    async def handler(_: JobContext) -> dict[str, Any]:
        raise RuntimeError("secret path /etc/x")

    office.jobs.register("x", handler)
    await office.jobs.start(alone=True)
    job = await office.ended(await office.enqueue("x", max_attempts=2))
    assert (job.state, job.attempts) == ("parked", 2)
    assert job.error is not None
    assert "secret" not in job.error


async def test_bad_input_is_not_tried_again(office: Office) -> None:
    async def handler(_: JobContext) -> dict[str, Any]:
        raise BadInput("The archive is empty.")

    office.jobs.register("x", handler)
    await office.jobs.start(alone=True)
    job = await office.ended(await office.enqueue("x"))
    assert (job.state, job.attempts, job.error) == ("failed", 1, "The archive is empty.")


async def test_an_ended_job_can_be_tried_again_on_request(office: Office) -> None:
    works = False

    async def handler(_: JobContext) -> dict[str, Any]:
        if not works:
            raise BadInput("no")
        return {"ok": True}

    office.jobs.register("x", handler)
    await office.jobs.start(alone=True)
    job = await office.ended(await office.enqueue("x"))
    works = True
    assert (await office.jobs.retry(office.tenant, job.id)).state == "queued"
    again = await office.ended(job)
    assert (again.state, again.error, again.result) == ("succeeded", None, {"ok": True})
    with pytest.raises(Conflict):
        await office.jobs.retry(office.tenant, job.id)


async def test_a_waiting_job_is_cancelled_at_once(office: Office) -> None:
    office.jobs.register("x", done)
    job = await office.enqueue("x")
    assert (await office.jobs.cancel(office.tenant, job.id)).state == "cancelled"
    await office.jobs.start(alone=True)
    assert await office.jobs.sweep() == 0
    assert (await office.jobs.get(office.tenant, job.id)).attempts == 0


async def test_a_running_job_is_told_to_stop(office: Office) -> None:
    running = asyncio.Event()

    async def handler(context: JobContext) -> dict[str, Any]:
        running.set()
        while not context.cancelled:  # noqa: ASYNC110 - as a handler looks between two photos
            await asyncio.sleep(0)
        return {"so far": 1}

    office.jobs.register("x", handler)
    await office.jobs.start(alone=True)
    job = await office.enqueue("x")
    await running.wait()
    await office.jobs.cancel(office.tenant, job.id)
    assert (await office.ended(job)).state == "cancelled"
    other = await _succeeded(office)
    with pytest.raises(Conflict):
        await office.jobs.cancel(office.tenant, other.id)


async def _succeeded(office: Office) -> Job:
    office.jobs.register("quick", done)
    return await office.ended(await office.enqueue("quick"))


async def test_of_many_claimers_one_runs_it(tmp_path: Path) -> None:
    runs: list[int] = []

    async def handler(_: JobContext) -> dict[str, Any]:
        runs.append(1)
        await asyncio.sleep(0)
        return {}

    first = await open_office(tmp_path)
    second = await open_office(tmp_path)  # another process on the same file
    for office in (first, second):
        office.jobs.register("x", handler)
    jobs = [await first.enqueue("x") for _ in range(10)]
    await asyncio.gather(*(o.jobs.run(job.id) for job in jobs for o in (first, second, first)))
    assert len(runs) == 10
    assert {(await first.jobs.get(first.tenant, job.id)).attempts for job in jobs} == {1}
    await close_office(first)
    await close_office(second)


async def test_a_stop_gives_the_job_back_without_a_try(tmp_path: Path) -> None:
    running = asyncio.Event()

    async def forever(_: JobContext) -> dict[str, Any]:
        running.set()
        await asyncio.Event().wait()
        return {}

    first = await open_office(tmp_path)
    first.jobs.register("x", forever)
    await first.jobs.start(alone=True)
    job = await first.enqueue("x", max_attempts=1)
    await running.wait()
    await first.jobs.stop(timeout_s=0.05)
    given_back = await first.jobs.get(first.tenant, job.id)
    assert (given_back.state, given_back.attempts) == ("queued", 0)
    await close_office(first)

    second = await open_office(tmp_path)
    second.jobs.register("x", done)
    await second.jobs.start(alone=True)
    assert (await second.ended(job)).state == "succeeded"
    await close_office(second)


async def test_a_silent_process_loses_its_jobs_after_the_lease(tmp_path: Path) -> None:
    clock = SetClock()
    office = await open_office(tmp_path, clock=clock)
    held = asyncio.Event()
    let_go = asyncio.Event()

    async def hangs(_: JobContext) -> dict[str, Any]:
        held.set()
        await let_go.wait()
        return {"by": "first"}

    slow = JobLimits(beat_s=3600)  # a process that does not beat any more
    first = await open_office(tmp_path, limits=slow, clock=clock)
    first.jobs.register("x", hangs)
    office.jobs.register("x", lambda _: _second())
    job = await first.enqueue("x")
    run = asyncio.create_task(first.jobs.run(job.id))
    await held.wait()
    clock.forward(seconds=30)
    await office.jobs.run(job.id)
    assert (await office.jobs.get(office.tenant, job.id)).state == "running"
    clock.forward(seconds=31)
    await office.jobs.run(job.id)
    taken = await office.jobs.get(office.tenant, job.id)
    assert (taken.state, taken.result, taken.attempts) == ("succeeded", {"by": "second"}, 2)
    let_go.set()
    await run  # comes back from the dead, and changes nothing
    assert (await office.jobs.get(office.tenant, job.id)).result == {"by": "second"}
    await close_office(first)
    await close_office(office)


async def _second() -> dict[str, Any]:
    return {"by": "second"}


async def test_progress_is_written_seldom_and_told(office: Office) -> None:
    async def handler(context: JobContext) -> dict[str, Any]:
        for i in range(500):
            await context.progress(i + 1, 500, f"{i}")
        return {}

    office.jobs.register("x", handler)
    async with office.bus.subscribe(office.tenant, ["jobs.progress"]) as events:
        await office.jobs.start(alone=True)
        job = await office.enqueue("x")
        told = [await anext(events)]
        while told[-1].body["state"] != "succeeded":
            told.append(await anext(events))
    assert len(told) < 100
    assert told[-1].body["done"] == 500
    assert (await office.jobs.get(office.tenant, job.id)).done == 500


async def test_jobs_are_listed_newest_first_in_pages(office: Office) -> None:
    made = [await office.enqueue("a" if i % 2 else "b") for i in range(7)]
    first = await office.jobs.list(office.tenant, limit=5)
    rest = await office.jobs.list(office.tenant, limit=5, cursor=first.next_cursor)
    assert [j.id for j in (*first.items, *rest.items)] == [j.id for j in reversed(made)]
    assert rest.next_cursor is None
    assert len((await office.jobs.list(office.tenant, kind="a")).items) == 3
    assert (await office.jobs.list(office.tenant, state="running")).items == ()
    with pytest.raises(BadInput):
        await office.jobs.list(office.tenant, kind="a", cursor=first.next_cursor)


async def test_another_tenants_job_is_not_there(office: Office) -> None:
    job = await office.enqueue("x")
    assert (await office.jobs.list(office.other)).items == ()
    for act in (office.jobs.get, office.jobs.cancel, office.jobs.retry):
        with pytest.raises(NotFound):
            await act(office.other, job.id)
    with pytest.raises(NotFound):
        await office.jobs.get(office.tenant, new_id())


async def test_bounds_of_payload_and_of_what_waits(tmp_path: Path) -> None:
    few = JobLimits(queued_of_a_tenant=3, payload_bytes=LIMITS.payload_bytes)
    office = await open_office(tmp_path, limits=few)
    with pytest.raises(BadInput):
        await office.enqueue("x", {"text": "x" * 2000})
    for _ in range(3):
        await office.enqueue("x")
    with pytest.raises(Busy):
        await office.enqueue("x")
    await close_office(office)


async def test_ended_jobs_are_forgotten_in_time(tmp_path: Path) -> None:
    clock = SetClock()
    office = await open_office(tmp_path, clock=clock)
    old = await office.enqueue("x")
    await office.jobs.cancel(office.tenant, old.id)
    clock.forward(days=29)
    waiting = await office.enqueue("x")
    await office.jobs.sweep()
    assert len((await office.jobs.list(office.tenant)).items) == 2
    clock.forward(days=2)
    await office.jobs.sweep()
    assert [j.id for j in (await office.jobs.list(office.tenant)).items] == [waiting.id]
    await close_office(office)
