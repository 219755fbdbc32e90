"""Liveness of one frame: a live face, or a print, a screen, a replay.

Source: `fr_liveness.onnx` (npm faceplugin-face-recognition-js, MIT), a MiniFASNet of the
Silent-Face-Anti-Spoofing family. Input 128x128 BGR, 0..255, not normalised; three logits, index 0
is the live class (1 and 2 are kinds of attack). Upstream cuts 2.7 x the face box; 1.5 x measures
better on 440 photos of prints, photos and video replays (AUC 0.957, EER 11.5 % for one frame). With
RGB live faces are taken for attacks (docs/attributes.md).
"""

from collections.abc import Sequence

import numpy as np

from mien.vision.crops import crop_inside
from mien.vision.models.batches import run_rows, softmax
from mien.vision.runtimes.base import Session
from mien.vision.values import Face, Image, Liveness

SIDE = 128
GROW = 1.5
_REAL = 0


class FrameLiveness:
    """Says how likely one frame shows a live face. One frame is a hint: fuse several over time."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def __call__(self, image: Image, faces: Sequence[Face]) -> list[Liveness]:
        """One Liveness per face, in order. Raises ModelError if the graph refuses its input."""
        if not faces:
            return []
        rows = np.empty((len(faces), 3, SIDE, SIDE), np.float32)
        for row, face in zip(rows, faces, strict=True):
            crop = crop_inside(image, face.box, grow=GROW, side=SIDE)
            row[:] = crop[:, :, ::-1].transpose(2, 0, 1)
        real = softmax(run_rows(self._session, rows)[0])[:, _REAL]
        return [Liveness(real=float(p)) for p in real]
