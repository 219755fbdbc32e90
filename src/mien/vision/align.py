"""Five points to an upright face of 112 x 112: the ArcFace alignment."""

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.vision.scale import halved, halvings_for
from mien.vision.values import Image, Pixels, Points5

CHIP_PX = 112

TEMPLATE: Points5 = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]],
    np.float32,
)
"""Where the five points come to lie, px in the chip: `arcface_dst` of InsightFace's face_align.py,
the same in OpenCV's FaceRecognizerSF."""

_CENTRE: tuple[float, float] = tuple(TEMPLATE.mean(axis=0, dtype=np.float64).tolist())
_SPREAD: list[list[float]] = (TEMPLATE.astype(np.float64) - _CENTRE).tolist()


def similarity(points: Points5) -> NDArray[np.float64]:
    """The (2, 3) similarity transform that brings `points` closest to the template.

    Least squares over rotation, uniform scale and shift (S. Umeyama, Least-squares estimation of
    transformation parameters between two point patterns, PAMI 1991). In the plane it has a closed
    form without SVD: with points as complex numbers, a = sum(conj(p) t) / sum(|p|^2).
    Points that all coincide give a matrix of zeros and the template's centre.
    """
    # Plain floats: for five points NumPy's calls cost ten times the arithmetic (70 us against 6).
    five = points.tolist()
    cx, cy = sum(p[0] for p in five) / 5.0, sum(p[1] for p in five) / 5.0
    power = real = imaginary = 0.0
    for (x, y), (u, v) in zip(five, _SPREAD, strict=True):
        x, y = x - cx, y - cy
        power += x * x + y * y
        real += x * u + y * v
        imaginary += x * v - y * u
    if power < 1e-12:
        return np.array([[0.0, 0.0, _CENTRE[0]], [0.0, 0.0, _CENTRE[1]]])
    real, imaginary = real / power, imaginary / power
    return np.array(
        [
            [real, -imaginary, _CENTRE[0] - real * cx + imaginary * cy],
            [imaginary, real, _CENTRE[1] - imaginary * cx - real * cy],
        ]
    )


def chip_zoom(points: Points5) -> float:
    """Chip px per px of the coordinates that `points` are in; under 1 the chip is a reduction."""
    matrix = similarity(points)
    return float(np.hypot(matrix[0, 0], matrix[1, 0]))


def chip(image: Image, landmarks: Points5) -> Pixels:
    """The aligned face, (112, 112, 3) uint8 RGB; what lies beyond the photo is black.

    `landmarks` in source px. A reduction by 2 or more is done by halving first:
    bilinear sampling alone would skip pixels and alias.
    """
    points = landmarks * np.array(image.scale, np.float32)
    matrix = similarity(points)
    pixels: NDArray[np.uint8] = image.pixels
    zoom = float(np.hypot(matrix[0, 0], matrix[1, 0]))
    halvings = halvings_for(zoom) if zoom > 1e-6 else 0
    if halvings:
        pixels, matrix = _reduced(pixels, matrix, halvings)
    warped = cv2.warpAffine(
        pixels, matrix, (CHIP_PX, CHIP_PX), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
    )
    return np.asarray(warped, np.uint8)


def _reduced(
    pixels: NDArray[np.uint8], matrix: NDArray[np.float64], halvings: int
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """The part of the photo that the chip shows, made smaller, and the matrix for it."""
    factor = 1 << halvings
    height, width = pixels.shape[:2]
    turn, shift = matrix[:, :2], matrix[:, 2]
    corners = np.array([[0, 0], [CHIP_PX, 0], [0, CHIP_PX], [CHIP_PX, CHIP_PX]], np.float64)
    around = (corners - shift) @ np.linalg.inv(turn).T
    low = np.floor(around.min(axis=0)).astype(int) - 2 * factor
    high = np.ceil(around.max(axis=0)).astype(int) + 2 * factor
    left, top = (int(v) for v in np.clip(low, 0, [width, height]))
    right, bottom = (int(v) for v in np.clip(high, 0, [width, height]))
    if right - left < factor or bottom - top < factor:
        return pixels, matrix
    small = halved(pixels[top:bottom, left:right], halvings)
    # Pixel centres: block (i, j) lies at factor * (i, j) + (factor - 1) / 2 from the corner.
    origin = np.array([left, top]) + (factor - 1) / 2.0
    return small, np.concatenate([turn * factor, (shift + turn @ origin)[:, None]], axis=1)
