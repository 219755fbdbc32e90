"""The port of the bus: live events between parts and processes. Events may be lost; rows are not."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from mien.kit.tenant import TenantId


@dataclass(frozen=True, slots=True)
class Event:
    """`topic` is dotted ("jobs.progress"); `body` holds JSON values, never faces or embeddings."""

    topic: str
    body: Mapping[str, object]


class EventBus(Protocol):
    """Every subscriber has a bounded queue; a slow one loses its oldest events and is told how many."""

    async def publish(self, tenant: TenantId, event: Event) -> None: ...

    def subscribe(
        self, tenant: TenantId, topics: Sequence[str]
    ) -> AbstractAsyncContextManager[AsyncIterator[Event]]:
        """Events of this tenant whose topic is, or lies under, one of `topics`."""
        ...

    async def close(self) -> None: ...
