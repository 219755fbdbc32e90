"""Puts models together into an analyzer."""

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Generic, TypeVar

import cv2

from mien.kit.errors import SetupError
from mien.vision.analyzer import Analyzer, Attributes
from mien.vision.decode import DEFAULT_LIMITS, DecodeLimits
from mien.vision.detect import FaceFinder
from mien.vision.models import arcface
from mien.vision.models.base import Detector, Embedder
from mien.vision.models.emotion import FusedEmotion, XceptionEmotion
from mien.vision.models.eyes import EyesOpen
from mien.vision.models.fused import FlipAveraged, Fused
from mien.vision.models.liveness import FrameLiveness
from mien.vision.models.objects import CocoObjects
from mien.vision.models.packs import RecognitionPack
from mien.vision.models.pose import HeadPose
from mien.vision.models.retinaface import RetinaFace
from mien.vision.models.scrfd import Scrfd
from mien.vision.models.sface import sface
from mien.vision.models.store import ModelStore
from mien.vision.models.yunet import YuNet
from mien.vision.recipe import Recipe
from mien.vision.runtimes.base import RuntimeChoice, Session
from mien.vision.runtimes.choose import open_session

T = TypeVar("T")


def detector(family: str, session: Session) -> Detector:
    """The registry of detector families (`ModelSpec.family`); SetupError for one that detects no faces."""
    match family:
        case "yunet":
            return YuNet(session)
        case "scrfd":
            return Scrfd(session)
        case "retinaface":
            return RetinaFace(session)
        case _:
            raise SetupError(f"Models of the family {family} detect no faces.")


_EMBEDDERS: dict[str, tuple[Callable[[Session], Embedder], bool]] = {
    "sface": (sface, True),
    "faceplugin-512": (arcface.faceplugin_512, False),
    "arcface-w600k-mbf": (arcface.insightface, False),
}
"""By name of the model, as nets of one family differ in how they scale pixels. The flag: bfloat16
keeps the space. Members of one space agree by a cosine over 0.999: SFace does (0.9995 and better),
faceplugin-512 falls to 0.9988 on some faces, so it stays in float32."""


def embedder(
    name: str, opened: Callable[[RuntimeChoice], Session], choice: RuntimeChoice | None = None
) -> Embedder:
    """The registry of embedding models; SetupError for a name that has no row."""
    try:
        family, bf16 = _EMBEDDERS[name]
    except KeyError:
        raise SetupError(f"There is no embedder for model {name}.") from None
    choice = choice or RuntimeChoice()
    return family(opened(choice if bf16 else replace(choice, precision="fp32")))


def open_analyzer(
    store: ModelStore,
    pack: RecognitionPack,
    *,
    choice: RuntimeChoice | None = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
    recipe: Recipe | None = None,
) -> Analyzer:
    """The analyzer of a recognition pack; attribute models open when they are first asked for.

    `recipe` other than the pack's is for experiments: its embeddings have no calibration, so the
    caller must give them a space of their own. Raises ModelError (missing, damaged: what to run is
    in the message), SetupError.
    """
    recipe = recipe or pack.recipe
    choice = choice or RuntimeChoice()
    # OpenCV would split each small warp over all cores, which only costs: 0.06 ms of CPU became 0.5.
    cv2.setNumThreads(1)
    spec = store.spec(pack.detector)
    finder = FaceFinder(
        detector(spec.family, open_session(store.path(pack.detector), _exact(choice))), recipe
    )
    parts: list[tuple[float, Embedder]] = []
    for name, weight in pack.embedders:
        part = embedder(name, partial(open_session, store.path(name)), choice)
        parts.append((weight, FlipAveraged(part) if recipe.flip else part))
    whole = parts[0][1] if len(parts) == 1 else Fused(parts)
    return Analyzer(finder, whole, pack.space, attributes(store, choice), limits)


def attributes(store: ModelStore, choice: RuntimeChoice) -> Attributes:
    """Every attribute, each opened once, at its first use: a server at rest holds none of them.

    In float32 on ONNX Runtime, as their thresholds were found.
    """
    exact = _exact(choice)

    def session(name: str) -> Session:
        return open_session(store.path(name), exact)

    return Attributes(
        pose=Once(lambda: HeadPose(session("faceplugin-pose"))),
        eyes=Once(lambda: EyesOpen(session("faceplugin-eyes"))),
        liveness=Once(lambda: FrameLiveness(session("faceplugin-liveness"))),
        # One network: the three of the catalogue averaged gain 3.6 points on a FER-style set and 0.3 on
        # CK+ (docs/attributes.md) for ninety times its time.
        emotion=Once(lambda: FusedEmotion(XceptionEmotion(session("fer-xception")))),
        objects=Once(lambda: CocoObjects(session("nanodet"))),
    )


def _exact(choice: RuntimeChoice) -> RuntimeChoice:
    """For everything but embedders: float32 on ONNX Runtime, whatever runs the embedders.

    In bfloat16 YuNet's points move by up to 1 px, and embeddings of one photo then agree by 0.994
    only, where one space promises 0.999; in float32 OpenVINO takes 8.6 ms for it, ONNX Runtime 6.2.
    """
    return replace(choice, name="onnxruntime", precision="fp32")


class Once(Generic[T]):
    """Calls `make` at the first call and gives its result ever after; a failure is tried again."""

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._made: T | None = None

    def __call__(self) -> T:
        if self._made is None:
            with self._lock:
                if self._made is None:
                    self._made = self._make()
        return self._made
