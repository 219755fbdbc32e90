"""The port of vector indexes: a projection of a collection's numbered changes.

The SQL database is the truth. Each change (add or delete) has a number, dense and ascending within
its collection; an index remembers the highest number that it has applied, and `apply` ignores what
it has already seen, so that applying a batch twice changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from mien.kit.tenant import TenantId


@dataclass(frozen=True, slots=True)
class CollectionRef:
    """Which index: the collection's id, its space's key and its dimension."""

    id: UUID
    space_key: str
    dim: int


@dataclass(frozen=True, slots=True, eq=False)
class Change:
    """One numbered change. `label` (>= 1) is the face's number in the collection, the number of the
    change that added it. `vector` is (D,) float32 of unit length for an add, None for a delete."""

    number: int
    label: int
    vector: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Hit:
    """A stored face near a query: its label and score (cosine similarity, higher is closer)."""

    label: int
    score: float


@dataclass(frozen=True, slots=True)
class IndexStats:
    """Figures of one index. `removed` rows still take memory until compaction."""

    kind: str
    live: int
    removed: int
    applied: int
    memory_bytes: int


class VectorIndex(Protocol):
    """Every method takes the tenant first; an adapter never mixes tenants or collections.

    Errors: SpaceMismatch when a collection's stored space or dimension differs from the one given;
    Unavailable when the store is down (never a wrong answer).
    """

    async def applied(self, tenant: TenantId, collection: CollectionRef) -> int:
        """The highest change number that is in the index; 0 for a new, lost or damaged one."""
        ...

    async def apply(self, tenant: TenantId, collection: CollectionRef, changes: Sequence[Change]) -> int:
        """Apply changes in ascending order of number; returns the new applied number."""
        ...

    async def search(
        self,
        tenant: TenantId,
        collection: CollectionRef,
        queries: NDArray[np.float32],
        k: int,
        *,
        allow: NDArray[np.int64] | None = None,
        min_score: float = -1.0,
    ) -> list[list[Hit]]:
        """For each row of `queries` ((Q, D) float32, unit length) at most `k` hits, best first.

        `allow` restricts the search to these labels (exact results within them). Scores are of the
        stored vectors (fp16 at least), never of a quantised approximation.
        """
        ...

    async def replace(
        self, tenant: TenantId, collection: CollectionRef, changes: Sequence[Change], applied: int
    ) -> None:
        """Build anew from these adds, as if `applied` were the last change; searches go on meanwhile."""
        ...

    async def drop(self, tenant: TenantId, collection: UUID) -> None:
        """Forget the collection's index, its files included. Not there: nothing happens."""
        ...

    async def stats(self, tenant: TenantId, collection: CollectionRef) -> IndexStats:
        """Figures for `/metrics` and `describe`."""
        ...

    async def flush(self) -> None:
        """Save what is only in memory (a restart then has less to catch up)."""
        ...

    async def close(self) -> None:
        """Flush and release."""
        ...
