"""Photos to measure on, made from the test photos (published packages) at the sizes that are named."""

import io
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from tests import photos
from tests.paths_to_data import ROOT

FOLDER = ROOT / ".cache" / "bench"


@dataclass(frozen=True, slots=True)
class BenchPhoto:
    """A JPEG on disk and how many faces it shows."""

    name: str
    path: Path
    faces: int


def jpeg(name: str, source: str, size: tuple[int, int]) -> Path:
    """A test photo scaled to `size` (width, height), JPEG quality 92, 4:2:0."""
    path = FOLDER / f"{name}.jpg"
    if not path.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        made = io.BytesIO()
        with Image.open(photos.photo(source)) as image:
            image.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(made, "JPEG", quality=92)
        path.write_bytes(made.getvalue())
    return path


def six_faces() -> BenchPhoto:
    """1280x886, six faces, as the package ships it."""
    return BenchPhoto("six faces, 1280 px", photos.photo("six_faces"), 6)


def one_face() -> BenchPhoto:
    return BenchPhoto("one face, 640 px", jpeg("one-640", "astronaut", (640, 640)), 1)


def two_megapixels() -> BenchPhoto:
    return BenchPhoto("one face, 2 MP", jpeg("one-2mp", "astronaut", (1448, 1448)), 1)


def twelve_megapixels() -> BenchPhoto:
    return BenchPhoto("one face, 12 MP", jpeg("one-12mp", "astronaut", (3464, 3464)), 1)
