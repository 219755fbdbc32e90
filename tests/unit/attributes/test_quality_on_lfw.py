"""Error versus discard: photos of low quality are those that don't match."""

import cv2
import numpy as np
import pytest

from mien.vision.align import chip
from mien.vision.models.sface import sface
from mien.vision.quality import assess
from mien.vision.values import Pixels
from tests.paths_to_data import shared_dir
from tests.unit.attributes.conftest import Faces, OpenModel, image_of, read

PAIRS = 120
MISSED_UNDER = 0.364  # FMR 1e-3


def worse(pixels: Pixels, way: int, strength: float) -> Pixels:
    match way:
        case 0:
            return np.asarray(cv2.GaussianBlur(pixels, (0, 0), 0.5 + 4.5 * strength), np.uint8)
        case 1:
            zoom = 1 / (1 + 9 * strength)
            return np.asarray(
                cv2.resize(pixels, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_AREA), np.uint8
            )
        case _:
            return np.asarray((pixels * 0.5 * 0.04**strength).astype(np.uint8))


@pytest.mark.full
def test_dropping_the_lowest_tenth_lowers_misses(open_model: OpenModel, faces_in: Faces) -> None:
    folder = shared_dir("testdata", "lfw-train")
    embed = sface(open_model("sface"))
    rng = np.random.default_rng(11)
    lines = [line.split("\t") for line in (folder / "pairsDevTrain.txt").read_text().splitlines()[1:]]
    genuine = [line for line in lines if len(line) == 3]
    scores, overall = [], []
    for name, one, two in genuine[:: len(genuine) // PAIRS]:
        first, second = (read(folder / name / f"{name}_{int(i):04d}.jpg") for i in (one, two))
        mate = faces_in(second)[:1]
        if not mate:
            continue
        vector = embed(chip(second, mate[0].landmarks)[None])[0]
        for way in range(3):
            photo = image_of(worse(first.pixels, way, float(rng.random())))
            for face in faces_in(photo)[:1]:
                aligned = chip(photo, face.landmarks)
                scores.append(float(embed(aligned[None])[0] @ vector))
                overall.append(assess(photo, face, None, aligned).overall)
    ordered = np.array(scores)[np.argsort(overall)]
    everything = float((ordered < MISSED_UNDER).mean())
    kept = float((ordered[len(ordered) // 10 :] < MISSED_UNDER).mean())
    perfect = float((np.sort(scores)[len(scores) // 10 :] < MISSED_UNDER).mean())
    assert len(scores) > 250
    assert everything > 0.1
    assert everything - kept > 0.4 * (everything - perfect)
    assert np.corrcoef(overall, scores)[0, 1] > 0.6
