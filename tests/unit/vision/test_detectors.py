"""Detector families against their references, and the looks that find faces of every size."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mien.kit.errors import ModelError
from mien.vision.detect import FaceFinder
from mien.vision.models.base import Detections, Detector
from mien.vision.models.retinaface import RetinaFace
from mien.vision.models.scrfd import Scrfd
from mien.vision.models.suppression import joined, kept_rows, suppress
from mien.vision.models.yunet import YuNet
from mien.vision.recipe import Recipe
from mien.vision.runtimes.base import Session
from mien.vision.runtimes.choose import open_session
from mien.vision.scale import window
from mien.vision.values import Box, Face, Image
from tests.paths_to_data import shared_dir
from tests.stored_models import model_path
from tests.unit.vision.conftest import CPU

GetPixels = Callable[[str], NDArray[np.uint8]]
Opened = Callable[..., Session]


def image_of(pixels: NDArray[np.uint8]) -> Image:
    return Image(np.ascontiguousarray(pixels), (pixels.shape[1], pixels.shape[0]))


def overlap(a: Face, b: Face) -> float:
    left, top = max(a.box.x, b.box.x), max(a.box.y, b.box.y)
    right = min(a.box.x + a.box.width, b.box.x + b.box.width)
    bottom = min(a.box.y + a.box.height, b.box.y + b.box.height)
    shared = max(0.0, right - left) * max(0.0, bottom - top)
    return shared / (a.box.width * a.box.height + b.box.width * b.box.height - shared)


@pytest.fixture
def yunet(opened: Opened) -> YuNet:
    return YuNet(opened("yunet"))


@pytest.mark.parametrize("name", ["astronaut", "six_faces"])
def test_yunet_is_opencvs(yunet: YuNet, pixels: GetPixels, name: str) -> None:
    """`cv2.FaceDetectorYN` on the same file and pixels: boxes and points within half a pixel."""
    source = pixels(name)
    height, width = (v // 64 * 32 for v in source.shape[:2])
    canvas = np.asarray(cv2.resize(source, (width, height)), np.uint8)
    reference = cv2.FaceDetectorYN.create(str(model_path("yunet")), "", (width, height), 0.6, 0.3, 5000)
    rows = reference.detect(np.ascontiguousarray(canvas[:, :, ::-1]))[1]
    ours = yunet(canvas, 0.6)
    assert len(ours) == len(rows) > 0
    rows = rows[np.argsort(-rows[:, 14], kind="stable")]
    np.testing.assert_allclose(ours.scores, rows[:, 14], atol=2e-3)
    np.testing.assert_allclose(ours.boxes, rows[:, :4], atol=0.5)
    np.testing.assert_allclose(ours.landmarks.reshape(-1, 10), rows[:, 4:14], atol=0.5)


def other_family(name: str) -> Detector:
    if name == "scrfd":
        return Scrfd(open_session(shared_dir("models-noncommercial", "scrfd_500m_bnkps.onnx"), CPU))
    return RetinaFace(open_session(shared_dir("models-other", "retinaface_mobile320.onnx"), CPU))


@pytest.mark.parametrize("family", ["scrfd", "retinaface"])
@pytest.mark.parametrize(("name", "count"), [("astronaut", 1), ("six_faces", 6), ("coffee", 0)])
def test_other_families_agree_with_yunet(
    yunet: YuNet, pixels: GetPixels, family: str, name: str, count: int
) -> None:
    image = image_of(pixels(name))
    ours = FaceFinder(yunet).find(image, 0.6)
    theirs = FaceFinder(other_family(family)).find(image, 0.6)
    assert len(ours) == len(theirs) == count
    for face in theirs:
        best = max(ours, key=lambda other: overlap(face, other))
        assert overlap(face, best) > 0.6
        apart = np.linalg.norm(face.landmarks - best.landmarks, axis=1)
        assert apart.max() < 0.25 * face.box.width
        assert apart.mean() < 0.16 * face.box.width  # at 320 px RetinaFace sees these faces at 25 px


def test_a_scrfd_without_points_and_a_strange_retinaface_are_refused(opened: Opened) -> None:
    with pytest.raises(ModelError, match="landmarks"):
        Scrfd(opened("sface"))
    with pytest.raises(ModelError, match="outputs"):
        RetinaFace(opened("sface"))


# Looks


@pytest.mark.parametrize("side", [96, 160, 320, 512, 640, 1024, 2500])
def test_photos_of_any_size(yunet: YuNet, pixels: GetPixels, side: int) -> None:
    source = pixels("astronaut")
    at = side / 512
    photo = np.asarray(cv2.resize(source, (side, side), interpolation=cv2.INTER_AREA), np.uint8)
    (face,) = FaceFinder(yunet).find(image_of(photo), 0.6)
    (reference,) = FaceFinder(yunet).find(image_of(source), 0.6)
    apart = np.linalg.norm(face.landmarks / at - reference.landmarks, axis=1)
    assert apart.max() < 7.0  # of a face of 90 px; the smallest photo shows it at 17 px


@pytest.mark.parametrize("margin", [-0.05, 0.0, 0.1, 0.3])
@pytest.mark.parametrize("side", [112, 640, 1500])
def test_a_face_that_fills_the_photo(yunet: YuNet, pixels: GetPixels, margin: float, side: int) -> None:
    source = pixels("astronaut")
    (face,) = FaceFinder(yunet).find(image_of(source), 0.6)
    grow = face.box.height * margin
    top, bottom = int(face.box.y - grow), int(face.box.y + face.box.height + grow)
    left, right = int(face.box.x - grow), int(face.box.x + face.box.width + grow)
    zoom = side / (bottom - top)
    close = cv2.resize(source[top:bottom, left:right], None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    (found,) = FaceFinder(yunet).find(image_of(np.asarray(close, np.uint8)), 0.6)
    expected = (face.landmarks - [left, top]) * zoom
    apart = np.linalg.norm(found.landmarks - expected, axis=1)
    assert apart.max() < 0.08 * face.box.height * zoom


def test_tiny_faces_in_a_big_photo_need_tiles(yunet: YuNet, pixels: GetPixels) -> None:
    photo = np.full((3000, 4000, 3), 90, np.uint8)
    head = pixels("astronaut")[0:220, 110:330]
    spots = [(40, 50), (620, 700), (1320, 200), (1990, 1470), (2500, 2880), (3940, 2940), (640, 1240)]
    small = np.asarray(cv2.resize(head, (56, 56), interpolation=cv2.INTER_AREA), np.uint8)
    for x, y in spots:
        photo[y : y + 56, x : x + 56] = small[: 3000 - y, : 4000 - x]
    finder = FaceFinder(yunet)
    assert finder.find(image_of(photo), 0.6) == []
    found = finder.find(image_of(photo), 0.6, thorough=True)
    assert len(found) == len(spots) == len({(round(f.box.x / 60), round(f.box.y / 60)) for f in found})


def test_tiles_add_no_doubles(yunet: YuNet, pixels: GetPixels) -> None:
    source = pixels("six_faces")
    finder = FaceFinder(yunet)
    plain = finder.find(image_of(source), 0.6)
    thorough = finder.find(image_of(source), 0.6, thorough=True)
    for face in plain:
        assert sum(overlap(face, other) > 0.3 for other in thorough) == 1


def test_a_hundred_faces(yunet: YuNet, pixels: GetPixels) -> None:
    head = pixels("astronaut")[0:220, 110:330]
    tile = np.asarray(cv2.resize(head, (128, 128), interpolation=cv2.INTER_AREA), np.uint8)
    crowd = np.tile(tile, (10, 10, 1))
    assert len(FaceFinder(yunet).find(image_of(crowd), 0.6)) == 100


def test_no_face_and_tiny_photos_give_an_empty_list(yunet: YuNet, pixels: GetPixels) -> None:
    finder = FaceFinder(yunet)
    assert finder.find(image_of(pixels("coffee")), 0.6) == []
    for shape in ((1, 1), (1, 5000), (3, 2), (31, 33)):
        assert finder.find(image_of(np.zeros((*shape, 3), np.uint8)), 0.6, thorough=True) == []


def test_faces_come_largest_first(yunet: YuNet, pixels: GetPixels) -> None:
    faces = FaceFinder(yunet, Recipe()).find(image_of(pixels("six_faces")), 0.6)
    areas = [f.box.width * f.box.height for f in faces]
    assert areas == sorted(areas, reverse=True)


@pytest.mark.parametrize(("family", "width"), [("yunet", 1600), ("scrfd", 1600), ("retinaface", 800)])
def test_a_closer_look_betters_small_faces(yunet: YuNet, pixels: GetPixels, family: str, width: int) -> None:
    """Many small faces, more than one mosaic holds: points as exact as those of a large face."""
    head = pixels("astronaut")[0:220, 110:330]
    finder = FaceFinder(yunet if family == "yunet" else other_family(family))
    (reference,) = finder.find(image_of(head), 0.6)
    small = np.asarray(cv2.resize(head, (110, 110), interpolation=cv2.INTER_AREA), np.uint8)
    height = width * 3 // 4
    photo = np.full((height, width, 3), 120, np.uint8)
    spots = [(x, y) for y in range(20, height - 110, 210) for x in range(15, width - 110, 300)]
    for x, y in spots:
        photo[y : y + 110, x : x + 110] = small
    rough = finder.find(image_of(photo), 0.4)
    assert len(rough) > (16 if family != "retinaface" else 4)
    before: list[float] = []
    after: list[float] = []
    for face, better in zip(rough, finder.closer(image_of(photo), rough), strict=True):
        x, y = min(spots, key=lambda at: abs(at[0] + 50 - face.box.x) + abs(at[1] + 50 - face.box.y))
        for found, errors in ((face, before), (better, after)):
            apart = np.linalg.norm((found.landmarks - [x, y]) * 2 - reference.landmarks, axis=1)
            errors.append(apart.mean())
        assert better.confidence == face.confidence
    assert np.mean(after) < 0.6 * np.mean(before)
    assert np.max(after) < 5  # of a face of 90 px


def test_a_closer_look_leaves_large_faces_and_strangers_alone(yunet: YuNet, pixels: GetPixels) -> None:
    image = image_of(pixels("six_faces"))
    finder = FaceFinder(yunet)
    faces = finder.find(image, 0.6)
    assert finder.closer(image, faces) == faces
    nobody = Face(Box(900, 600, 20, 20), np.zeros((5, 2), np.float32), 0.5)
    assert finder.closer(image_of(np.zeros((886, 1280, 3), np.uint8)), [nobody]) == [nobody]
    assert finder.closer(image, []) == []


@pytest.mark.parametrize("zoom", [3.0, 1.0, 0.7, 0.45, 0.13])
def test_a_window_shows_what_a_resize_would(pixels: GetPixels, zoom: float) -> None:
    source = pixels("astronaut").repeat(2, axis=0).repeat(2, axis=1)
    side = round(1024 * zoom)
    how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    whole = np.zeros((side + 400, side + 400, 3), np.uint8)
    whole[200 : 200 + side, 200 : 200 + side] = cv2.resize(source, (side, side), interpolation=how)
    x, y = 0.3 * side, 0.1 * side - 30
    shown = window(source, zoom, (round(x), round(y)), 100)
    expected = whole[round(y) + 200 :, round(x) + 200 :][:100, :100]
    rows = slice(40, 100)  # below the photo's upper edge
    assert np.abs(shown[rows].astype(int) - expected[rows]).mean() < 9  # edges half a pixel off
    assert not window(source, zoom, (-500, -500), 100).any()
    assert not window(source, zoom, (side + 300, 0), 100).any()


# Suppression


def suppressed_slowly(boxes: NDArray[np.float32], scores: NDArray[np.float32], most: float) -> list[int]:
    """The definition: keep the best, drop what overlaps it by more, go on with the rest."""
    left = sorted(range(len(scores)), key=lambda i: -scores[i])
    kept = []
    while left:
        best = left.pop(0)
        kept.append(best)
        x, y, w, h = boxes[best]

        def iou(i: int, x: float = x, y: float = y, w: float = w, h: float = h) -> float:
            u, v, s, t = boxes[i]
            shared = max(0.0, min(x + w, u + s) - max(x, u)) * max(0.0, min(y + h, v + t) - max(y, v))
            return float(shared / (w * h + s * t - shared))

        left = [i for i in left if iou(i) <= most]
    return kept


def test_suppression_is_its_definition() -> None:
    rng = np.random.default_rng(3)
    for count in (1, 2, 30, 200):
        boxes = np.concatenate([rng.uniform(0, 100, (count, 2)), rng.uniform(5, 40, (count, 2))], 1)
        scores = rng.permutation(count).astype(np.float32)
        boxes = boxes.astype(np.float32)
        assert kept_rows(boxes, scores, 0.3).tolist() == suppressed_slowly(boxes, scores, 0.3)


def test_a_part_inside_a_whole_falls_away_only_when_asked() -> None:
    boxes = np.array([[0, 0, 100, 100], [10, 10, 30, 30]], np.float32)
    pair = Detections(boxes, np.zeros((2, 5, 2), np.float32), np.array([0.9, 0.8], np.float32))
    assert len(suppress(pair, 0.3)) == 2
    assert len(suppress(pair, 0.3, contained=0.7)) == 1
    assert len(joined([], 0.3, 0.7)) == 0
