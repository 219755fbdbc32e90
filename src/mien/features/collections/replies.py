"""What goes over the wire, for replies: the shapes that the OpenAPI document shows.

Replies themselves are plain dictionaries (`wire.py`): building a model for each of a thousand matches
would take longer than the search. A test holds both together.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Reply(BaseModel):
    """Base of all replies."""

    model_config = ConfigDict(extra="forbid")


class BoxReply(Reply):
    """A rectangle: px of the oriented photo, or shares of its sides."""

    x: float
    y: float
    width: float
    height: float


class PointReply(Reply):
    """A point in px of the oriented photo."""

    x: float
    y: float


class LandmarksReply(Reply):
    """Five points; left and right are as one sees the photo."""

    left_eye: PointReply
    right_eye: PointReply
    nose: PointReply
    mouth_left: PointReply
    mouth_right: PointReply


class PoseReply(Reply):
    """Degrees: yaw over 0 turned to the photo's right, pitch over 0 up, roll over 0 clockwise."""

    yaw: float
    pitch: float
    roll: float


class QualityReply(Reply):
    """How far a face can be trusted; parts 0..1, 1 is best (`face_px` is the shorter side)."""

    overall: float
    face_px: float
    sharpness: float
    brightness: float
    contrast: float
    pose: PoseReply
    visibility: float
    reasons: list[str]


class LivenessReply(Reply):
    """`real` 0..1, for one frame: a hint, no proof."""

    real: float


class EyesReply(Reply):
    """0..1 that an eye is open; left and right as one sees the photo."""

    left_open: float
    right_open: float


class EmotionReply(Reply):
    """The likeliest of seven, and all of them."""

    label: str
    confidence: float
    scores: dict[str, float]


class FoundFace(Reply):
    """A face found in a photo."""

    bounding_box: BoxReply
    relative_box: BoxReply
    landmarks: LandmarksReply
    confidence: float
    quality: QualityReply | None = None
    liveness: LivenessReply | None = None
    eyes: EyesReply | None = None
    emotion: EmotionReply | None = None


class LeftOutFace(FoundFace):
    """A face that was left out, and why."""

    reasons: list[str]


class ObjectReply(Reply):
    """An object, by its COCO name."""

    label: str
    confidence: float
    bounding_box: BoxReply


class SizeReply(Reply):
    """Pixels of the oriented photo."""

    width: int
    height: int


class DetectReply(Reply):
    """The faces of a photo, largest first."""

    image: SizeReply
    faces: list[FoundFace]
    objects: list[ObjectReply] | None = None
    timings_ms: dict[str, float] | None = None


class ThresholdReply(Reply):
    """From which score a match is reported, and what that costs by the calibration table."""

    score: float
    distance: float
    policy: dict[str, float]
    fmr: float | None = Field(description="False match rate of one comparison.")
    fpir: float | None = Field(description="Rate at which a search names a stranger, at `gallery_size`.")
    fnmr: float | None = Field(description="Share of true matches that this threshold misses.")
    gallery_size: int
    extrapolated: bool
    note: str | None = None


class MatchReply(Reply):
    """A stored face near a face of the photo."""

    face_id: str
    person_id: str | None
    external_image_id: str | None
    score: float
    similarity: float | None
    fmr: float | None
    metadata: dict[str, Any]


class Probe(Reply):
    """What was searched for: a face of a photo with its place, or a stored face."""

    bounding_box: BoxReply | None = None
    relative_box: BoxReply | None = None
    landmarks: LandmarksReply | None = None
    confidence: float | None = None
    quality: QualityReply | None = None
    face_id: str | None = None


class SearchedFace(Probe):
    """What was searched for, and what was found: for photos with the face's place."""

    matches: list[MatchReply]


class SearchReply(Reply):
    """The answer of a search, face by face, largest first."""

    collection: str
    image: SizeReply | None = None
    faces: list[SearchedFace]
    unsearched: list[LeftOutFace]
    threshold: ThresholdReply
    note: str | None = Field(None, description="In words, why there is nothing.")


class PersonReply(Reply):
    """An identity in a collection."""

    person_id: str
    name: str
    kind: str
    external_id: str | None
    metadata: dict[str, Any]
    face_count: int
    created_at: str
    updated_at: str


class PersonMatchReply(Reply):
    """A person, by the best and the mean score of all their faces."""

    person: PersonReply
    best_score: float
    mean_score: float
    similarity: float | None
    fmr: float | None
    best_face_id: str


class SearchedPersonFace(Probe):
    """What was searched for, and the persons found."""

    persons: list[PersonMatchReply]


class PersonSearchReply(Reply):
    """The answer of a search for persons."""

    collection: str
    image: SizeReply | None = None
    faces: list[SearchedPersonFace]
    unsearched: list[LeftOutFace]
    threshold: ThresholdReply
    note: str | None = None


class ComparedPhoto(Reply):
    """One photo of a comparison."""

    image: SizeReply
    faces: list[FoundFace]
    unmatched: list[int] = Field(description="Indices of faces that match none of the other photo.")


class PairReply(Reply):
    """Two faces that match, by their indices."""

    source: int
    target: int
    score: float
    similarity: float | None
    fmr: float | None


class CompareReply(Reply):
    """All faces of one photo against all of the other."""

    source: ComparedPhoto
    target: ComparedPhoto
    scores: list[list[float]] = Field(description="scores[i][j]: source face i with target face j.")
    matches: list[PairReply]
    threshold: ThresholdReply


class SpaceReply(Reply):
    """What makes embeddings comparable; `key` names it all."""

    key: str
    model: str
    recipe: int
    alignment: str
    dim: int


class CollectionReply(Reply):
    """A collection."""

    name: str
    description: str
    metadata: dict[str, Any]
    policy: dict[str, float]
    space: SpaceReply
    face_count: int
    created_at: str
    updated_at: str


class IndexReply(Reply):
    """The state of the vector index; `behind` changes are still to be applied."""

    kind: str
    live: int
    behind: int
    memory_bytes: int


class DescribeReply(CollectionReply):
    """A collection with its figures."""

    person_count: int
    threshold: ThresholdReply
    index: IndexReply | None


class MoveReply(Reply):
    """A move of a collection's threshold, and what caused it."""

    cause: str
    policy: dict[str, float]
    score: float
    fmr: float | None
    fpir: float | None
    fnmr: float | None
    gallery_size: int
    face_count: int
    extrapolated: bool
    created_at: str


class FaceReply(FoundFace):
    """A stored face."""

    face_id: str
    person_id: str | None
    external_image_id: str | None
    quality_score: float | None
    metadata: dict[str, Any]
    image: SizeReply
    image_sha256: str
    space: str
    runtime: str
    created_at: str


class IndexedReply(Reply):
    """What became of the faces of a photo."""

    image: SizeReply
    faces: list[FaceReply]
    unindexed: list[LeftOutFace]


class ProgressReply(Reply):
    """How far a job is."""

    done: int
    total: int | None
    note: str


class JobReply(Reply):
    """A job, as `/v1/jobs` shows it."""

    id: str
    kind: str
    state: str
    progress: ProgressReply
    result: dict[str, Any] | None
    error: str | None
    attempts: int
    max_attempts: int
    created_at: str
    started_at: str | None
    finished_at: str | None


class ListReply(Reply):
    """Base of pages; `next_cursor` is null on the last."""

    next_cursor: str | None


class CollectionList(ListReply):
    """A page of collections."""

    collections: list[CollectionReply]


class FaceList(ListReply):
    """A page of faces."""

    faces: list[FaceReply]


class PersonList(ListReply):
    """A page of persons."""

    persons: list[PersonReply]


class MoveList(ListReply):
    """A page of threshold moves, newest first."""

    thresholds: list[MoveReply]


class DeletedReply(Reply):
    """What was deleted, and what was not there."""

    deleted: list[str]
    not_found: list[str]


class AttachedReply(Reply):
    """Faces that now belong to the person, and ids that are none of the collection's."""

    attached: list[str]
    not_found: list[str]


class DetachedReply(Reply):
    """Faces that no longer belong to the person, and ids that were not among theirs."""

    detached: list[str]
    not_found: list[str]
