"""YuNet, the default detector (OpenCV Zoo `face_detection_yunet_2023mar`, MIT).

W. Wu, H. Peng, S. Yu: YuNet: A Tiny Millisecond-level Face Detector, MIR 2023. The graph takes BGR
0..255 of any size that 32 divides and answers at strides 8, 16 and 32: class and object scores, a
box (centre offset, log size) and five points per cell. The arithmetic is that of OpenCV's
`FaceDetectorYN`, which the tests compare with.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mien.vision.models.base import NOTHING, Detections
from mien.vision.models.planes import to_planes
from mien.vision.models.suppression import suppress
from mien.vision.runtimes.base import Session
from mien.vision.values import Pixels

STRIDES = (8, 16, 32)
MAX_OVERLAP = 0.3
"""OpenCV's default for this model."""


@lru_cache(maxsize=64)
def _cells(width: int, height: int, stride: int) -> NDArray[np.float32]:
    """(A, 2) float32: column and row of every cell, row by row. Bounded: sizes repeat."""
    rows, columns = np.mgrid[0 : height // stride, 0 : width // stride]
    cells = np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.float32)
    cells.flags.writeable = False
    return cells


class YuNet:
    """A `Detector`."""

    canvas_size: tuple[int, int] | None = None

    def __init__(self, session: Session) -> None:
        self._session = session
        self._input = session.inputs[0].name
        self._at = {port.name: i for i, port in enumerate(session.outputs)}

    @property
    def runtime(self) -> str:
        return self._session.runtime

    def __call__(self, canvas: Pixels, min_confidence: float) -> Detections:
        """See `Detector`."""
        height, width = canvas.shape[:2]
        out = self._session.run({self._input: to_planes(canvas, bgr=True)})
        floor = min_confidence * min_confidence
        boxes, points, scores = [], [], []
        for stride in STRIDES:
            squared = out[self._at[f"cls_{stride}"]].ravel() * out[self._at[f"obj_{stride}"]].ravel()
            hit = np.flatnonzero(squared >= floor)
            if not hit.size:
                continue
            cells = _cells(width, height, stride)[hit]
            box = out[self._at[f"bbox_{stride}"]][0, hit]
            size = np.exp(box[:, 2:])
            corner = cells + box[:, :2] - 0.5 * size
            boxes.append(np.concatenate([corner, size], axis=1) * np.float32(stride))
            offsets = out[self._at[f"kps_{stride}"]][0, hit].reshape(-1, 5, 2)
            points.append((offsets + cells[:, None, :]) * np.float32(stride))
            scores.append(np.sqrt(np.clip(squared[hit], 0.0, 1.0)))
        if not scores:
            return NOTHING
        found = Detections(np.concatenate(boxes), np.concatenate(points), np.concatenate(scores))
        return suppress(found, MAX_OVERLAP)
