"""Objects in photos whose content is known."""

from collections import Counter

import numpy as np
import pytest

from mien.kit.errors import ModelError
from mien.vision.models.objects import CELL_PHONE, COCO_NAMES, CocoObjects
from mien.vision.values import Image
from tests.paths_to_data import shared_dir
from tests.photos import photo
from tests.unit.attributes.conftest import OpenModel, read


@pytest.fixture(scope="module")
def objects(open_model: OpenModel) -> CocoObjects:
    return CocoObjects(open_model("nanodet"))


def test_the_names_are_cocos() -> None:
    assert len(COCO_NAMES) == len(set(COCO_NAMES)) == 80
    assert COCO_NAMES[CELL_PHONE] == "cell phone"


def test_a_person_where_she_is(objects: CocoObjects) -> None:
    (person,) = (o for o in objects(read(photo("astronaut"))) if o.label == "person")
    assert person.confidence > 0.6
    # The astronaut fills the left two thirds of the photo, down to its end.
    assert person.box.x < 60
    assert person.box.y < 60
    assert person.box.x + person.box.width == pytest.approx(365, abs=40)
    assert person.box.y + person.box.height > 480


def test_a_cup_of_coffee(objects: CocoObjects) -> None:
    cup = next(o for o in objects(read(photo("coffee"))) if o.label == "cup")
    middle = (cup.box.x + cup.box.width / 2, cup.box.y + cup.box.height / 2)
    assert middle == pytest.approx((290, 170), abs=60)


def test_six_people(objects: CocoObjects) -> None:
    seen = objects(read(photo("six_faces")))
    # The sixth sits behind another, who hides all but head and shoulder: NanoDet sees one or the other.
    assert 5 <= Counter(o.label for o in seen)["person"] <= 7
    assert [o.confidence for o in seen] == sorted((o.confidence for o in seen), reverse=True)


def test_boxes_are_in_source_pixels(objects: CocoObjects) -> None:
    whole = read(photo("astronaut"))
    half = Image(np.ascontiguousarray(whole.pixels[::2, ::2]), (512, 512), (0.5, 0.5))
    full, small = objects(whole)[0], objects(half)[0]
    assert small.label == full.label == "person"
    seen = (small.box.x, small.box.y, small.box.width, small.box.height)
    assert seen == pytest.approx((full.box.x, full.box.y, full.box.width, full.box.height), abs=25)


def test_a_phone_on_a_table(objects: CocoObjects) -> None:
    image = read(shared_dir("testdata", "compreface-samples", "016_8.jpg"))
    (phone,) = (o for o in objects(image) if o.label == "cell phone")
    assert (phone.box.x, phone.box.y) == pytest.approx((286, 417), abs=12)
    assert (phone.box.width, phone.box.height) == pytest.approx((72, 17), abs=12)


def test_nothing_in_an_empty_photo(objects: CocoObjects) -> None:
    assert objects(Image(np.full((300, 500, 3), 127, np.uint8), (500, 300))) == []


def test_another_graph_is_refused(open_model: OpenModel) -> None:
    with pytest.raises(ModelError, match="416"):
        CocoObjects(open_model("sface"))
