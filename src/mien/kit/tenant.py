"""Whose data, and who asks."""

from dataclasses import dataclass
from typing import Literal, NewType
from uuid import UUID

TenantId = NewType("TenantId", UUID)

Role = Literal["system_admin", "tenant_admin", "site_manager", "operator", "worker"]


@dataclass(frozen=True, slots=True)
class Principal:
    """Who is behind a request: a key (or the machine's own administrator over the local socket)."""

    tenant_id: TenantId
    role: Role
    key_id: UUID | None = None
    """None for the owner of the data folder, who comes over the local socket or in process."""
