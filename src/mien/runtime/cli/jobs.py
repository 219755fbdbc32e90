"""`mien jobs`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from mien.runtime.cli.collections import take
from mien.runtime.cli.frame import Shown, options, quoted

if TYPE_CHECKING:
    from mien.runtime.client import Client

_OVER = frozenset({"succeeded", "failed", "parked", "cancelled"})
_LOOK_S = 0.5


@click.group()
def jobs() -> None:
    """Background jobs, such as imports."""


def _progress(job: dict[str, Any]) -> str:
    progress = job.get("progress") or {}
    done, total = progress.get("done", job.get("done")), progress.get("total", job.get("total"))
    return f"{done}/{total}" if total else ""


@jobs.command("list")
@click.option("--limit", type=click.IntRange(1, 1_000_000), default=50, show_default=True)
@options
def list_jobs(shown: Shown, limit: int) -> int:
    """List the jobs, newest first. Exit code 1 if there is none."""
    found = shown.run(lambda client: take(client, "/v1/jobs", "jobs", limit))
    if shown.as_json:
        shown.json({"jobs": found})
    elif found:
        rows = [(j["id"], j["kind"], j["state"], _progress(j), j["created_at"][:19]) for j in found]
        shown.table(["job", "kind", "state", ">progress", "created"], rows)
    else:
        shown.out.print("No job yet.")
    return 0 if found else 1


@jobs.command("show")
@click.argument("job_id", metavar="JOB")
@click.option("--wait", is_flag=True, help="Wait for its end.")
@options
def show(shown: Shown, job_id: str, wait: bool) -> None:
    """Show a job."""

    async def work(client: Client) -> dict[str, Any]:
        if wait:
            return await follow(shown, client, job_id)
        job: dict[str, Any] = await client.call("GET", f"/v1/jobs/{quoted(job_id)}")
        return job

    show_job(shown, shown.run(work))


@jobs.command("cancel")
@click.argument("job_id", metavar="JOB")
@options
def cancel(shown: Shown, job_id: str) -> None:
    """Cancel a job."""
    path = f"/v1/jobs/{quoted(job_id)}/cancel"
    show_job(shown, shown.run(lambda client: client.call("POST", path)))


async def follow(shown: Shown, client: Client, job_id: str) -> dict[str, Any]:
    """The job once it is over; its progress is shown meanwhile."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, console=shown.err, disable=not shown.err.is_terminal) as bar:
        task = bar.add_task("waiting", total=None)
        while True:
            job: dict[str, Any] = await client.call("GET", f"/v1/jobs/{quoted(job_id)}")
            progress = job.get("progress") or {}
            done, total = progress.get("done", job.get("done")), progress.get("total", job.get("total"))
            bar.update(task, description=job["state"], completed=done or 0, total=total or None)
            if job["state"] in _OVER:
                return job
            await asyncio.sleep(_LOOK_S)


def show_job(shown: Shown, job: dict[str, Any]) -> None:
    """All that is known of a job."""
    if shown.as_json:
        shown.json(job)
        return
    rows = [("job", job["id"]), ("kind", job["kind"]), ("state", job["state"]), ("progress", _progress(job))]
    rows += [(name, job[name]) for name in ("attempts", "error", "created_at") if job.get(name)]
    result = job.get("result") or {}
    rows += [(name, value) for name, value in result.items() if isinstance(value, int | float | str)]
    shown.table(["", ""], [row for row in rows if row[1] != ""])
    for fault in (result.get("errors") or [])[:20]:
        shown.line(f"  {fault}")
