"""What the jobs' endpoints give."""

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from pydantic import BaseModel, Field

from mien.features.jobs.service import JobState


class ProgressOut(BaseModel):
    """How far a job is; `total` is null while it is not known."""

    done: int
    total: int | None
    note: str


class JobOut(BaseModel):
    """A job."""

    id: UUID
    kind: str
    state: Annotated[
        JobState, Field(description="`failed`: its input can't work; `parked`: tried `max_attempts` times.")
    ]
    progress: ProgressOut
    result: dict[str, Any] | None
    error: str | None
    attempts: int
    max_attempts: int
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class JobsOut(BaseModel):
    """A page of jobs, newest first."""

    jobs: list[JobOut]
    next_cursor: str | None
