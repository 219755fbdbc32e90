"""Letters for drawing on photos: any name readable, the same on every machine.

OpenCV 5 carries Rubik with a fall-back for the other scripts (Latin, Greek, Cyrillic, Chinese,
Japanese, Korean, Arabic, ...), so that no font of the machine is needed. OpenCV 4 has none: there
Pillow's own font draws ASCII, and other letters are written in Latin ones where that is possible.
"""

import re
import threading
import unicodedata
from functools import lru_cache
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

Mask = NDArray[np.uint8]
"""(H, W) uint8, 255 where ink is."""

MAX_LETTERS: Final = 120
_FACE: Any = getattr(cv2, "FontFace", lambda _: None)("sans")
_drawing = threading.Lock()  # one face is not for two threads at once

_RIGHT_TO_LEFT: Final = "\u0590-\u08ff\ufb1d-\ufdff\ufe70-\ufeff"  # Hebrew, Arabic, Syriac, Thaana, ...
_BACKWARDS: Final = re.compile(f"[{_RIGHT_TO_LEFT}](?:[{_RIGHT_TO_LEFT} ]*[{_RIGHT_TO_LEFT}])?")

_LATIN: Final = str.maketrans(dict(zip("łŁøØđĐıħĦŋŊðÐ", "lLoOdDihHnNdD", strict=True)))


def displayable(text: str) -> str:
    """One line without control letters, at most MAX_LETTERS, right-to-left words turned round.

    The renderer sets letters from left to right and joins none, so Hebrew and Arabic words are reversed
    for it: readable, if not calligraphy.
    """
    kept = unicodedata.normalize("NFC", " ".join(text[: 4 * MAX_LETTERS].split()))
    kept = "".join(c for c in kept if not unicodedata.category(c).startswith("C"))
    kept = _BACKWARDS.sub(lambda words: words[0][::-1], kept)
    if len(kept) > MAX_LETTERS:
        kept = kept[: MAX_LETTERS - 3] + "..."
    return kept if _FACE is not None else in_ascii(kept)


def in_ascii(text: str) -> str:
    """The text in ASCII: marks off (é as e), stroked letters plain (ł as l), the rest as "?"."""
    plain = unicodedata.normalize("NFKD", text.translate(_LATIN))
    return "".join(c if c.isascii() else "?" for c in plain if not unicodedata.combining(c))


@lru_cache(maxsize=512)
def width_px(text: str, size: int, weight: int) -> int:
    """How wide a displayable text is."""
    if not text:
        return 0
    if _FACE is None:
        return round(_pillow(size).getlength(text))
    with _drawing:
        x, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), _FACE, size, weight)
    return max(int(x), 0) + int(width)


def ink(text: str, size: int, weight: int) -> tuple[Mask, int]:
    """The letters of a displayable text, and the row of their base line."""
    base, high, wide = size + size // 3, 2 * size, width_px(text, size, weight) + 4
    if _FACE is None:
        picture = Image.new("L", (wide, high), 0)
        ImageDraw.Draw(picture).text((0, base), text, font=_pillow(size), fill=255, anchor="ls")
        return np.asarray(picture, np.uint8), base
    canvas = np.zeros((high, wide, 3), np.uint8)
    with _drawing:
        cv2.putText(canvas, text, (0, base), (255, 255, 255), _FACE, size, weight)
    return np.ascontiguousarray(canvas[:, :, 0]), base


@lru_cache(maxsize=64)
def _pillow(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size=size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("This Pillow was built without FreeType.")
    return font
