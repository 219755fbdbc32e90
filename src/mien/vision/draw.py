"""Drawing what was found onto a photo: boxes, names, landmarks, readable on any background.

Only for people's eyes; nothing here feeds back into recognition. Shapes are drawn at a multiple of
their size and averaged down, so that thin rounded lines stay smooth at every size of photo.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw

from mien.vision.typeface import displayable, ink, width_px
from mien.vision.values import AnalyzedFace, Box, Pixels, Points5

Colour = tuple[int, int, int]
Rect = tuple[float, float, float, float]
"""left, top, right, bottom in px of the photo."""

ACCENT: Final[Colour] = (31, 111, 235)
GREY: Final[Colour] = (98, 106, 120)
_INK: Final[Colour] = (255, 255, 255)
_SOFT: Final[Colour] = (226, 232, 243)
_HALO: Final[Colour] = (0, 0, 0)
_BOLD: Final = 500
_PLAIN: Final = 400
MAX_MARKS: Final = 500


@dataclass(frozen=True, slots=True, eq=False)
class Mark:
    """One thing to point out. `box` and `landmarks` are px of the photo that is drawn on.

    `title` is the name, `detail` what goes small beside it (a score, reasons); both may be empty.
    `known` gives the accent colour, otherwise grey.
    """

    box: Box
    title: str = ""
    detail: str = ""
    known: bool = True
    landmarks: Points5 | None = None


def mark_of(
    analyzed: AnalyzedFace, title: str = "", *, score: float | None = None, known: bool = True
) -> Mark:
    """A face as the analyzer gave it, with a name: its score, quality's reasons, emotion, liveness."""
    notes = [f"{score:.2f}"] if score is not None else []
    if analyzed.quality:
        notes += [reason.replace("_", " ") for reason in analyzed.quality.reasons[:2]]
    if analyzed.emotion:
        notes.append(analyzed.emotion.label)
    if analyzed.liveness and analyzed.liveness.real < 0.5:
        notes.append("not live")
    return Mark(analyzed.face.box, title, ", ".join(notes), known, analyzed.face.landmarks)


def annotate(pixels: Pixels, marks: Sequence[Mark]) -> Pixels:
    """A copy of the photo (H, W, 3) uint8 RGB with the marks drawn; at most MAX_MARKS of them.

    Small faces are drawn last, so that they lie on top; labels keep off each other and off other
    faces where there is room.
    """
    photo = PillowImage.fromarray(np.ascontiguousarray(pixels, np.uint8), "RGB")
    marks = sorted(marks[:MAX_MARKS], key=lambda m: -m.box.width * m.box.height)
    unit = _unit(photo.size)
    for mark in marks:
        _frame(photo, mark, unit)
    taken: list[Rect] = []
    faces = [_rect(mark.box) for mark in marks]
    for i, mark in enumerate(marks):
        if mark.title or mark.detail:
            chip = _Chip(mark, unit, photo.size)
            place = chip.place(faces[i], [*taken, *faces[:i], *faces[i + 1 :]])
            chip.draw(photo, place)
            taken.append(place)
    return np.asarray(photo, np.uint8).copy()


def _unit(size: tuple[int, int]) -> float:
    """The width of a thin line, px: 1 up to 500 px, about 2 at 1280, 4 at 4000."""
    return float(max(1.0, (max(size) / 500.0) ** 0.7))


def _rect(box: Box) -> Rect:
    return (box.x, box.y, box.x + box.width, box.y + box.height)


def _blend(photo: PillowImage.Image, area: Rect, colour: Colour, opacity: float, shape: "_Shape") -> None:
    """Paint what `shape` draws (255 on black, in its own scaled coordinates) over a part of the photo."""
    left, top = max(int(area[0]), 0), max(int(area[1]), 0)
    right, bottom = min(int(area[2]) + 2, photo.width), min(int(area[3]) + 2, photo.height)
    if right <= left or bottom <= top:
        return
    fine = 4 if max(right - left, bottom - top) <= 800 else 2
    mask = PillowImage.new("L", ((right - left) * fine, (bottom - top) * fine), 0)
    shape(ImageDraw.Draw(mask), lambda x, y: ((x - left) * fine, (y - top) * fine), fine)
    mask = mask.resize((right - left, bottom - top), PillowImage.Resampling.BOX)
    if opacity < 1.0:
        mask = mask.point([round(v * opacity) for v in range(256)])
    photo.paste(colour, (left, top, right, bottom), mask)


_At = Callable[[float, float], tuple[float, float]]
_Shape = Callable[[ImageDraw.ImageDraw, _At, int], None]


def _frame(photo: PillowImage.Image, mark: Mark, unit: float) -> None:
    """A faint thin box with strong rounded corners, on a soft dark halo; the landmarks as dots."""
    rect = _rect(mark.box)
    side = mark.box.size_px
    if side < 2.0:
        return  # nothing that could be seen
    line = max(min(unit, side / 24.0), 1.0)
    radius = side * 0.12
    arm = side * 0.16
    colour = ACCENT if mark.known else GREY
    reach = 3 * line
    area = (rect[0] - reach, rect[1] - reach, rect[2] + reach, rect[3] + reach)

    def whole(width: float) -> _Shape:
        def draw(pen: ImageDraw.ImageDraw, at: _At, fine: int) -> None:
            half = width / 2
            box = (*at(rect[0] - half, rect[1] - half), *at(rect[2] + half, rect[3] + half))
            pen.rounded_rectangle(box, (radius + half) * fine, outline=255, width=max(round(width * fine), 1))

        return draw

    def corners(width: float) -> _Shape:
        def draw(pen: ImageDraw.ImageDraw, at: _At, fine: int) -> None:
            whole(width)(pen, at, fine)
            # Keep the corners: cut a cross out of the frame.
            keep, away = radius + arm, 2 * width + 1
            pen.rectangle((*at(rect[0] + keep, rect[1] - away), *at(rect[2] - keep, rect[3] + away)), fill=0)
            pen.rectangle((*at(rect[0] - away, rect[1] + keep), *at(rect[2] + away, rect[3] - keep)), fill=0)

        return draw

    _blend(photo, area, _HALO, 0.28, whole(2.4 * line))
    _blend(photo, area, _INK, 0.75, whole(line))
    _blend(photo, area, _HALO, 0.35, corners(3.6 * line))
    _blend(photo, area, colour, 1.0, corners(2.3 * line))
    if mark.landmarks is not None and side >= 48:
        _dots(photo, mark.landmarks, max(side / 80.0, 1.0), colour)


def _dots(photo: PillowImage.Image, points: Points5, radius: float, colour: Colour) -> None:
    low, high = points.min(axis=0) - 3 * radius, points.max(axis=0) + 3 * radius
    area = (float(low[0]), float(low[1]), float(high[0]), float(high[1]))

    def discs(size: float) -> _Shape:
        def draw(pen: ImageDraw.ImageDraw, at: _At, fine: int) -> None:
            for x, y in points.tolist():
                pen.ellipse(
                    (*at(x - size + 0.5, y - size + 0.5), *at(x + size + 0.5, y + size + 0.5)), fill=255
                )

        return draw

    _blend(photo, area, colour, 0.9, discs(radius * 1.9))
    _blend(photo, area, _INK, 1.0, discs(radius))


class _Chip:
    """A label: a rounded chip with the title, and the detail smaller beside it."""

    def __init__(self, mark: Mark, unit: float, photo: tuple[int, int]) -> None:
        self._photo = photo
        size = 9.5 + 4.0 * unit
        # Faces far smaller than the letters get smaller ones, down to what can be read.
        self._size = round(max(min(size, mark.box.width / 4.0), min(size, 11.0)))
        self._small = max(round(self._size * 0.82), 9)
        self._colour = ACCENT if mark.known else GREY
        widest = min(max(mark.box.width * 1.6, self._size * 15.0), photo[0] * 0.9)
        self._title = _shortened(mark.title, self._size, _BOLD, widest)
        left = widest - width_px(self._title, self._size, _BOLD)
        self._detail = _shortened(mark.detail, self._small, _PLAIN, left) if left > 3 * self._small else ""
        self._pad, self._gap = self._size * 0.55, self._size * 0.45 if self._title and self._detail else 0.0
        inner = width_px(self._title, self._size, _BOLD) + width_px(self._detail, self._small, _PLAIN)
        self._extent = (inner + self._gap + 2 * self._pad, self._size * 1.62)

    def place(self, face: Rect, avoid: Sequence[Rect]) -> Rect:
        """Above the face or below it, left or right aligned, or in it: where it covers least."""
        wide, high = self._extent
        gap = self._size * 0.35
        above, below = face[1] - gap - high, face[3] + gap
        middle = (face[0] + face[2] - wide) / 2
        spots = [
            (middle, above), (middle, below), (face[0], above), (face[2] - wide, above),
            (face[0], below), (face[2] - wide, below), (middle, face[3] - gap - high),
            (middle, face[1] + gap),
        ]  # fmt: skip
        best, least = (0.0, 0.0, wide, high), float("inf")
        for rank, (x, y) in enumerate(spots):
            held_x = min(max(x, 2.0), max(self._photo[0] - wide - 2.0, 2.0))
            held_y = min(max(y, 2.0), max(self._photo[1] - high - 2.0, 2.0))
            rect = (held_x, held_y, held_x + wide, held_y + high)
            covers = sum(_shared(rect, other) for other in avoid) + 0.5 * _shared(rect, face)
            cost = covers / (wide * high) + 0.01 * rank
            if cost < least:
                best, least = rect, cost
        return best

    def draw(self, photo: PillowImage.Image, rect: Rect) -> None:
        """Paint the chip at `rect`."""
        radius = self._size * 0.48

        def body(grow: float) -> _Shape:
            def draw(pen: ImageDraw.ImageDraw, at: _At, fine: int) -> None:
                box = (*at(rect[0] - grow, rect[1] - grow), *at(rect[2] + grow, rect[3] + grow))
                pen.rounded_rectangle(box, (radius + grow) * fine, fill=255)

            return draw

        halo = max(self._size * 0.07, 1.0)
        around = (rect[0] - 2 * halo, rect[1] - 2 * halo, rect[2] + 2 * halo, rect[3] + 2 * halo)
        _blend(photo, around, _HALO, 0.25, body(halo))
        _blend(photo, around, self._colour, 0.94, body(0.0))
        line = rect[1] + self._size * 1.62 / 2 + self._size * 0.36
        x = _write(photo, (rect[0] + self._pad, line), self._title, self._size, _BOLD, _INK)
        _write(photo, (x + self._gap, line), self._detail, self._small, _PLAIN, _SOFT)


def _shared(one: Rect, other: Rect) -> float:
    wide = min(one[2], other[2]) - max(one[0], other[0])
    high = min(one[3], other[3]) - max(one[1], other[1])
    return max(wide, 0.0) * max(high, 0.0)


def _shortened(text: str, size: int, weight: int, most: float) -> str:
    """The text as it is shown, cut with an ellipsis to fit `most` px."""
    text = displayable(text)
    if width_px(text, size, weight) <= most:
        return text
    while text and width_px(text + "...", size, weight) > most:
        text = text[:-1]
    return text.rstrip() + "..." if text else ""


def _write(
    photo: PillowImage.Image, at: tuple[float, float], text: str, size: int, weight: int, colour: Colour
) -> float:
    """Write on a base line from `at`; the x where it ends."""
    if not text:
        return at[0]
    letters, base = ink(text, size, weight)
    left, top = round(at[0]), round(at[1]) - base
    photo.paste(colour, (left, top), PillowImage.fromarray(letters, "L"))
    return at[0] + width_px(text, size, weight)
