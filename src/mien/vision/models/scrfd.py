"""SCRFD, InsightFace's detector (`scrfd_*_bnkps.onnx`, `det_*.onnx`; weights non-commercial).

J. Guo et al.: Sample and Computation Redistribution for Efficient Face Detection, ICLR 2022. RGB,
(x - 127.5) / 128; at strides 8, 16 and 32, two anchors per cell: a score, distances to the four
sides and five points, in strides. Outputs come grouped by kind: three scores, three boxes, three
sets of points; some exports drop the leading batch dimension.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mien.kit.errors import ModelError
from mien.vision.models.base import NOTHING, Detections
from mien.vision.models.planes import to_planes
from mien.vision.models.suppression import suppress
from mien.vision.runtimes.base import Session
from mien.vision.values import Pixels

STRIDES = (8, 16, 32)
ANCHORS = 2
MAX_OVERLAP = 0.4
"""InsightFace's default for this family."""


@lru_cache(maxsize=64)
def _anchors(width: int, height: int, stride: int) -> NDArray[np.float32]:
    """(A, 2) float32: the top left corner of every cell in px, once per anchor. Bounded: sizes repeat."""
    rows, columns = np.mgrid[0 : height // stride, 0 : width // stride]
    corners = np.stack([columns.ravel(), rows.ravel()], axis=1).astype(np.float32) * stride
    anchors = np.repeat(corners, ANCHORS, axis=0)
    anchors.flags.writeable = False
    return anchors


class Scrfd:
    """A `Detector`."""

    def __init__(self, session: Session) -> None:
        """ModelError if the graph has not the nine outputs of the variant with five points."""
        if len(session.outputs) != 9:
            raise ModelError("This SCRFD gives no landmarks; take a variant with five points (bnkps, kps).")
        self._session = session
        self._input = session.inputs[0].name
        height, width = session.inputs[0].shape[2:]
        self.canvas_size: tuple[int, int] | None = (width, height) if width and height else None

    @property
    def runtime(self) -> str:
        return self._session.runtime

    def __call__(self, canvas: Pixels, min_confidence: float) -> Detections:
        """See `Detector`."""
        height, width = canvas.shape[:2]
        out = self._session.run({self._input: to_planes(canvas, mean=127.5, divisor=128.0)})
        boxes, points, scores = [], [], []
        for i, stride in enumerate(STRIDES):
            score = out[i].reshape(-1)
            hit = np.flatnonzero(score >= min_confidence)
            if not hit.size:
                continue
            anchor = _anchors(width, height, stride)[hit]
            sides = out[i + 3].reshape(-1, 4)[hit] * np.float32(stride)
            boxes.append(np.concatenate([anchor - sides[:, :2], sides[:, :2] + sides[:, 2:]], axis=1))
            offsets = out[i + 6].reshape(-1, 5, 2)[hit] * np.float32(stride)
            points.append(anchor[:, None, :] + offsets)
            scores.append(score[hit])
        if not scores:
            return NOTHING
        found = Detections(np.concatenate(boxes), np.concatenate(points), np.concatenate(scores))
        return suppress(found, MAX_OVERLAP)
