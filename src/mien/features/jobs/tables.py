"""Tables of jobs and of idempotency keys."""

from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import JSON, ForeignKeyConstraint, Index, Integer, LargeBinary, String, Text
from sqlalchemy.orm import Mapped, mapped_column

from mien.backends.sql.base import TenantTable


class JobRow(TenantTable):
    """Work to be done, written in the transaction of the data that it belongs to.

    `owner` is the process that runs it; `heartbeat_at` its last sign of life; `not_before` holds a
    retry back.
    """

    __tablename__ = "job"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id"], ["tenant.id"], ondelete="CASCADE"),
        Index("ix_job_state_not_before", "state", "not_before"),
        Index("ix_job_tenant_created", "tenant_id", "created_at"),
    )

    id: Mapped[UUID] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(String(64))
    state: Mapped[str] = mapped_column(String(16))
    payload: Mapped[dict[str, Any]] = mapped_column(JSON)
    result: Mapped[dict[str, Any] | None] = mapped_column(JSON)
    error: Mapped[str | None] = mapped_column(Text)
    note: Mapped[str] = mapped_column(String(255))
    done: Mapped[int] = mapped_column(Integer)
    total: Mapped[int | None] = mapped_column(Integer)
    attempts: Mapped[int] = mapped_column(Integer)
    max_attempts: Mapped[int] = mapped_column(Integer)
    cancel_requested: Mapped[bool]
    owner: Mapped[UUID | None]
    not_before: Mapped[datetime]
    heartbeat_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]


class IdempotencyRow(TenantTable):
    """The answer that a request with an `Idempotency-Key` got, for as long as it may be sent again.

    `status` is None while the first request still runs, in the process `owner`.
    """

    __tablename__ = "idempotency_key"
    __table_args__ = (
        ForeignKeyConstraint(["tenant_id"], ["tenant.id"], ondelete="CASCADE"),
        Index("ix_idempotency_key_expires_at", "expires_at"),
    )

    key: Mapped[str] = mapped_column(String(128), primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary(32))
    owner: Mapped[UUID]
    status: Mapped[int | None] = mapped_column(Integer)
    headers: Mapped[dict[str, str] | None] = mapped_column(JSON)
    body: Mapped[bytes | None] = mapped_column(LargeBinary(1 << 20))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]
