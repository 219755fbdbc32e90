"""What callers send, checked: names, texts, metadata, embeddings, policies. BadInput otherwise."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.features.collections.limits import CollectionLimits
from mien.features.collections.records import Facts
from mien.kit.errors import BadInput, SpaceMismatch
from mien.vision.calibration import MatchPolicy
from mien.vision.values import AnalyzedFace, Space

_NAME = re.compile(r"[A-Za-z0-9_.-]{1,255}")
_FILTER_KEY = re.compile(r"[\w .:/-]{1,128}")

ATTRIBUTES = frozenset({"quality", "pose", "liveness", "eyes", "emotion", "objects"})
"""What a caller may ask for beside boxes and landmarks."""

QUALITY_LEVELS: Mapping[str, float] = {"none": 0.0, "low": 0.3, "medium": 0.5, "high": 0.8}
"""Words for `min_quality`, the overall quality (0..1) that a face must have. By docs/quality.md a face under
0.3 misses its mate in 9 of 10 searches, one under 0.5 in 3 of 4, one of 0.8 in 1 of 12."""


def collection_name(name: str, limits: CollectionLimits) -> str:
    """A name of a collection as it may stand in a path."""
    if len(name) > limits.name_length or not _NAME.fullmatch(name) or name in (".", ".."):
        raise BadInput(
            f"A collection's name is 1 to {limits.name_length} characters: A-Z, a-z, 0-9, '_', '.' or '-'.",
            field="name",
        )
    return name


def text(value: str, field: str, most: int, *, empty: bool = True) -> str:
    """A text of at most `most` characters that every database can store."""
    if not value and not empty:
        raise BadInput(f"{field} must not be empty.", field=field)
    if len(value) > most:
        raise BadInput(f"{field} is {len(value)} characters long; at most {most} are allowed.", field=field)
    if "\x00" in value:
        raise BadInput(f"{field} holds a NUL character.", field=field)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise BadInput(f"{field} is not valid Unicode (a lone surrogate).", field=field) from None
    return value


def facts(value: Facts, limits: CollectionLimits) -> dict[str, Any]:
    """Metadata: a JSON object, bounded in bytes and depth; plain copies of its values."""
    _depth(value, limits.metadata_depth)
    try:
        raw = json.dumps(value, ensure_ascii=False, allow_nan=False).encode("utf-8")
    except (ValueError, TypeError, RecursionError):
        raise BadInput(
            "metadata must be a JSON object of text, finite numbers, true, false, null, lists and objects.",
            field="metadata",
        ) from None
    if len(raw) > limits.metadata_bytes:
        raise BadInput(
            f"metadata is {len(raw)} bytes of JSON; at most {limits.metadata_bytes} are allowed.",
            field="metadata",
        )
    if b"\\u0000" in raw:
        raise BadInput("metadata holds a NUL character.", field="metadata")
    plain: dict[str, Any] = json.loads(raw)
    return plain


def _depth(value: object, left: int) -> None:
    if isinstance(value, Mapping | list | tuple):
        if left == 0:
            raise BadInput("metadata is nested too deeply.", field="metadata")
        for inner in value.values() if isinstance(value, Mapping) else value:
            _depth(inner, left - 1)


def filter_facts(value: Mapping[str, object]) -> dict[str, str | int | float | bool]:
    """Metadata members to compare with: up to 10, each a text, a number, true or false."""
    if len(value) > 10:
        raise BadInput("A filter compares at most 10 members of the metadata.", field="metadata")
    checked: dict[str, str | int | float | bool] = {}
    for key, wanted in value.items():
        if not _FILTER_KEY.fullmatch(key):
            raise BadInput(
                "A metadata filter names members by letters, digits, spaces and '_.:/-'.", field="metadata"
            )
        if not isinstance(wanted, str | int | float | bool):
            raise BadInput("A metadata filter compares with a text, a number, true or false.", field=key)
        if isinstance(wanted, str):
            text(wanted, key, 1024)
        elif isinstance(wanted, float) and not np.isfinite(wanted):
            raise BadInput("A metadata filter compares with finite numbers.", field=key)
        elif isinstance(wanted, int) and abs(wanted) >= 1 << 53:
            raise BadInput("A metadata filter compares with whole numbers under 2^53.", field=key)
        checked[key] = wanted
    return checked


def policy(value: Mapping[str, float] | MatchPolicy | None) -> MatchPolicy | None:
    """A policy from its wire form, e.g. {"fpir": 0.01}."""
    if value is None or isinstance(value, MatchPolicy):
        return value
    unknown = set(value) - {"score", "distance", "fmr", "fpir"}
    if unknown or not value:
        raise BadInput("A policy is one of score, distance, fmr and fpir.", field="policy")
    return MatchPolicy(**value)


def policy_json(value: MatchPolicy) -> dict[str, float]:
    """The wire and storage form of a policy: its one member."""
    given = {n: getattr(value, n) for n in ("score", "distance", "fmr", "fpir")}
    return {n: v for n, v in given.items() if v is not None}


def embedding(values: Sequence[float], space_key: str, space: Space) -> NDArray[np.float32]:
    """A caller's embedding as a unit vector (D,) of `space`.

    Any length over 0 is accepted and normalised. SpaceMismatch for another space, BadInput for
    another dimension, numbers that are not finite, and the zero vector.
    """
    if space_key != space.key:
        raise SpaceMismatch(
            f"The embedding is of space {text(space_key, 'space', 255)}; the collection's is {space.key}.",
            collection_space=space.key,
        )
    if len(values) != space.dim:
        raise BadInput(
            f"The embedding has {len(values)} numbers; space {space.key} has {space.dim}.", field="embedding"
        )
    try:
        vector = np.asarray(values, dtype=np.float64)
    except (ValueError, TypeError, OverflowError):
        raise BadInput("The embedding must be a list of numbers.", field="embedding") from None
    if vector.shape != (space.dim,) or not np.isfinite(vector).all():
        raise BadInput(
            "The embedding holds numbers that are not finite (NaN or infinity).", field="embedding"
        )
    largest = float(np.abs(vector).max())
    length = float(np.linalg.norm(vector)) if 1e-9 < largest < 1e12 else 0.0
    if length < 1e-6:
        raise BadInput("The embedding's length is zero or out of range.", field="embedding")
    return (vector / length).astype(np.float32)


def same_space(collection_space: Space, in_use: Space, name: str) -> None:
    """SpaceMismatch if the models in use make embeddings of another space than the collection's."""
    if collection_space.key != in_use.key:
        raise SpaceMismatch(
            f"Collection {name} holds embeddings of space {collection_space.key}, but the models in use make "
            f"{in_use.key}. Switch back with `mien models use`, or make a new collection.",
            collection_space=collection_space.key,
            space_in_use=in_use.key,
        )


def quality_reasons(face: AnalyzedFace, min_quality: float) -> tuple[str, ...]:
    """Why this face is left out by `min_quality`; empty if it is good enough."""
    if face.quality is None or face.quality.overall >= min_quality:
        return ()
    return ("low_quality", *face.quality.reasons)
