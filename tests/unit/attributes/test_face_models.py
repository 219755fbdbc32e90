"""Pose, eyes and emotion on real photos; mirrored photos give mirrored answers."""

import cv2
import numpy as np
import pytest

from mien.kit.errors import SetupError
from mien.vision.models.emotion import LABELS, DenseEmotion, FusedEmotion, XceptionEmotion
from mien.vision.models.eyes import EyesOpen
from mien.vision.models.pose import HeadPose
from mien.vision.quality import pose_from_points
from mien.vision.values import Face, Image
from tests.paths_to_data import shared_dir
from tests.photos import photo
from tests.unit.attributes.conftest import Faces, OpenModel, image_of, read


@pytest.fixture(scope="module")
def six(faces_in: Faces) -> tuple[Image, list[Face]]:
    image = read(photo("six_faces"))
    faces = faces_in(image)
    assert len(faces) == 6
    return image, faces


@pytest.fixture(scope="module")
def astronaut(faces_in: Faces) -> tuple[Image, list[Face]]:
    image = read(photo("astronaut"))
    return image, faces_in(image)[:1]


@pytest.fixture(scope="module")
def head_pose(open_model: OpenModel) -> HeadPose:
    return HeadPose(open_model("faceplugin-pose"))


@pytest.fixture(scope="module")
def eyes_open(open_model: OpenModel) -> EyesOpen:
    return EyesOpen(open_model("faceplugin-eyes"))


def mirrored(image: Image, faces: list[Face]) -> tuple[Image, list[Face]]:
    """The photo in a mirror, with its faces' boxes and points carried along."""
    width = image.source_size[0]
    turned = []
    for face in faces:
        points = face.landmarks * np.array([-1, 1], np.float32) + np.array([width, 0], np.float32)
        box = type(face.box)(width - face.box.x - face.box.width, face.box.y, face.box.width, face.box.height)
        turned.append(Face(box, points[[1, 0, 2, 4, 3]], face.confidence))
    return image_of(image.pixels[:, ::-1]), turned


def test_pose_of_a_frontal_face(head_pose: HeadPose, astronaut: tuple[Image, list[Face]]) -> None:
    (pose,) = head_pose(*astronaut)
    assert abs(pose.yaw) < 6
    assert abs(pose.pitch) < 12
    assert abs(pose.roll) < 6


def test_a_mirror_turns_yaw_and_roll_round(head_pose: HeadPose, six: tuple[Image, list[Face]]) -> None:
    seen = np.array([(p.yaw, p.pitch, p.roll) for p in head_pose(*six)])
    turned = np.array([(p.yaw, p.pitch, p.roll) for p in head_pose(*mirrored(*six))]) * (-1, 1, -1)
    assert np.abs(seen - turned).mean(axis=0) == pytest.approx(np.zeros(3), abs=6)
    clear = np.abs(seen) > 15
    clear[:, 1] = False
    assert clear.sum() >= 4
    assert (np.sign(seen[clear]) == np.sign(turned[clear])).all()


def test_pose_agrees_with_the_five_points(head_pose: HeadPose, six: tuple[Image, list[Face]]) -> None:
    image, faces = six
    for face, pose in zip(faces, head_pose(image, faces), strict=True):
        from_points = pose_from_points(face.landmarks)
        assert pose.yaw == pytest.approx(from_points.yaw, abs=18)
        if abs(pose.yaw) > 15:
            assert np.sign(pose.yaw) == np.sign(from_points.yaw)


@pytest.mark.parametrize("angle", [-20, 20])
def test_a_photo_turned_clockwise_rolls_clockwise(
    head_pose: HeadPose, faces_in: Faces, astronaut: tuple[Image, list[Face]], angle: int
) -> None:
    image, (face,) = astronaut
    middle = (face.box.x + face.box.width / 2, face.box.y + face.box.height / 2)
    matrix = cv2.getRotationMatrix2D(middle, -angle, 1.0)
    pixels = cv2.warpAffine(image.pixels, matrix, (512, 512), borderMode=cv2.BORDER_REPLICATE)
    turned = image_of(np.asarray(pixels, np.uint8))
    (still,) = head_pose(image, [face])
    (pose,) = head_pose(turned, faces_in(turned)[:1])
    assert pose.roll - still.roll == pytest.approx(angle, abs=8)


def test_open_eyes(eyes_open: EyesOpen, astronaut: tuple[Image, list[Face]]) -> None:
    (eyes,) = eyes_open(*astronaut)
    assert eyes.left_open > 0.8
    assert eyes.right_open > 0.8


@pytest.mark.parametrize("name", ["Hun_Sen_0002", "Ray_Allen_0002", "Park_Jung_Sung_0001"])
def test_closed_eyes(eyes_open: EyesOpen, faces_in: Faces, name: str) -> None:
    image = read(shared_dir("testdata", "lfw-train", name.rsplit("_", 1)[0], f"{name}.jpg"))
    (eyes,) = eyes_open(image, faces_in(image)[:1])
    assert eyes.left_open < 0.35
    assert eyes.right_open < 0.35


def test_eyes_swap_in_a_mirror(eyes_open: EyesOpen, six: tuple[Image, list[Face]]) -> None:
    for seen, turned in zip(eyes_open(*six), eyes_open(*mirrored(*six)), strict=True):
        assert turned.left_open == pytest.approx(seen.right_open, abs=0.3)
        assert turned.right_open == pytest.approx(seen.left_open, abs=0.3)


def test_eyes_in_a_big_photo_match_those_in_a_small_one(
    eyes_open: EyesOpen, astronaut: tuple[Image, list[Face]]
) -> None:
    image, faces = astronaut
    big = cv2.resize(image.pixels, None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC)
    again = Image(np.asarray(big, np.uint8), image.source_size, (5.0, 5.0))
    (one,), (other,) = eyes_open(image, faces), eyes_open(again, faces)
    assert other.left_open == pytest.approx(one.left_open, abs=0.15)
    assert other.right_open == pytest.approx(one.right_open, abs=0.15)


@pytest.mark.parametrize("name", ["fer-xception", "human-emotion", "faceplugin-expression"])
def test_a_smile_is_happy_and_shares_sum_to_one(
    open_model: OpenModel, astronaut: tuple[Image, list[Face]], name: str
) -> None:
    session = open_model(name)
    network = DenseEmotion(session) if name == "faceplugin-expression" else XceptionEmotion(session)
    (emotion,) = FusedEmotion(network)(*astronaut)
    assert emotion.label == "happy"
    assert emotion.confidence == emotion.scores["happy"] > 0.9
    assert tuple(emotion.scores) == LABELS
    assert sum(emotion.scores.values()) == pytest.approx(1.0, abs=1e-5)


def test_emotions_do_not_change_in_a_mirror(open_model: OpenModel, six: tuple[Image, list[Face]]) -> None:
    emotion = FusedEmotion(XceptionEmotion(open_model("fer-xception")))
    for seen, turned in zip(emotion(*six), emotion(*mirrored(*six)), strict=True):
        assert list(turned.scores.values()) == pytest.approx(list(seen.scores.values()), abs=0.1)


def test_a_fusion_is_the_mean(open_model: OpenModel, six: tuple[Image, list[Face]]) -> None:
    one = XceptionEmotion(open_model("fer-xception"))
    two = XceptionEmotion(open_model("human-emotion"))
    mean = (one.scores(*six) + two.scores(*six)) / 2
    for row, emotion in zip(mean, FusedEmotion(one, two)(*six), strict=True):
        assert list(emotion.scores.values()) == pytest.approx(row.tolist(), abs=1e-5)
    with pytest.raises(SetupError):
        FusedEmotion()


def test_no_faces_give_no_results(head_pose: HeadPose, eyes_open: EyesOpen, open_model: OpenModel) -> None:
    image = read(photo("coffee"))
    assert head_pose(image, []) == []
    assert eyes_open(image, []) == []
    assert FusedEmotion(XceptionEmotion(open_model("fer-xception")))(image, []) == []


def test_a_face_outside_of_the_photo_breaks_nothing(
    head_pose: HeadPose, eyes_open: EyesOpen, open_model: OpenModel, astronaut: tuple[Image, list[Face]]
) -> None:
    image, (face,) = astronaut
    emotion = FusedEmotion(XceptionEmotion(open_model("fer-xception")))
    for pixels in (
        image.pixels[:50, :50],
        image.pixels[:1, :1],
        image.pixels[:, : int(face.landmarks[2, 0])],
    ):
        part = image_of(pixels)
        (pose,), (eyes,), (seen,) = head_pose(part, [face]), eyes_open(part, [face]), emotion(part, [face])
        numbers = [pose.yaw, pose.pitch, pose.roll, eyes.left_open, eyes.right_open, seen.confidence]
        assert np.isfinite(numbers).all()


@pytest.mark.full
def test_yaw_from_points_agrees_with_the_model_on_lfw(head_pose: HeadPose, faces_in: Faces) -> None:
    pairs = []
    for path in sorted(shared_dir("testdata", "lfw-train").glob("*/*_0001.jpg"))[::30]:
        image = read(path)
        faces = faces_in(image)[:1]
        pairs += [
            (pose_from_points(f.landmarks).yaw, p.yaw)
            for f, p in zip(faces, head_pose(image, faces), strict=True)
        ]
    points, model = np.array(pairs).T
    assert len(pairs) > 60
    assert np.corrcoef(points, model)[0, 1] > 0.85
    assert np.abs(points - model).mean() < 6
