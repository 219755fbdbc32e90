"""Where the faces are: one look at a fitted size, and further looks where that one may miss some."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from mien.vision.models.base import Detections, Detector
from mien.vision.models.suppression import joined
from mien.vision.recipe import Recipe
from mien.vision.scale import resized, window
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


CELL = 160
CELL_FACE = 80
"""A small face is looked at again at 80 px, in the middle of a cell of 160 px. On LFW DevTrain
(faces of 20, 30, 40 px at the first look) that moves TAR at FMR 0.001 from 95.3, 98.6, 98.6 % to
99.1, 99.4, 99.4 %; from 50 px on it gains nothing. Cells of 96 px give 99.1 % at 30 px."""
_CELL_CONFIDENCE = 0.3
"""That there is a face is known already."""


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

    def closer(self, image: Image, faces: Sequence[Face]) -> list[Face]:
        """The same faces, small ones with better boxes and points from a look close up.

        `image` may be a larger decode than the faces were found in. Confidences stay.
        """
        zoom = self._fit(max(image.source_size))
        small = [i for i, f in enumerate(faces) if _long_side(f.box) * zoom < self._recipe.refine_px]
        better = list(faces)
        width, height = self._detector.canvas_size or (4 * CELL, 4 * CELL)
        columns, rows = width // CELL, height // CELL
        for start in range(0, len(small), columns * rows):
            some = small[start : start + columns * rows]
            for i, face in zip(some, self._cells(image, [faces[i] for i in some], columns), strict=True):
                better[i] = face
        return better

    def _cells(self, image: Image, faces: list[Face], columns: int) -> list[Face]:
        """One look at a mosaic of faces, each shown at `CELL_FACE` px in a cell of its own."""
        sx, sy = image.scale
        if self._detector.canvas_size:
            width, height = self._detector.canvas_size
        else:
            width, height = min(len(faces), columns) * CELL, -(-len(faces) // columns) * CELL
        canvas = np.zeros((height, width, 3), np.uint8)
        places = []
        for i, face in enumerate(faces):
            box = face.box
            zoom = CELL_FACE / max(box.width * sx, box.height * sy)
            centre = ((box.x + box.width / 2) * sx, (box.y + box.height / 2) * sy)
            corner = (i % columns * CELL, i // columns * CELL)
            left, top = (corner[a] + CELL / 2 - centre[a] * zoom for a in (0, 1))
            cell = canvas[corner[1] : corner[1] + CELL, corner[0] : corner[0] + CELL]
            cell[:] = window(image.pixels, zoom, (corner[0] - left, corner[1] - top), CELL)
            places.append((zoom, left, top))
        seen = self._detector(canvas, _CELL_CONFIDENCE)
        middles = seen.boxes[:, :2] + seen.boxes[:, 2:] / 2
        better = []
        for i, (face, (zoom, left, top)) in enumerate(zip(faces, places, strict=True)):
            middle = np.array([i % columns + 0.5, i // columns + 0.5], np.float32) * CELL
            apart = np.abs(middles - middle).max(axis=1)
            nearest = int(apart.argmin()) if len(seen) else -1
            # What lies off the middle by half a face is another face, or none.
            if nearest < 0 or apart[nearest] > CELL_FACE / 2:
                better.append(face)
                continue
            back = seen.take(slice(nearest, nearest + 1)).mapped(
                (1 / (zoom * sx), 1 / (zoom * sy)), (-left / (zoom * sx), -top / (zoom * sy))
            )
            better.append(replace(_face(back, 0), confidence=face.confidence))
        return better

    def _fit(self, long_side: int) -> float:
        """Canvas px per px of a photo with this long side, at the first look."""
        canvas = min(self._recipe.detect_px, *(self._detector.canvas_size or (1 << 16,)))
        return min(canvas / long_side, self._recipe.magnify)

    def _look(self, pixels: NDArray[np.uint8], min_confidence: float) -> Detections:
        return self._on_canvas(pixels, self._fit(max(pixels.shape[:2])), None, min_confidence)

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


def _long_side(box: Box) -> float:
    return max(box.width, box.height)


def _largest(seen: Detections) -> float:
    return float(seen.boxes[:, 2:].max(axis=1).max())


def _face(seen: Detections, row: int) -> Face:
    x, y, width, height = (float(v) for v in seen.boxes[row])
    points = np.array(seen.landmarks[row], np.float32)
    points.flags.writeable = False
    return Face(Box(x, y, width, height), points, float(seen.scores[row]))
