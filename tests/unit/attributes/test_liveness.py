"""Liveness of a frame, on prints, replays and live faces."""

import pytest

from mien.vision.models.liveness import FrameLiveness
from tests.paths_to_data import shared_dir
from tests.photos import photo
from tests.unit.attributes.conftest import Faces, OpenModel, image_of, read


@pytest.fixture(scope="module")
def liveness(open_model: OpenModel) -> FrameLiveness:
    return FrameLiveness(open_model("faceplugin-liveness"))


@pytest.mark.parametrize(
    ("name", "live"),
    [
        ("fake_003.jpg", False),
        ("image_F1.jpg", False),
        ("image_F2.jpg", False),
        ("image_T1.jpg", True),
        ("true_001.jpg", True),
    ],
)
def test_tells_live_faces_from_replays(
    liveness: FrameLiveness, faces_in: Faces, name: str, live: bool
) -> None:
    image = read(shared_dir("testdata", "spoof", name))
    (result,) = liveness(image, faces_in(image)[:1])
    assert 0.0 <= result.real <= 1.0
    assert result.real > 0.95 if live else result.real < 0.05


def test_a_batch_gives_what_single_faces_give(liveness: FrameLiveness, faces_in: Faces) -> None:
    image = read(photo("six_faces"))
    faces = faces_in(image)
    assert len(faces) == 6
    together = [r.real for r in liveness(image, faces)]
    alone = [liveness(image, [f])[0].real for f in faces]
    assert together == pytest.approx(alone, abs=1e-4)


def test_a_face_at_the_edge_and_a_tiny_photo_work(liveness: FrameLiveness, faces_in: Faces) -> None:
    image = read(photo("astronaut"))
    (face,) = faces_in(image)[:1]
    right = int(face.landmarks[2, 0])
    (result,) = liveness(image_of(image.pixels[:, :right]), [face])
    assert 0.0 <= result.real <= 1.0
    (result,) = liveness(image_of(image.pixels[:1, :1]), [face])
    assert 0.0 <= result.real <= 1.0


def test_no_faces_give_no_results(liveness: FrameLiveness) -> None:
    assert liveness(read(photo("coffee")), []) == []
