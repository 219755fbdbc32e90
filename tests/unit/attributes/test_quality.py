"""Quality: each part falls with what it is about, the overall figure orders failures."""

from collections.abc import Callable
from itertools import pairwise

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mien.vision.align import TEMPLATE, chip
from mien.vision.quality import REASON_FROM, REASONS, WEIGHTS, assess, outside_share, pose_from_points
from mien.vision.values import Box, Face, Image, Pose, Quality
from tests.photos import photo
from tests.unit.attributes.conftest import Faces, image_of, read

Pixels = NDArray[np.uint8]
Change = Callable[[Pixels, float], Pixels]


@pytest.fixture(scope="module")
def portrait() -> Image:
    return read(photo("astronaut"))


@pytest.fixture(scope="module")
def face(portrait: Image, faces_in: Faces) -> Face:
    return faces_in(portrait)[0]


def blurred(pixels: Pixels, strength: float) -> Pixels:
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), 0.5 + strength), np.uint8)


def darkened(pixels: Pixels, strength: float) -> Pixels:
    return np.asarray((pixels * 0.5**strength).astype(np.uint8))


def washed_out(pixels: Pixels, strength: float) -> Pixels:
    return np.asarray(np.clip(pixels * (1.0 + strength * 0.5), 0, 255).astype(np.uint8))


def flattened(pixels: Pixels, strength: float) -> Pixels:
    return np.asarray((128 + (pixels - 128.0) * 0.6**strength).astype(np.uint8))


def at(image: Image, face: Face) -> Quality:
    return assess(image, face, None, None)


def test_a_good_photo_has_no_reasons(portrait: Image, face: Face) -> None:
    quality = at(portrait, face)
    assert quality.overall > 0.95
    assert quality.reasons == ()
    assert quality.face_px == face.box.size_px


@pytest.mark.parametrize(
    ("change", "part", "reason", "steps"),
    [
        (blurred, "sharpness", "blurred", (0.5, 1.5, 3.0, 5.0)),
        (darkened, "brightness", "dark", (1.5, 2.5, 3.5, 4.5)),
        (washed_out, "brightness", "bright", (1.0, 2.0, 4.0, 8.0)),
        (flattened, "contrast", "flat", (2.0, 3.0, 4.0, 5.0)),
    ],
)
def test_worse_photos_score_lower(
    portrait: Image, face: Face, change: Change, part: str, reason: str, steps: tuple[float, ...]
) -> None:
    seen = [at(portrait, face)]
    seen += [at(image_of(change(portrait.pixels, s)), face) for s in steps]
    overall = [q.overall for q in seen]
    parts = [getattr(q, part) for q in seen]
    assert all(a >= b - 0.01 for a, b in pairwise(overall)), overall
    assert overall[-1] < overall[0] - 0.01
    assert all(a >= b - 0.01 for a, b in pairwise(parts)), parts
    assert reason in seen[-1].reasons
    assert reason not in seen[0].reasons


def test_small_faces_score_lower(portrait: Image, face: Face) -> None:
    overall = []
    for factor in (1, 2, 4, 6, 8):
        pixels = cv2.resize(portrait.pixels, None, fx=1 / factor, fy=1 / factor, interpolation=cv2.INTER_AREA)
        box = face.box
        small = Face(
            Box(box.x / factor, box.y / factor, box.width / factor, box.height / factor),
            (face.landmarks / factor).astype(np.float32),
            face.confidence,
        )
        quality = at(image_of(np.asarray(pixels, np.uint8)), small)
        overall.append(quality.overall)
    assert all(a > b for a, b in pairwise(overall)), overall
    assert "small" in quality.reasons
    assert overall[-1] < 0.75


def test_a_face_that_leaves_the_photo_is_cut_off(portrait: Image, face: Face) -> None:
    right_of_the_nose = int(face.landmarks[2, 0]) + 1
    half = assess(image_of(portrait.pixels[:, :right_of_the_nose]), face, None, None)
    assert "cut_off" in half.reasons
    assert half.overall < at(portrait, face).overall - 0.1


def test_outside_share_counts_the_hidden_half() -> None:
    # The template itself as a face in a photo that ends in the middle of the chip's oval (x = 56).
    photo_ = Image(np.zeros((112, 56, 3), np.uint8), (56, 112))
    assert outside_share(photo_, TEMPLATE) == pytest.approx(0.5, abs=0.1)
    whole = Image(np.zeros((120, 112, 3), np.uint8), (112, 120))
    assert outside_share(whole, TEMPLATE) == 0.0


@pytest.mark.parametrize("mask", ["mask_black", "mask_white"])
def test_a_medical_mask_is_an_occlusion(portrait: Image, face: Face, mask: str) -> None:
    texture = read(photo(mask)).pixels
    height, width = texture.shape[:2]
    points = face.landmarks
    eye_px = float(points[1, 0] - points[0, 0])
    top = float(points[2, 1]) - 0.15 * eye_px
    middle = float(points[2, 0])
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    onto = np.array(
        [
            [middle - 1.05 * eye_px, top],
            [middle + 1.05 * eye_px, top],
            [middle + 0.75 * eye_px, top + 1.5 * eye_px],
            [middle - 0.75 * eye_px, top + 1.5 * eye_px],
        ],
        np.float32,
    )
    matrix = cv2.getPerspectiveTransform(corners, onto)
    worn = cv2.warpPerspective(
        texture,
        matrix,
        portrait.pixels.shape[1::-1],
        portrait.pixels.copy(),
        borderMode=cv2.BORDER_TRANSPARENT,
    )
    quality = at(image_of(np.asarray(worn, np.uint8)), face)
    assert quality.visibility < 0.4
    assert "occluded" in quality.reasons
    assert at(portrait, face).visibility > 0.9


def test_pose_comes_from_the_model_when_there_is_one(portrait: Image, face: Face) -> None:
    turned = assess(portrait, face, Pose(yaw=60.0, pitch=5.0, roll=0.0), None)
    assert turned.pose.yaw == 60.0
    assert turned.reasons == ("turned",)
    assert turned.overall < at(portrait, face).overall
    assert "tilted" in assess(portrait, face, Pose(0.0, 0.0, 40.0), None).reasons


def test_an_unsure_detector_is_a_reason(portrait: Image, face: Face) -> None:
    unsure = Face(face.box, face.landmarks, 0.6)
    assert at(portrait, unsure).reasons == ("uncertain",)


def test_pose_from_points_signs() -> None:
    straight = pose_from_points(TEMPLATE)
    assert abs(straight.yaw) < 5
    assert abs(straight.roll) < 2
    to_the_right = TEMPLATE.copy()
    to_the_right[2, 0] += 12
    assert pose_from_points(to_the_right).yaw > 15
    mirrored = to_the_right * np.array([-1, 1], np.float32)
    mirrored = mirrored[[1, 0, 2, 4, 3]]
    assert pose_from_points(mirrored).yaw == pytest.approx(-pose_from_points(to_the_right).yaw, abs=0.01)
    up = TEMPLATE.copy()
    up[2, 1] -= 8
    assert pose_from_points(up).pitch > straight.pitch + 5


@pytest.mark.parametrize("angle", [-60.0, -20.0, 20.0, 60.0])
def test_pose_from_points_measures_roll(angle: float) -> None:
    radians = np.radians(angle)
    turn = np.array([[np.cos(radians), -np.sin(radians)], [np.sin(radians), np.cos(radians)]])
    pose = pose_from_points((TEMPLATE @ turn.T).astype(np.float32))
    still = pose_from_points(TEMPLATE)
    assert pose.roll == pytest.approx(angle + still.roll, abs=0.01)
    assert pose.yaw == pytest.approx(still.yaw, abs=0.1)


def test_points_that_coincide_give_no_angles() -> None:
    assert pose_from_points(np.zeros((5, 2), np.float32)) == Pose(0.0, 0.0, 0.0)


def test_a_given_chip_gives_the_same_as_one_cut_here(portrait: Image, face: Face) -> None:
    assert assess(portrait, face, None, chip(portrait, face.landmarks)) == at(portrait, face)


def test_every_deficit_has_a_weight_a_reason_and_a_bound() -> None:
    assert WEIGHTS.keys() == REASONS.keys() == REASON_FROM.keys()
    assert all(weight > 0 for weight in WEIGHTS.values())
