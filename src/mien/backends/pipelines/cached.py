"""Analyses kept by content: the same photo with the same request costs one run.

The key holds the tenant, so that nobody can learn from the speed of an answer what another tenant sent.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import OrderedDict

from mien.backends.pipelines.base import CacheStats, Pipelines, PipelineStats
from mien.kit.tenant import TenantId
from mien.vision.values import Analysis, AnalyzeRequest, Space

_Key = tuple[TenantId, bytes, AnalyzeRequest, str]

_BASE_BYTES = 1_000  # the objects of an analysis without faces, by sys.getsizeof, rounded up
_FACE_BYTES = 2_000  # one face with quality, pose, emotion and its landmarks, without the embedding
_HASH_INLINE_BYTES = 1 << 20  # SHA-256 of 1 MiB takes about 1 ms; more goes to a thread


def _weight(analysis: Analysis) -> int:
    vectors = sum(face.embedding.vector.nbytes for face in analysis.faces if face.embedding is not None)
    return _BASE_BYTES + _FACE_BYTES * (len(analysis.faces) + len(analysis.objects)) + vectors


class CachedPipelines:
    """Least recently used analyses, bounded in number and in bytes, in front of other pipelines.

    Errors are not kept. The stored vectors are made read-only, since callers share them.
    """

    def __init__(self, inner: Pipelines, *, entries: int, max_bytes: int) -> None:
        self._inner = inner
        self._max_entries = entries
        self._max_bytes = max_bytes
        self._kept: OrderedDict[_Key, tuple[Analysis, int]] = OrderedDict()
        self._bytes = 0
        self._hits = 0
        self._misses = 0

    @property
    def space(self) -> Space:
        return self._inner.space

    async def analyze(self, tenant: TenantId, data: bytes, request: AnalyzeRequest) -> Analysis:
        digest = (
            hashlib.sha256(data).digest()
            if len(data) <= _HASH_INLINE_BYTES
            else await asyncio.to_thread(lambda: hashlib.sha256(data).digest())
        )
        key = (tenant, digest, request, self._inner.space.key)
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            self._hits += 1
            return found[0]
        self._misses += 1
        analysis = await self._inner.analyze(tenant, data, request)
        self._keep(key, analysis)
        return analysis

    def _keep(self, key: _Key, analysis: Analysis) -> None:
        weight = _weight(analysis)
        if key in self._kept or weight > self._max_bytes:
            return
        for face in analysis.faces:
            if face.embedding is not None:
                face.embedding.vector.flags.writeable = False
        self._kept[key] = (analysis, weight)
        self._bytes += weight
        while len(self._kept) > self._max_entries or self._bytes > self._max_bytes:
            _, (_, old) = self._kept.popitem(last=False)
            self._bytes -= old

    def stats(self) -> PipelineStats:
        return self._inner.stats()

    def cache_stats(self) -> CacheStats:
        return CacheStats(len(self._kept), self._bytes, self._hits, self._misses)

    async def close(self) -> None:
        self._kept.clear()
        self._bytes = 0
        await self._inner.close()
