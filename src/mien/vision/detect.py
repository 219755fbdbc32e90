"""Where the faces are: one look at a fitted size, and further looks where that one may miss some."""

import numpy as np
from numpy.typing import NDArray

from mien.vision.models.base import Detections, Detector
from mien.vision.models.suppression import joined
from mien.vision.recipe import Recipe
from mien.vision.scale import resized
from mien.vision.values import Box, Face, Image

GRID = 32
"""Canvas sides are multiples of the coarsest stride."""

CLOSE_CANVAS = 320
CLOSE_SHARE = 0.6
"""The look at close-ups: the photo on the middle 60 % of a small canvas, so that a face that fills
the photo looks like any other."""
FILLS = 0.6
"""A face whose box spans this share of the photo's shorter side calls for a look from afar."""

TILE = 640
TILE_OVERLAP = 160
"""Tiles of a thorough search overlap by more than the smallest face that the first look can miss:
about 10 px at 640, so 125 px in the largest photo of 8192 px."""


class FaceFinder:
    """Finds faces with one detector, whatever the size of the photo."""

    def __init__(self, detector: Detector, recipe: Recipe | None = None) -> None:
        self._detector = detector
        self._recipe = recipe or Recipe()

    def find(self, image: Image, min_confidence: float, *, thorough: bool = False) -> list[Face]:
        """Faces in source px, largest first. `thorough` searches a full-size image tile by tile too."""
        pixels = image.pixels
        seen = self._look(pixels, min_confidence)
        if not len(seen) or _largest(seen) > FILLS * min(pixels.shape[:2]):
            seen = joined([seen, self._look_from_afar(pixels, min_confidence)], 0.3, 0.7)
        if thorough and max(pixels.shape[:2]) > TILE:
            seen = joined([seen, *self._tiles(pixels, min_confidence)], 0.3, 0.7)
        sx, sy = image.scale
        seen = seen.mapped((1.0 / sx, 1.0 / sy), (0.0, 0.0))
        areas = seen.boxes[:, 2] * seen.boxes[:, 3]
        return [_face(seen, i) for i in np.argsort(-areas, kind="stable")]

    def _look(self, pixels: NDArray[np.uint8], min_confidence: float) -> Detections:
        long_side = min(self._recipe.detect_px, *(self._detector.canvas_size or (1 << 16,)))
        zoom = min(long_side / max(pixels.shape[:2]), self._recipe.magnify)
        return self._on_canvas(pixels, zoom, None, min_confidence)

    def _look_from_afar(self, pixels: NDArray[np.uint8], min_confidence: float) -> Detections:
        side = min(self._detector.canvas_size or (CLOSE_CANVAS, CLOSE_CANVAS))
        zoom = CLOSE_SHARE * side / max(pixels.shape[:2])
        return self._on_canvas(pixels, zoom, side, min_confidence)

    def _on_canvas(
        self, pixels: NDArray[np.uint8], zoom: float, centred_on: int | None, min_confidence: float
    ) -> Detections:
        """Detections in px of `pixels`, which is put at the canvas' corner or centred on a square."""
        small, (zx, zy) = resized(pixels, zoom)
        height, width = small.shape[:2]
        left = top = 0
        if centred_on is not None:
            size = (centred_on, centred_on)
            left, top = (centred_on - width) // 2, (centred_on - height) // 2
        else:
            size = self._detector.canvas_size or (_up(width), _up(height))
        if size != (width, height):
            canvas = np.zeros((size[1], size[0], 3), np.uint8)
            canvas[top : top + height, left : left + width] = small
            small = canvas
        seen = self._detector(np.ascontiguousarray(small), min_confidence)
        return seen.mapped((1.0 / zx, 1.0 / zy), (-left / zx, -top / zy))

    def _tiles(self, pixels: NDArray[np.uint8], min_confidence: float) -> list[Detections]:
        height, width = pixels.shape[:2]
        side = min(self._detector.canvas_size or (TILE, TILE))
        found = []
        for top in _starts(height, side):
            for left in _starts(width, side):
                tile = pixels[top : top + side, left : left + side]
                seen = self._on_canvas(tile, 1.0, None, min_confidence)
                if len(seen):
                    seen = seen.mapped((1.0, 1.0), (left, top))
                    found.append(_whole_only(seen, (left, top), tile.shape, (width, height)))
        return found


def _up(length: int) -> int:
    return max(GRID, -(-length // GRID) * GRID)


def _starts(length: int, side: int) -> list[int]:
    """Where tiles begin, evenly spread so that neighbours overlap by at least `TILE_OVERLAP`."""
    if length <= side:
        return [0]
    overlap = min(TILE_OVERLAP, side // 2)
    count = -(-(length - overlap) // (side - overlap))
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def _whole_only(
    seen: Detections, corner: tuple[int, int], shape: tuple[int, ...], photo: tuple[int, int]
) -> Detections:
    """Without boxes that a tile's inner edge cuts: the neighbour or the first look has them whole."""
    left, top = corner
    right, bottom = left + shape[1], top + shape[0]
    x0, y0 = seen.boxes[:, 0], seen.boxes[:, 1]
    x1, y1 = x0 + seen.boxes[:, 2], y0 + seen.boxes[:, 3]
    cut = np.zeros(len(seen), bool)
    if left > 0:
        cut |= x0 < left + 2
    if top > 0:
        cut |= y0 < top + 2
    if right < photo[0]:
        cut |= x1 > right - 2
    if bottom < photo[1]:
        cut |= y1 > bottom - 2
    return seen.take(np.flatnonzero(~cut))


def _largest(seen: Detections) -> float:
    return float(seen.boxes[:, 2:].max(axis=1).max())


def _face(seen: Detections, row: int) -> Face:
    x, y, width, height = (float(v) for v in seen.boxes[row])
    points = np.array(seen.landmarks[row], np.float32)
    points.flags.writeable = False
    return Face(Box(x, y, width, height), points, float(seen.scores[row]))
