"""Puts models together into an analyzer."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal, assert_never

from mien.kit.errors import SetupError
from mien.vision.analyzer import Analyzer, Attributes
from mien.vision.decode import DEFAULT_LIMITS, DecodeLimits
from mien.vision.detect import FaceFinder
from mien.vision.models import arcface
from mien.vision.models.base import Detector, Embedder
from mien.vision.models.fused import FlipAveraged, Fused
from mien.vision.models.retinaface import RetinaFace
from mien.vision.models.scrfd import Scrfd
from mien.vision.models.sface import sface
from mien.vision.models.yunet import YuNet
from mien.vision.recipe import Recipe
from mien.vision.runtimes.base import RuntimeChoice, Session
from mien.vision.runtimes.choose import open_session
from mien.vision.values import Space

DetectorFamily = Literal["yunet", "scrfd", "retinaface"]


def detector(family: DetectorFamily, session: Session) -> Detector:
    """The registry of detector families."""
    match family:
        case "yunet":
            return YuNet(session)
        case "scrfd":
            return Scrfd(session)
        case "retinaface":
            return RetinaFace(session)
        case unknown:
            assert_never(unknown)


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


def assemble(
    detection: tuple[DetectorFamily, Path],
    embedding: Sequence[tuple[float, str, Path]],
    space: Space,
    *,
    recipe: Recipe | None = None,
    choice: RuntimeChoice | None = None,
    attributes: Attributes | None = None,
    limits: DecodeLimits = DEFAULT_LIMITS,
) -> Analyzer:
    """An analyzer of model files: a detector, and one embedder (weight, name, file) or several fused.

    Raises ModelError if a file can't be read, SetupError if parts don't fit.
    """
    recipe = recipe or Recipe()
    family, path = detection
    finder = FaceFinder(detector(family, open_session(path, choice)), recipe)
    parts: list[tuple[float, Embedder]] = []
    for weight, name, file in embedding:
        part = embedder(name, partial(open_session, file), choice)
        parts.append((weight, FlipAveraged(part) if recipe.flip else part))
    whole = parts[0][1] if len(parts) == 1 else Fused(parts)
    return Analyzer(finder, whole, space, attributes, limits)
