"""Eyes, open or closed.

Source: `fr_eye.onnx` (npm faceplugin-face-recognition-js, MIT): a 24x24 grey crop of one eye, 0..1,
two logits. By experiment index 0 is closed, 1 is open. Upstream cuts 1.6 x the eye's width, found by
68 landmarks; an eye is about 0.475 of the distance between the eyes wide, so 0.76 of that distance is
cut around the detector's eye point, turned upright. The net is sensitive to where exactly: five crops,
each as it is and mirrored, are averaged, so that a jitter of one px in LFW's points changes 5 % of the
verdicts (7 % with one crop; docs/attributes.md).
"""

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.vision.models.batches import run_rows, softmax
from mien.vision.runtimes.base import Array, Session
from mien.vision.values import Eyes, Face, Image

SIDE = 24
CUT = 0.76
"""Side of the crop in distances between the eyes."""
_OPEN = 1
_SHIFTS = np.array([(0.0, 0.0), (0.03, 0.0), (-0.03, 0.0), (0.0, 0.03), (0.0, -0.03)])
"""Of the crops' centres, in distances between the eyes."""


MAX_EYES = 512
"""Crops of one run (1.2 MB)."""


Offset = NDArray[np.float64]
"""(2,) float64, px."""


class EyesOpen:
    """Says for each eye how likely it is open. Dark glasses and averted faces look closed to it."""

    def __init__(self, session: Session) -> None:
        """`session`: input (N, 1, 24, 24); output (N, 2) logits."""
        self._session = session

    def __call__(self, image: Image, faces: Sequence[Face]) -> list[Eyes]:
        """One Eyes per face, in order. Raises ModelError if the graph refuses its input."""
        if not faces:
            return []
        rows = np.empty((2, len(faces), 2, len(_SHIFTS), SIDE, SIDE), np.float32)
        for row, face in zip(rows[0], faces, strict=True):
            points = face.landmarks.astype(np.float64) * image.scale
            across = points[1] - points[0]
            for eye in (0, 1):
                for i, shift in enumerate(_SHIFTS * np.hypot(*across)):
                    row[eye, i] = upright_eye(image, points[eye] + shift, across)
        rows[0] *= np.float32(1.0 / 255.0)
        rows[1] = rows[0, :, :, :, :, ::-1]
        opened = softmax(run_rows(self._session, rows.reshape(-1, 1, SIDE, SIDE), MAX_EYES)[0])[:, _OPEN]
        pairs = opened.reshape(rows.shape[:4]).mean(axis=(0, 3))
        return [Eyes(left_open=float(left), right_open=float(right)) for left, right in pairs]


def upright_eye(image: Image, centre: Offset, across: Offset) -> Array:
    """(24, 24) float32 grey, 0..255: the eye at `centre` with `across`, both px of `image`, level.

    `across` goes from the left eye to the right one. Where it is zero the crop is one px wide.
    """
    height, width = image.pixels.shape[:2]
    reach = max(float(np.hypot(*across)) * CUT, 1.0)
    # Cut a small upright part first: grey of 12 megapixels for two eyes would cost more than the net.
    half = int(reach) + 2
    x0, y0 = (int(np.clip(c - half, 0, n - 1)) for c, n in zip(centre, (width, height), strict=True))
    part = image.pixels[y0 : y0 + 2 * half + 1, x0 : x0 + 2 * half + 1]
    grey = cv2.cvtColor(part, cv2.COLOR_RGB2GRAY)
    local = centre - (x0, y0)
    zoom = SIDE / reach
    if zoom < 0.5:  # bilinear sampling alone would skip pixels
        factor = int(1.0 / zoom)
        size = (max(grey.shape[1] // factor, 1), max(grey.shape[0] // factor, 1))
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
        local, zoom = (local + 0.5) / factor - 0.5, zoom * factor
    angle = float(np.arctan2(across[1], across[0]))
    cos, sin = np.cos(angle) * zoom, np.sin(angle) * zoom
    turn = np.array([[cos, sin], [-sin, cos]])
    matrix = np.concatenate([turn, ((SIDE - 1) / 2 - turn @ local)[:, None]], axis=1)
    return np.asarray(
        cv2.warpAffine(grey, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE),
        np.float32,
    )
