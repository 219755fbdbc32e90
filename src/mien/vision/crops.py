"""Cutting a face out of a photo for the attribute models, each of which wants its own crop."""

import cv2
import numpy as np

from mien.vision.values import Box, Image, Pixels


def scaled_box(image: Image, box: Box) -> tuple[float, float, float, float]:
    """x, y, width, height of a source-px `box` in the pixels of `image`; sides are at least 1 px."""
    sx, sy = image.scale
    return box.x * sx, box.y * sy, max(box.width * sx, 1.0), max(box.height * sy, 1.0)


def crop_inside(image: Image, box: Box, *, grow: float, side: int) -> Pixels:
    """(side, side, 3) uint8 RGB: the box grown `grow` times, shifted so that it lies in the photo.

    `grow` shrinks where the photo is too small for it, so no pixel is made up: a liveness model must
    not see an invented border. The aspect ratio of the box is not kept. Method: `CropImage` of
    Silent-Face-Anti-Spoofing (minivision-ai).
    """
    height, width = image.pixels.shape[:2]
    x, y, w, h = scaled_box(image, box)
    grow = max(min((height - 1) / h, (width - 1) / w, grow), 0.0)
    w, h, cx, cy = w * grow, h * grow, x + w / 2, y + h / 2
    left = int(min(max(cx - w / 2, 0.0), max(width - 1 - w, 0.0)))
    top = int(min(max(cy - h / 2, 0.0), max(height - 1 - h, 0.0)))
    part = image.pixels[top : top + int(h) + 1, left : left + int(w) + 1]
    # Bilinear without an area average, as in training: the averaging hides the grid of a screen.
    return np.asarray(cv2.resize(part, (side, side), interpolation=cv2.INTER_LINEAR), dtype=np.uint8)


def crop_around(
    image: Image, box: Box, *, grow: float, side: int, square: bool = False, grey: bool = False
) -> Pixels:
    """(side, side, 3) uint8 RGB, or (side, side) grey: the box grown `grow` times about its centre.

    With `square` the longer side of the box counts for both. What lies outside of the photo repeats
    its edge. Shrinks by area averaging, enlarges bilinearly.
    """
    height, width = image.pixels.shape[:2]
    x, y, w, h = scaled_box(image, box)
    cx, cy = x + w / 2, y + h / 2
    if square:
        w = h = max(w, h)
    w, h = w * grow, h * grow
    left, top = round(cx - w / 2), round(cy - h / 2)
    right, bottom = max(round(cx + w / 2), left + 1), max(round(cy + h / 2), top + 1)
    x0, y0 = min(max(left, 0), width - 1), min(max(top, 0), height - 1)
    x1, y1 = max(min(right, width), x0 + 1), max(min(bottom, height), y0 + 1)
    part = image.pixels[y0:y1, x0:x1]
    shrinks = side < min(right - left, bottom - top)
    if (x0, y0, x1, y1) != (left, top, right, bottom):
        # Resize what is there first, then pad: a huge box never makes a huge array.
        fx, fy = side / (right - left), side / (bottom - top)
        above, below = max(round((y0 - top) * fy), 0), max(round((bottom - y1) * fy), 0)
        before, after = max(round((x0 - left) * fx), 0), max(round((right - x1) * fx), 0)
        inner_h, inner_w = max(side - above - below, 1), max(side - before - after, 1)
        part = _resize(part, (inner_w, inner_h), shrinks)
        part = np.asarray(
            cv2.copyMakeBorder(part, above, below, before, after, cv2.BORDER_REPLICATE), dtype=np.uint8
        )
        shrinks = False
    crop = part if part.shape[:2] == (side, side) else _resize(part, (side, side), shrinks)
    if grey:
        return np.asarray(cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY), dtype=np.uint8)
    return crop


def _resize(part: Pixels, size: tuple[int, int], shrinks: bool) -> Pixels:
    how = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(part, size, interpolation=how), dtype=np.uint8)
