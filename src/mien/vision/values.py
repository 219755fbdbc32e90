"""What passes between the stages of the vision path: frozen values, one type per stage.

Coordinates are always pixels of the *oriented source photo* (after EXIF orientation, before any
down-scaling), origin top left, x to the right, y down, as floats.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mien.kit.errors import BadInput, SpaceMismatch

Pixels = NDArray[np.uint8]
"""(H, W, 3) uint8, RGB, C-contiguous."""

Points5 = NDArray[np.float32]
"""(5, 2) float32: eye on the image's left, eye on its right, nose tip, mouth corner left, right."""

Vector = NDArray[np.float32]
"""(D,) float32 of unit length."""


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """Decoded, oriented pixels, perhaps smaller than the source photo.

    `source_size` is (width, height) of the oriented source in px; `scale` is (sx, sy), this
    image's pixels per source pixel (both 1.0 for a full decode).
    """

    pixels: Pixels
    source_size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 3 or self.pixels.shape[2] != 3:
            raise BadInput("An image is an array (H, W, 3) of uint8.")


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle in source px; it may reach over the photo's edge, as detectors' boxes do."""

    x: float
    y: float
    width: float
    height: float

    @property
    def size_px(self) -> float:
        """The shorter side."""
        return min(self.width, self.height)


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One detected face. `confidence` 0..1 is the detector's score."""

    box: Box
    landmarks: Points5
    confidence: float


@dataclass(frozen=True, slots=True)
class Space:
    """What makes embeddings comparable.

    `key`, the compatibility class, names model, version of the recipe and alignment; embeddings are
    comparable if and only if their keys are equal. A calibration table is bound to one key.
    """

    model: str
    recipe: int
    alignment: str
    dim: int

    @property
    def key(self) -> str:
        return f"{self.model}.r{self.recipe}.{self.alignment}.{self.dim}"


@dataclass(frozen=True, slots=True, eq=False)
class Embedding:
    """A template: a unit vector and its space; `runtime` says what computed it ("onnxruntime-fp32")."""

    vector: Vector
    space: Space
    runtime: str = ""

    def __post_init__(self) -> None:
        v = self.vector
        if v.dtype != np.float32 or v.shape != (self.space.dim,):
            raise BadInput(f"An embedding of space {self.space.key} is {self.space.dim} float32 numbers.")
        if not np.isfinite(v).all():
            raise BadInput("An embedding holds numbers that are not finite (NaN or infinity).")
        if abs(float(np.dot(v, v)) - 1.0) > 1e-2:
            raise BadInput("An embedding must be of unit length.")

    def score(self, other: "Embedding") -> float:
        """Cosine similarity, -1..1; SpaceMismatch if the spaces differ."""
        if self.space.key != other.space.key:
            raise SpaceMismatch(f"Spaces {self.space.key} and {other.space.key} can't be compared.")
        return float(np.dot(self.vector, other.vector))


@dataclass(frozen=True, slots=True)
class Pose:
    """Head angles in degrees. Yaw > 0: turned to the image's right; pitch > 0: up; roll > 0: clockwise."""

    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True, slots=True)
class Quality:
    """How far a face can be trusted for matching.

    All parts are 0..1 (1 is best; `visibility` 1: nothing covers the face) but `face_px` (the box's
    shorter side, px) and `pose` (degrees). `reasons` names what lowers `overall`: "small", "blurred",
    "dark", "bright", "flat", "turned", "tilted", "occluded", "cut_off", "uncertain".
    """

    overall: float
    face_px: float
    sharpness: float
    brightness: float
    contrast: float
    pose: Pose
    visibility: float
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Liveness:
    """`real` 0..1: the probability that one frame shows a live face and no replay or print."""

    real: float


@dataclass(frozen=True, slots=True)
class Eyes:
    """Probabilities 0..1 that the eye on the image's left and on its right is open."""

    left_open: float
    right_open: float


@dataclass(frozen=True, slots=True)
class Emotion:
    """`label` is the highest of `scores` (seven names to 0..1, summing to 1)."""

    label: str
    confidence: float
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SeenObject:
    """An object in the photo, by its COCO name; `confidence` 0..1."""

    label: str
    confidence: float
    box: Box


@dataclass(frozen=True, slots=True, eq=False)
class AnalyzedFace:
    """A face with what was asked for about it (None: not asked for)."""

    face: Face
    quality: Quality | None = None
    embedding: Embedding | None = None
    liveness: Liveness | None = None
    eyes: Eyes | None = None
    emotion: Emotion | None = None


@dataclass(frozen=True, slots=True)
class AnalyzeRequest:
    """What to do with a photo; hashable, so that results can be cached by it.

    `thorough` adds tiles for tiny faces in big photos. `max_faces` keeps the largest.
    `min_confidence` is the detector's score, 0..1; `min_face_px` the box's shorter side.
    """

    embed: bool = True
    quality: bool = True
    pose: bool = False
    liveness: bool = False
    eyes: bool = False
    emotion: bool = False
    objects: bool = False
    thorough: bool = False
    max_faces: int = 100
    min_confidence: float = 0.6
    min_face_px: float = 0.0


DETECT_ONLY = AnalyzeRequest(embed=False, quality=False)

Stage = Literal["decode", "detect", "align", "embed", "quality", "attributes", "objects"]


@dataclass(frozen=True, slots=True, eq=False)
class Analysis:
    """All that one photo gave. Faces come largest first. `timings_ms` is per stage."""

    width: int
    height: int
    faces: tuple[AnalyzedFace, ...]
    objects: tuple[SeenObject, ...] = ()
    timings_ms: Mapping[Stage, float] = field(default_factory=dict)
