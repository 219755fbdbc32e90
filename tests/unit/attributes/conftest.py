"""Models and photos for the tests of attributes."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest

from mien.vision.models.yunet import YuNet
from mien.vision.runtimes.base import RuntimeChoice, Session
from mien.vision.runtimes.choose import open_session
from mien.vision.values import Box, Face, Image, Pixels
from tests.stored_models import model_path

OpenModel = Callable[[str], Session]
Faces = Callable[[Image], list[Face]]


@cache
def _opened(path: Path) -> Session:
    return open_session(path, RuntimeChoice(name="onnxruntime", device="cpu"))


@pytest.fixture(scope="session")
def open_model() -> OpenModel:
    """Opens a model of the store by name; skips where it is not pulled, but fails in CI."""

    def open_(name: str) -> Session:
        try:
            path = model_path(name)
        except pytest.skip.Exception as reason:
            if os.environ.get("CI", "").lower() == "true":
                pytest.fail(str(reason))
            raise
        return _opened(path)

    return open_


@pytest.fixture(scope="session")
def faces_in(open_model: OpenModel) -> Faces:
    """Faces of a whole photo by YuNet, largest first."""
    detector = YuNet(open_model("yunet"))

    def find(image: Image) -> list[Face]:
        height, width = image.pixels.shape[:2]
        zoom = min(640 / max(height, width), 2.0)
        small = cv2.resize(image.pixels, (round(width * zoom), round(height * zoom)))
        canvas = np.zeros((-(-small.shape[0] // 32) * 32, -(-small.shape[1] // 32) * 32, 3), np.uint8)
        canvas[: small.shape[0], : small.shape[1]] = small
        seen = detector(canvas, 0.6).mapped((1 / zoom, 1 / zoom), (0.0, 0.0))
        faces = [
            Face(Box(*map(float, box)), points, float(score))
            for box, points, score in zip(seen.boxes, seen.landmarks, seen.scores, strict=True)
        ]
        return sorted(faces, key=lambda f: -f.box.width * f.box.height)

    return find


def read(path: Path) -> Image:
    """A photo as an Image at full size."""
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    assert pixels is not None, path
    return image_of(np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8))


def image_of(pixels: Pixels) -> Image:
    """Pixels as an undiminished Image."""
    return Image(np.ascontiguousarray(pixels, np.uint8), (pixels.shape[1], pixels.shape[0]))
