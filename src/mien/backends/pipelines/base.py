"""The port of pipelines: who runs the analyzer, with bounds."""

from dataclasses import dataclass
from typing import Protocol

from mien.kit.tenant import TenantId
from mien.vision.values import Analysis, AnalyzeRequest, Space


@dataclass(frozen=True, slots=True)
class PipelineStats:
    """Figures for `/metrics`."""

    capacity: int
    running: int
    waiting: int
    refused_total: int
    done_total: int


@dataclass(frozen=True, slots=True)
class CacheStats:
    """Figures for `/metrics`; `bytes` is an estimate."""

    entries: int
    bytes: int
    hits_total: int
    misses_total: int


class Pipelines(Protocol):
    """Below the bound work is accepted; at it work waits for a bounded time; over it it is refused
    at once with Busy."""

    @property
    def space(self) -> Space:
        """The space of the embeddings that come out."""
        ...

    async def analyze(self, tenant: TenantId, data: bytes, request: AnalyzeRequest) -> Analysis:
        """Analyse one encoded photo.

        Raises BadPhoto (or a subclass), TooLarge, Busy, TimedOut, ModelError.
        """
        ...

    def stats(self) -> PipelineStats: ...

    async def close(self) -> None: ...
