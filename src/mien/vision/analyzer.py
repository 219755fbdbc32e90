"""The order of the stages, and nothing else: bytes in, faces with all that was asked about them out."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import numpy as np

from mien.kit.errors import SetupError
from mien.vision.align import chip, chip_zoom
from mien.vision.decode import DEFAULT_LIMITS, DecodeLimits, Photo, open_photo
from mien.vision.detect import FaceFinder
from mien.vision.models.base import Embedder
from mien.vision.quality import assess
from mien.vision.values import (
    Analysis,
    AnalyzedFace,
    AnalyzeRequest,
    Embedding,
    Emotion,
    Eyes,
    Face,
    Image,
    Liveness,
    Pixels,
    Pose,
    Quality,
    SeenObject,
    Space,
    Stage,
)

FIRST_LONG_SIDE_PX = 1280
"""The first decode's smallest long side: twice what detection looks at, so a face there is seldom
magnified for its chip."""

R = TypeVar("R", covariant=True)


class PerFace(Protocol[R]):
    """An attribute model: one result per face, in their order."""

    def __call__(self, image: Image, faces: Sequence[Face]) -> Sequence[R]: ...


class PerImage(Protocol[R]):
    """A model of the whole photo."""

    def __call__(self, image: Image) -> Sequence[R]: ...


@dataclass(frozen=True, slots=True)
class Attributes:
    """Openers of attribute models, called when first asked for, then every time: they cache.

    None: not part of this analyzer; a request for it is a SetupError.
    """

    pose: Callable[[], PerFace[Pose]] | None = None
    eyes: Callable[[], PerFace[Eyes]] | None = None
    liveness: Callable[[], PerFace[Liveness]] | None = None
    emotion: Callable[[], PerFace[Emotion]] | None = None
    objects: Callable[[], PerImage[SeenObject]] | None = None


@dataclass(slots=True)
class _Clock:
    at: float = field(default_factory=time.perf_counter)
    spent: dict[Stage, float] = field(default_factory=dict)

    def lap(self, stage: Stage) -> None:
        now = time.perf_counter()
        self.spent[stage] = self.spent.get(stage, 0.0) + (now - self.at) * 1e3
        self.at = now


class Analyzer:
    """Safe to call from many threads; every call uses one thread (see `RuntimeChoice.threads`)."""

    def __init__(
        self,
        finder: FaceFinder,
        embedder: Embedder,
        space: Space,
        attributes: Attributes | None = None,
        limits: DecodeLimits = DEFAULT_LIMITS,
    ) -> None:
        if embedder.dim != space.dim:
            raise SetupError(f"The embedder gives {embedder.dim} numbers, space {space.key} has {space.dim}.")
        self._finder = finder
        self._embedder = embedder
        self._attributes = attributes or Attributes()
        self._limits = limits
        self.space = space

    def analyze(self, data: bytes, request: AnalyzeRequest) -> Analysis:
        """Analyse one encoded photo.

        Raises BadPhoto (or UnsupportedFormat), TooLarge, ModelError, Unavailable (an attribute's
        model is not there yet), SetupError (an attribute that this analyzer was not built with).
        """
        clock = _Clock()
        photo = open_photo(data, self._limits)
        image = photo.image(None if request.thorough else FIRST_LONG_SIDE_PX)
        clock.lap("decode")
        faces = self._faces(image, request)
        clock.lap("detect")
        needs_chips = bool(faces) and (request.embed or request.quality)
        larger = self._larger(photo, image, faces) if needs_chips else image
        clock.lap("decode")
        faces = sorted(self._finder.closer(larger, faces), key=_area, reverse=True)
        clock.lap("detect")
        chips: list[Pixels] = []
        if needs_chips:
            chips = [chip(larger if _gains(f, image) else image, f.landmarks) for f in faces]
            clock.lap("align")
        embeddings = self._embeddings(chips, request, clock)
        results = self._judged(image, faces, chips, embeddings, request, clock)
        seen: Sequence[SeenObject] = ()
        if request.objects:
            seen = _opened(self._attributes.objects, "objects")(image)
            clock.lap("objects")
        return Analysis(photo.width, photo.height, tuple(results), tuple(seen), clock.spent)

    def _faces(self, image: Image, request: AnalyzeRequest) -> list[Face]:
        faces = self._finder.find(image, request.min_confidence, thorough=request.thorough)
        return [f for f in faces if f.box.size_px >= request.min_face_px][: request.max_faces]

    @staticmethod
    def _larger(photo: Photo, image: Image, faces: Sequence[Face]) -> Image:
        """A larger decode where the first one has too few pixels of a face for its chip."""
        if not any(_gains(face, image) for face in faces):
            return image
        zoom = max(chip_zoom(face.landmarks) for face in faces)
        return photo.image(min(photo.long_side, int(np.ceil(photo.long_side * zoom))))

    def _embeddings(
        self, chips: list[Pixels], request: AnalyzeRequest, clock: _Clock
    ) -> list[Embedding] | None:
        if not request.embed:
            return None
        if not chips:
            return []
        vectors = self._embedder(np.stack(chips))
        vectors.flags.writeable = False
        runtime = self._embedder.runtime
        embeddings = [Embedding(v, self.space, runtime) for v in vectors]
        clock.lap("embed")
        return embeddings

    def _judged(
        self,
        image: Image,
        faces: Sequence[Face],
        chips: Sequence[Pixels],
        embeddings: Sequence[Embedding] | None,
        request: AnalyzeRequest,
        clock: _Clock,
    ) -> list[AnalyzedFace]:
        def asked(wanted: bool, opener: Callable[[], PerFace[R]] | None, name: str) -> Sequence[R | None]:
            if not wanted or not faces:
                return [None] * len(faces)
            return _opened(opener, name)(image, faces)

        of = self._attributes
        poses = asked(request.pose, of.pose, "pose")
        eyes = asked(request.eyes, of.eyes, "eyes")
        liveness = asked(request.liveness, of.liveness, "liveness")
        emotions = asked(request.emotion, of.emotion, "emotion")
        if request.pose or request.eyes or request.liveness or request.emotion:
            clock.lap("attributes")
        qualities: list[Quality | None] = [None] * len(faces)
        if request.quality and faces:
            qualities = [assess(image, f, p, c) for f, p, c in zip(faces, poses, chips, strict=True)]
            clock.lap("quality")
        return [
            AnalyzedFace(
                face,
                qualities[i],
                embeddings[i] if embeddings is not None else None,
                liveness[i],
                eyes[i],
                emotions[i],
            )
            for i, face in enumerate(faces)
        ]


def _gains(face: Face, image: Image) -> bool:
    """Whether the face has less px in this decode than its chip could show of the source."""
    return image.scale[0] < 1.0 and chip_zoom(face.landmarks) > image.scale[0]


def _area(face: Face) -> float:
    return face.box.width * face.box.height


def _opened(opener: Callable[[], R] | None, name: str) -> R:
    if opener is None:
        raise SetupError(f"This analyzer was set up without {name}.")
    return opener()
