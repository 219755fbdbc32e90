"""Whom a photo shows."""

import numpy as np

from mien.vision.subject import subject
from mien.vision.values import AnalyzedFace, Box, Face


def face(x: float, y: float, size: float) -> AnalyzedFace:
    return AnalyzedFace(Face(Box(x, y, size, size), np.zeros((5, 2), np.float32), 0.9))


def test_large_and_central_wins() -> None:
    middle, corner, small = face(80, 80, 90), face(0, 0, 95), face(120, 120, 10)
    assert subject([corner, middle, small], 250, 250) is middle
    # Twice as large beats a little off the middle: 200^2 - 2 * (60^2 + 60^2) > 30^2.
    large, tiny = face(310, 310, 200), face(335, 335, 30)
    assert subject([large, tiny], 700, 700) is large
    assert subject([], 250, 250) is None
