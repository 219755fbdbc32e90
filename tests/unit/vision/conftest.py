"""Photos made on the fly, and models of the store for tests."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from mien.vision.runtimes.base import RuntimeChoice, Session
from mien.vision.runtimes.choose import open_session
from tests.photos import photo
from tests.stored_models import model_path

CPU = RuntimeChoice(name="onnxruntime", device="cpu")


@lru_cache(maxsize=16)
def _session(path: Path, choice: RuntimeChoice) -> Session:
    return open_session(path, choice)


@pytest.fixture
def opened() -> Callable[..., Session]:
    """`opened("sface")` is the stored model's session, shared by the tests; skips if not pulled."""

    def open_(name: str, choice: RuntimeChoice = CPU) -> Session:
        return _session(model_path(name), choice)

    return open_


@lru_cache(maxsize=8)
def _pixels(name: str) -> NDArray[np.uint8]:
    with PIL.Image.open(photo(name)) as image:
        return np.array(image.convert("RGB"), np.uint8)


@pytest.fixture
def pixels() -> Callable[[str], NDArray[np.uint8]]:
    """`pixels("astronaut")` is a test photo as (H, W, 3) uint8 RGB, decoded by Pillow."""
    return _pixels


@pytest.fixture
def encoded() -> Callable[..., bytes]:
    """`encoded(pixels_or_image, "PNG", **options)` is what Pillow writes."""

    def encode(image: NDArray[np.uint8] | PIL.Image.Image, photo_format: str, **options: object) -> bytes:
        made = image if isinstance(image, PIL.Image.Image) else PIL.Image.fromarray(image)
        out = io.BytesIO()
        made.save(out, photo_format, **options)
        return out.getvalue()

    return encode
