"""What a family of detectors and a family of embedders is to the analyzer."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from mien.vision.values import Pixels

Chips = NDArray[np.uint8]
"""(N, 112, 112, 3) uint8 RGB, C-contiguous: faces aligned by `vision.align`."""

Vectors = NDArray[np.float32]
"""(N, D) float32, rows of unit length."""


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """What a detector saw on one canvas, in px of that canvas, best first.

    `boxes` (N, 4) float32 x, y, width, height; `landmarks` (N, 5, 2) float32 in the order of
    `values.Points5`; `scores` (N,) float32, 0..1.
    """

    boxes: NDArray[np.float32]
    landmarks: NDArray[np.float32]
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: NDArray[np.intp] | slice) -> "Detections":
        """These rows, in this order."""
        return Detections(self.boxes[rows], self.landmarks[rows], self.scores[rows])

    def mapped(self, zoom: tuple[float, float], shift: tuple[float, float]) -> "Detections":
        """The same in other coordinates: p -> p * zoom + shift."""
        z, s = np.array(zoom, np.float32), np.array(shift, np.float32)
        boxes = np.concatenate([self.boxes[:, :2] * z + s, self.boxes[:, 2:] * z], axis=1)
        return Detections(boxes, self.landmarks * z + s, self.scores)


NOTHING = Detections(
    np.empty((0, 4), np.float32), np.empty((0, 5, 2), np.float32), np.empty((0,), np.float32)
)


class Detector(Protocol):
    """Finds faces on a canvas of a size that its graph takes."""

    @property
    def canvas_size(self) -> tuple[int, int] | None:
        """(width, height) in px if the graph takes just one size; None: any multiple of 32."""
        ...

    def __call__(self, canvas: Pixels, min_confidence: float) -> Detections:
        """Faces with at least this score, after non-maximum suppression.

        `canvas` is RGB, (H, W, 3) uint8; black where it is padded. Raises ModelError.
        """
        ...


class Embedder(Protocol):
    """Turns aligned faces into unit vectors."""

    @property
    def dim(self) -> int: ...

    @property
    def runtime(self) -> str:
        """What computes, as in `Session.runtime`."""
        ...

    def __call__(self, chips: Chips) -> Vectors:
        """(N, 112, 112, 3) -> (N, dim), unit length. Raises ModelError."""
        ...
