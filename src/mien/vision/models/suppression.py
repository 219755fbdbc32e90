"""Non-maximum suppression, and the joining of passes."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mien.vision.models.base import NOTHING, Detections


def suppress(detections: Detections, max_overlap: float, *, contained: float = 1.0) -> Detections:
    """Greedy non-maximum suppression: best first, each box drops those that overlap it too much.

    `max_overlap` is the largest intersection over union two kept boxes may have. `contained` is the
    largest intersection over the *smaller* box; below 1 it also drops a part of a face that a tile
    cut off. Returns the rest, best first.
    """
    kept = kept_rows(detections.boxes, detections.scores, max_overlap, contained)
    return detections.take(kept)


def kept_rows(
    boxes: NDArray[np.float32], scores: NDArray[np.float32], max_overlap: float, contained: float = 1.0
) -> NDArray[np.intp]:
    """Rows that survive, best first; `boxes` (N, 4) x, y, width, height."""
    order = np.argsort(-scores, kind="stable")
    left, top = boxes[:, 0], boxes[:, 1]
    right, bottom = left + boxes[:, 2], top + boxes[:, 3]
    area = boxes[:, 2] * boxes[:, 3]
    kept = []
    while order.size:
        best, rest = order[0], order[1:]
        kept.append(best)
        if not rest.size:
            break
        wide = np.minimum(right[best], right[rest]) - np.maximum(left[best], left[rest])
        high = np.minimum(bottom[best], bottom[rest]) - np.maximum(top[best], top[rest])
        shared = np.maximum(wide, 0.0) * np.maximum(high, 0.0)
        union = area[best] + area[rest] - shared
        drop = shared > max_overlap * union
        if contained < 1.0:
            drop |= shared > contained * np.minimum(area[best], area[rest])
        order = rest[~drop]
    return np.array(kept, np.intp)


def joined(passes: Sequence[Detections], max_overlap: float, contained: float) -> Detections:
    """Several passes over one photo, in the same coordinates, as one without doubles."""
    passes = [p for p in passes if len(p)]
    if not passes:
        return NOTHING
    if len(passes) == 1:
        return passes[0]
    everything = Detections(
        np.concatenate([p.boxes for p in passes]),
        np.concatenate([p.landmarks for p in passes]),
        np.concatenate([p.scores for p in passes]),
    )
    return suppress(everything, max_overlap, contained=contained)
