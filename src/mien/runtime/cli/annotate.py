"""Photos with boxes and names, for `--annotate`: from the bytes of a photo and the API's faces."""

from __future__ import annotations

import io
from typing import Any

import click
import numpy as np
from PIL import Image as PillowImage

from mien.runtime.cli.photos import FORMATS
from mien.vision.decode import open_photo
from mien.vision.draw import Mark, annotate
from mien.vision.values import Box

_POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


def annotated(data: bytes, faces: list[dict[str, Any]], labels: list[str], suffix: str) -> bytes:
    """The photo with a mark for each face, encoded as the file name's ending says.

    A label that is empty leaves the detector's confidence; "unknown" is drawn in grey.
    """
    kind = FORMATS.get(suffix.lower())
    if kind is None:
        raise click.UsageError(
            f"--annotate writes {', '.join(sorted(FORMATS))}, not {suffix or 'no ending'}."
        )
    photo = open_photo(data)
    image = photo.image(None)
    marks = [_mark(face, label) for face, label in zip(faces, labels, strict=True)]
    out = io.BytesIO()
    PillowImage.fromarray(annotate(image.pixels, marks)).save(out, kind, quality=92)
    return out.getvalue()


def _mark(face: dict[str, Any], label: str) -> Mark:
    box = face["bounding_box"]
    points = face["landmarks"]
    notes = [reason.replace("_", " ") for reason in (face.get("quality") or {}).get("reasons", [])[:2]]
    if face.get("emotion"):
        notes.append(face["emotion"]["label"])
    if not label:
        notes.insert(0, f"{face['confidence']:.2f}")
    return Mark(
        Box(box["x"], box["y"], box["width"], box["height"]),
        title=label,
        detail="  ".join(notes) if label != "unknown" else "",
        known=label != "unknown",
        landmarks=np.array([[points[name]["x"], points[name]["y"]] for name in _POINTS], np.float32),
    )
