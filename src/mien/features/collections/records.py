"""What the slice's services take and give: frozen values, free of SQL and HTTP."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from mien.backends.vectors.base import CollectionRef
from mien.vision.calibration import MatchPolicy, Threshold
from mien.vision.values import AnalyzedFace, Box, SeenObject, Space

Facts = Mapping[str, Any]
"""JSON values that a caller keeps with a thing; the API calls them `metadata`."""


@dataclass(frozen=True, slots=True)
class Collection:
    """A collection as its row stood when it was read."""

    id: UUID
    name: str
    description: str
    facts: Facts
    policy: MatchPolicy
    space: Space
    change_head: int
    change_tail: int
    face_count: int
    threshold_score: float
    threshold_gallery: int
    created_at: datetime
    updated_at: datetime

    @property
    def ref(self) -> CollectionRef:
        return CollectionRef(self.id, self.space.key, self.space.dim)


@dataclass(frozen=True, slots=True)
class Described:
    """A collection with its figures; `index` is None while the vector store does not answer."""

    collection: Collection
    person_count: int
    threshold: Threshold
    index_kind: str | None
    index_live: int
    index_applied: int
    index_memory_bytes: int


@dataclass(frozen=True, slots=True)
class ThresholdMove:
    """One recorded move; `gallery_size` is the power of two that the threshold is for."""

    cause: str
    policy: Mapping[str, float]
    score: float
    fmr: float | None
    fpir: float | None
    fnmr: float | None
    gallery_size: int
    face_count: int
    extrapolated: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Face:
    """A stored face, without its embedding."""

    id: UUID
    label: int
    person_id: UUID | None
    external_image_id: str | None
    image_sha256: str
    image_width: int
    image_height: int
    box: Box
    landmarks: Sequence[Sequence[float]]
    confidence: float
    quality_score: float | None
    quality: Mapping[str, Any] | None
    attributes: Mapping[str, Any] | None
    facts: Facts
    space_key: str
    runtime: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewFace:
    """A face about to be stored; `embedding` is float32 little-endian bytes."""

    id: UUID
    box: Box
    landmarks: list[list[float]]
    confidence: float
    quality_score: float | None
    quality: dict[str, Any] | None
    attributes: dict[str, Any] | None
    embedding: bytes
    runtime: str


@dataclass(frozen=True, slots=True, eq=False)
class Unindexed:
    """A face of the photo that was not stored, and why ("low_quality", "exceeds_max_faces",
    "not_embedded"), with the quality's own reasons."""

    face: AnalyzedFace
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class IndexRequest:
    """How to index a photo. `min_quality` 0..1; `attributes` of the vision path to keep;
    `skip_known`: store nothing if this very photo is in the collection under this external id."""

    external_image_id: str | None = None
    person_id: UUID | None = None
    facts: Facts = field(default_factory=dict)
    max_faces: int = 100
    min_quality: float = 0.0
    min_confidence: float = 0.6
    attributes: frozenset[str] = frozenset()
    thorough: bool = False
    skip_known: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Indexed:
    """What became of a photo."""

    width: int
    height: int
    faces: tuple[Face, ...]
    unindexed: tuple[Unindexed, ...]
    skipped: bool = False
    """True: the photo was already in the collection and nothing was done."""


@dataclass(frozen=True, slots=True)
class Filters:
    """Which stored faces a search may return. `facts`: these members of a face's metadata are equal."""

    external_image_ids: tuple[str, ...] = ()
    person_ids: tuple[UUID, ...] = ()
    facts: Mapping[str, str | int | float | bool] = field(default_factory=dict)

    @property
    def empty(self) -> bool:
        return not (self.external_image_ids or self.person_ids or self.facts)


@dataclass(frozen=True, slots=True)
class SearchRequest:
    """How to search. `policy` None: the collection's own."""

    max_matches: int = 10
    policy: MatchPolicy | None = None
    filters: Filters = field(default_factory=Filters)
    min_quality: float = 0.0
    min_confidence: float = 0.6
    max_faces: int = 100
    thorough: bool = False


@dataclass(frozen=True, slots=True)
class Match:
    """A stored face near a probe. `fmr` is None where the space has no calibration table, and
    `similarity` (0..100) likewise."""

    face_id: UUID
    person_id: UUID | None
    external_image_id: str | None
    label: int
    score: float
    similarity: float | None
    fmr: float | None
    facts: Facts


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """What is searched for: a face of a photo, a stored face, or a bare embedding. `vector` (D,)."""

    kind: Literal["photo", "face", "embedding"]
    vector: NDArray[np.float32]
    face: AnalyzedFace | None = None
    face_id: UUID | None = None
    exclude_label: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ProbeMatches:
    """One probe and what was found for it, best first; empty where nobody is near enough."""

    probe: Probe
    matches: tuple[Match, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The answer of a search. `note` says in words why there is nothing, where that is so."""

    collection: Collection
    threshold: Threshold
    results: tuple[ProbeMatches, ...]
    unsearched: tuple[Unindexed, ...] = ()
    width: int | None = None
    height: int | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Person:
    """An identity in a collection."""

    id: UUID
    name: str
    kind: str
    external_id: str | None
    facts: Facts
    face_count: int
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True)
class PersonMatch:
    """A person near a probe: the best and the mean score over all faces of that person."""

    person: Person
    best: float
    mean: float
    similarity: float | None
    fmr: float | None
    best_face_id: UUID


@dataclass(frozen=True, slots=True, eq=False)
class FoundPersons:
    """The answer of a search for persons: per probe, persons in the wanted order."""

    collection: Collection
    threshold: Threshold
    results: tuple[tuple[Probe, tuple[PersonMatch, ...]], ...]
    unsearched: tuple[Unindexed, ...] = ()
    width: int | None = None
    height: int | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """Two faces of two photos that match."""

    source: int
    target: int
    score: float
    similarity: float | None
    fmr: float | None


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """All faces of one photo against all of another. `scores[i][j]` is source i against target j."""

    source: tuple[AnalyzedFace, ...]
    target: tuple[AnalyzedFace, ...]
    source_size: tuple[int, int]
    target_size: tuple[int, int]
    scores: NDArray[np.float32]
    pairs: tuple[Pair, ...]
    threshold: Threshold


@dataclass(frozen=True, slots=True, eq=False)
class Detected:
    """What `detect` gives."""

    width: int
    height: int
    faces: tuple[AnalyzedFace, ...]
    objects: tuple[SeenObject, ...]
    timings_ms: Mapping[str, float]
