"""Search: probes against the faces of a collection.

Two or three statements a request, however many faces the photo has: the collection, the labels that a
filter leaves (if there is one), and the live rows of all hits. Hits are joined to live rows before
anyone sees them; where rows have gone meanwhile the index is asked for more.
"""

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import TypeVar
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from mien.backends.pipelines.base import Pipelines
from mien.backends.sql.base import Database
from mien.backends.vectors.base import Hit, VectorIndex
from mien.features.collections import checks
from mien.features.collections.faces import no_face
from mien.features.collections.limits import CollectionLimits
from mien.features.collections.photos import analyze_request
from mien.features.collections.projection import Projection
from mien.features.collections.records import (
    Collection,
    Filters,
    Found,
    Match,
    Probe,
    ProbeMatches,
    SearchRequest,
    Unindexed,
)
from mien.features.collections.repository_faces import FaceRepository
from mien.features.collections.repository_search import MatchRow, match_rows, open_collection
from mien.features.collections.thresholds import Thresholds
from mien.kit.errors import BadInput
from mien.kit.tenant import TenantId
from mien.vision.values import Analysis

T = TypeVar("T")

NO_FACE = "No face was found in the photo, so that nothing was searched for."
NO_GOOD_FACE = "No face in the photo is good enough to search with; see `unsearched` for the reasons."
EMPTY = "The collection holds no faces yet."
_SLACK = 8
"""Hits asked for beyond `max_matches`, so that a few rows deleted meanwhile cost no second round."""
_ROUNDS = 4
_KNOWN = 1024
_MOST_HITS = 5_000
_QUERIES = 100
"""Bounds of one call of an index."""

_ON_THE_LOOP = 300
"""Matches that are put together on the event loop: 5 microseconds each; more go to a thread."""


async def aside(matches: int, work: Callable[[], T]) -> T:
    """What `work` returns, which looks at so many matches: the event loop waits for few of them only."""
    return work() if matches <= _ON_THE_LOOP else await asyncio.to_thread(work)


class Search:
    """Who is this? Answers with stored faces."""

    def __init__(
        self,
        database: Database,
        vectors: VectorIndex,
        pipelines: Pipelines,
        projection: Projection,
        thresholds: Thresholds,
        limits: CollectionLimits,
    ) -> None:
        self._database = database
        self._vectors = vectors
        self._pipelines = pipelines
        self._projection = projection
        self._thresholds = thresholds
        self._limits = limits
        self._known: dict[tuple[TenantId, str], tuple[int, Collection]] = {}

    async def by_photo(self, tenant: TenantId, name: str, photo: bytes, request: SearchRequest) -> Found:
        """Search with every face of a photo; a photo without one gives no results and a note."""
        filters = self._check(request)
        collection, allow = await self._open(tenant, name, filters)
        analysis = await self.analyze(tenant, photo, request)
        probes, unsearched, size = self.probes(collection, analysis, request)
        note = None
        if not probes:
            note = NO_GOOD_FACE if unsearched else NO_FACE
        return await self._found(tenant, collection, probes, request, allow, unsearched, size, note)

    async def by_face(self, tenant: TenantId, name: str, face: UUID, request: SearchRequest) -> Found:
        """Search with a stored face of the same collection; it is not among its own matches."""
        filters = self._check(request)
        collection, allow = await self._open(tenant, name, filters)
        probe = await self.stored(tenant, collection, face)
        return await self._found(tenant, collection, [probe], request, allow)

    async def by_embedding(
        self, tenant: TenantId, name: str, values: Sequence[float], space_key: str, request: SearchRequest
    ) -> Found:
        """Search with an embedding made elsewhere; it must be of the collection's space."""
        filters = self._check(request)
        collection, allow = await self._open(tenant, name, filters)
        probe = Probe("embedding", checks.embedding(values, space_key, collection.space))
        return await self._found(tenant, collection, [probe], request, allow)

    # --- steps, also used by the search for persons ------------------------------------------------

    async def open(self, tenant: TenantId, name: str) -> Collection:
        """The collection, as it stands at the start of a search."""
        return (await self._open(tenant, name, Filters()))[0]

    async def analyze(self, tenant: TenantId, photo: bytes, request: SearchRequest) -> Analysis:
        """A photo analysed as a search wants it."""
        wanted = analyze_request(
            frozenset({"quality"}),
            embed=True,
            thorough=request.thorough,
            max_faces=request.max_faces,
            min_confidence=request.min_confidence,
        )
        return await self._pipelines.analyze(tenant, photo, wanted)

    def probes(
        self, collection: Collection, analysis: Analysis, request: SearchRequest
    ) -> tuple[list[Probe], tuple[Unindexed, ...], tuple[int, int]]:
        """(probes, faces left out, (width, height)) of a photo; SpaceMismatch if the models in use make
        other embeddings than the collection holds."""
        checks.same_space(collection.space, self._pipelines.space, collection.name)
        probes, left_out = [], []
        for face in analysis.faces:
            reasons = checks.quality_reasons(face, request.min_quality)
            if face.embedding is None:
                reasons = ("not_embedded",)
            if reasons or face.embedding is None:
                left_out.append(Unindexed(face, reasons))
            else:
                probes.append(Probe("photo", face.embedding.vector, face=face))
        return probes, tuple(left_out), (analysis.width, analysis.height)

    async def stored(self, tenant: TenantId, collection: Collection, face: UUID) -> Probe:
        """A stored face as a probe; NotFound if it is not there."""
        async with self._database.read(tenant) as unit:
            found = await FaceRepository(unit.session, tenant).embedding(collection.id, face)
        if found is None:
            raise no_face(face)
        label, vector = found
        return Probe("face", vector, face_id=face, exclude_label=label)

    async def nearest(
        self,
        tenant: TenantId,
        collection: Collection,
        probes: Sequence[Probe],
        most: int,
        min_score: float,
        allow: NDArray[np.int64] | None = None,
    ) -> list[tuple[Match, ...]]:
        """For each probe at most `most` live faces with at least `min_score`, best first.

        Everything committed before `collection` was read is seen. Unavailable if the index can't be
        brought there in time.
        """
        if not probes or collection.face_count == 0 or (allow is not None and allow.size == 0):
            return [() for _ in probes]
        await self._projection.ensure(tenant, collection.ref, collection.change_head)
        queries = np.ascontiguousarray(np.stack([probe.vector for probe in probes]), dtype=np.float32)
        table = self._thresholds.table(collection.space.key)
        k = min(most + _SLACK, _MOST_HITS)
        for _ in range(_ROUNDS):
            hits: list[list[Hit]] = []
            for start in range(0, len(queries), _QUERIES):
                hits += await self._vectors.search(
                    tenant,
                    collection.ref,
                    queries[start : start + _QUERIES],
                    k,
                    allow=allow,
                    min_score=min_score,
                )
            rows = await self._rows(tenant, collection.id, hits)
            kept = [
                [hit for hit in found if hit.label in rows and hit.label != probe.exclude_label][:most]
                for found, probe in zip(hits, probes, strict=True)
            ]
            # Short of matches although the index may know more: rows went while we searched.
            if all(len(good) == most or len(found) < k for good, found in zip(kept, hits, strict=True)):
                break
            k = min(4 * k, _MOST_HITS)

        def matches() -> list[tuple[Match, ...]]:
            return [
                tuple(
                    Match(
                        *rows[hit.label][:3],
                        label=hit.label,
                        score=hit.score,
                        similarity=table.similarity(hit.score) if table else None,
                        fmr=table.fmr(hit.score) if table else None,
                        facts=rows[hit.label][3],
                    )
                    for hit in found
                )
                for found in kept
            ]

        return await aside(sum(map(len, kept)), matches)

    # --- inside ------------------------------------------------------------------------------------

    async def _rows(self, tenant: TenantId, collection: UUID, hits: list[list[Hit]]) -> dict[int, MatchRow]:
        labels = list({hit.label for hit in itertools.chain.from_iterable(hits)})
        if not labels:
            return {}
        return await self._database.query(
            tenant, lambda session: match_rows(session, tenant, collection, labels)
        )

    async def _open(
        self, tenant: TenantId, name: str, filters: Filters
    ) -> tuple[Collection, NDArray[np.int64] | None]:
        # Where this process is the only writer, what was read stays true until the next commit.
        version = self._database.version()
        known = self._known.get((tenant, name))
        if filters.empty and known is not None and known[0] == version:
            return known[1], None
        most = self._limits.filter_labels
        collection, labels = await self._database.query(
            tenant, lambda session: open_collection(session, tenant, name, filters, most + 1)
        )
        if version is not None:
            if len(self._known) >= _KNOWN:
                self._known.clear()
            self._known[(tenant, name)] = (version, collection)
        if labels is not None and labels.size > most:
            raise BadInput(f"The filter leaves more than {most} faces; narrow it, or search without it.")
        return collection, labels

    async def _found(
        self,
        tenant: TenantId,
        collection: Collection,
        probes: list[Probe],
        request: SearchRequest,
        allow: NDArray[np.int64] | None,
        unsearched: tuple[Unindexed, ...] = (),
        size: tuple[int, int] | None = None,
        note: str | None = None,
    ) -> Found:
        if len(probes) * request.max_matches > self._limits.results:
            raise BadInput(
                f"{len(probes)} faces times max_matches is over {self._limits.results}; ask for fewer.",
                field="max_matches",
            )
        threshold = self._thresholds.of(collection, request.policy)
        matches = await self.nearest(tenant, collection, probes, request.max_matches, threshold.score, allow)
        if note is None and collection.face_count == 0:
            note = EMPTY
        return Found(
            collection=collection,
            threshold=threshold,
            results=tuple(ProbeMatches(p, m) for p, m in zip(probes, matches, strict=True)),
            unsearched=unsearched,
            width=None if size is None else size[0],
            height=None if size is None else size[1],
            note=note,
        )

    def _check(self, request: SearchRequest) -> Filters:
        limits, filters = self._limits, request.filters
        if not 1 <= request.max_matches <= limits.matches:
            raise BadInput(f"max_matches must be from 1 to {limits.matches}.", field="max_matches")
        if not 1 <= request.max_faces <= limits.faces_per_photo:
            raise BadInput(f"max_faces must be from 1 to {limits.faces_per_photo}.", field="max_faces")
        if not 0.0 <= request.min_quality <= 1.0:
            raise BadInput("min_quality must be from 0 to 1.", field="min_quality")
        if max(len(filters.external_image_ids), len(filters.person_ids)) > limits.ids:
            raise BadInput(f"A filter takes at most {limits.ids} ids.", field="filters")
        for external in filters.external_image_ids:
            checks.text(external, "external_image_id", limits.external_id_length)
        return Filters(filters.external_image_ids, filters.person_ids, checks.filter_facts(filters.facts))
