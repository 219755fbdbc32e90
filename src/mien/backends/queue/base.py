"""The port of job queues: who drains the job rows.

A job is a row (features/jobs), written in the transaction of what it belongs to. A queue only
carries ids, may carry one twice or lose it; claiming, retries and progress are the rows' affair.
"""

from collections.abc import Awaitable, Callable
from typing import Protocol
from uuid import UUID

JobHandler = Callable[[UUID], Awaitable[None]]
"""Runs the job of this id if it is still to be run. Never raises."""


class JobQueue(Protocol):
    async def start(self, handler: JobHandler) -> None:
        """Begin to hand ids to `handler`."""
        ...

    async def send(self, job_id: UUID) -> None:
        """Say that a job is ready. Cheap; may be dropped when full (rows are swept)."""
        ...

    async def stop(self, timeout_s: float = 10.0) -> None:
        """Take no more; wait for the running ones, then cancel them (their rows stay claimable)."""
        ...
