"""What the tenants' endpoints take and give."""

from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import BaseModel, ConfigDict, Field


class TenantOut(BaseModel):
    """The tenant that the key belongs to, and what the key may do."""

    id: UUID
    slug: str
    name: str
    role: str
    created_at: datetime


class KeyCreate(BaseModel):
    """A new API key."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(min_length=1, max_length=255, description="What the key is for.")]
    kind: Annotated[
        Literal["admin", "service"],
        Field(description="`admin` acts as its maker's account; `service` recognises and reads."),
    ] = "service"
    expires_at: Annotated[datetime | None, Field(description="With a time zone; none: never.")] = None


class KeyOut(BaseModel):
    """An API key, without its secret."""

    id: UUID
    name: str
    kind: str
    prefix: str
    role: str
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


class NewKeyOut(KeyOut):
    """An API key as it is shown once."""

    key: Annotated[str, Field(description="The key itself. It is not kept and can't be shown again.")]


class KeysOut(BaseModel):
    """A page of keys."""

    keys: list[KeyOut]
    next_cursor: str | None
