"""Drawing: what is marked is seen, wherever it lies, whatever it is called."""

import cv2
import numpy as np
import pytest

from mien.vision.draw import ACCENT, GREY, Mark, annotate, mark_of
from mien.vision.typeface import displayable, in_ascii, ink, width_px
from mien.vision.values import AnalyzedFace, Box, Face, Liveness, Pixels, Pose, Quality

POINTS = np.array([[140, 120], [180, 120], [160, 140], [145, 165], [175, 165]], np.float32)


def canvas(value: int, size: tuple[int, int] = (240, 320)) -> Pixels:
    return np.full((*size, 3), value, np.uint8)


def near(pixels: Pixels, colour: tuple[int, int, int], within: int = 20) -> int:
    """How many px are about this colour."""
    return int((np.abs(pixels.astype(int) - colour).max(axis=2) < within).sum())


@pytest.mark.parametrize("background", [0, 60, 128, 200, 255])
def test_box_and_label_stand_out_on_any_background(background: int) -> None:
    photo = canvas(background)
    drawn = annotate(photo, [Mark(Box(110, 80, 100, 110), "Ada", "0.81", True, POINTS)])
    assert near(drawn, ACCENT) > 600
    assert near(drawn, (255, 255, 255)) > 50
    assert (photo == background).all(), "the photo that was given is not drawn on"


def test_unknown_faces_are_grey() -> None:
    drawn = annotate(canvas(255), [Mark(Box(110, 80, 100, 110), "unknown", known=False)])
    assert near(drawn, GREY) > 600
    assert near(drawn, ACCENT) == 0


def test_what_is_far_from_the_mark_stays_as_it_is() -> None:
    drawn = annotate(canvas(90), [Mark(Box(110, 80, 100, 110), "Ada")])
    assert (drawn[200:] == 90).all()
    assert (drawn[:, :60] == 90).all()
    # Inside of the box, off the landmarks, the face is left alone too.
    assert (drawn[100:170, 130:190] == 90).all()


@pytest.mark.parametrize(
    "box",
    [
        Box(-40, -30, 90, 100),
        Box(290, 200, 90, 100),
        Box(-50, -50, 500, 500),
        Box(5, 5, 2, 2),
        Box(900, 900, 50, 50),
    ],
)
def test_boxes_over_the_edge_and_tiny_ones(box: Box) -> None:
    drawn = annotate(canvas(30), [Mark(box, "Somebody with quite a long name indeed", "0.50 blurred")])
    assert drawn.shape == (240, 320, 3)
    if box.x < 320:
        assert near(drawn, ACCENT) > 100, "the label is pulled into the photo"


@pytest.mark.parametrize("size", [(1, 1), (8, 300), (40, 30), (3000, 2000)])
def test_any_size_of_photo(size: tuple[int, int]) -> None:
    height, width = size
    box = Box(width * 0.2, height * 0.2, width * 0.5, height * 0.5)
    assert annotate(canvas(50, size), [Mark(box, "Ada", "0.9")]).shape == (*size, 3)


def test_labels_keep_off_each_other() -> None:
    photo = canvas(0, (300, 600))
    boxes = [Box(100, 120, 60, 70), Box(170, 120, 60, 70), Box(240, 120, 60, 70)]
    together = annotate(photo, [Mark(b, "Alexandra Example") for b in boxes])
    alone = sum(near(annotate(photo, [Mark(b, "Alexandra Example")]), ACCENT) for b in boxes)
    assert near(together, ACCENT) > 0.85 * alone


@pytest.mark.parametrize("name", ["José Żółć", "Дмитрий", "Ελένη", "王小明", "שלום", "محمد"])
def test_names_of_any_script_have_letters_of_their_own(name: str) -> None:
    if not hasattr(cv2, "FontFace"):
        pytest.skip("OpenCV 4 has no letters beyond ASCII")
    text = displayable(name)
    drawn, _ = ink(text, 40, 500)
    question_marks, _ = ink("?" * len(text), 40, 500)
    assert drawn.any()
    assert width_px(text, 40, 500) > 0
    assert drawn.shape != question_marks.shape or (drawn != question_marks).any()


def test_displayable_text() -> None:
    assert displayable(" a\nb\tc\x00\u202ed ") == "a b cd"
    assert displayable("") == ""
    assert len(displayable("x" * 5000)) == 120
    assert displayable("שלום עולם!") == "שלום עולם"[::-1] + "!"
    assert in_ascii("José Łukasz Søren 王") == "Jose Lukasz Soren ?"


def test_a_name_that_is_all_control_letters_draws_no_label() -> None:
    assert annotate(canvas(9), [Mark(Box(50, 50, 60, 60), "\x00\x01")]).shape == (240, 320, 3)


def test_the_mark_of_an_analysed_face_says_what_matters() -> None:
    face = Face(Box(1, 2, 30, 40), POINTS, 0.9)
    quality = Quality(0.4, 30, 0.2, 1, 1, Pose(0, 0, 0), 1, ("cut_off", "blurred", "small"))
    mark = mark_of(AnalyzedFace(face, quality, liveness=Liveness(0.1)), "Ada", score=0.512)
    assert mark.title == "Ada"
    assert mark.detail.split(", ") == ["0.51", "cut off", "blurred", "not live"]
    assert mark.landmarks is POINTS
