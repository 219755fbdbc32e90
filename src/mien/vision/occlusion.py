"""A hint that something covers the face: a mask, sunglasses, a hand.

No network: a logistic regression over 44 numbers of the aligned chip. Skin is alike all over a bare
face, so the eight regions below are compared with each other in chroma and luminance, and
each comparison counts both as it is and by how far it lies from what bare faces show. Fitted on LFW
DevTrain photos with masks, glasses and patches drawn onto them (`scripts/fit_quality.py`); what it
finds and what it misses is in docs/quality.md.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.vision.values import Pixels

_CELLS = 28
"""The chip as 28 x 28 means of 4 x 4 px."""

_REGIONS = {
    "forehead": (20, 36, 36, 76),
    "eye_left": (44, 60, 28, 48),
    "eye_right": (44, 60, 64, 84),
    "cheek_left": (64, 80, 24, 44),
    "cheek_right": (64, 80, 68, 88),
    "nose": (60, 76, 48, 64),
    "mouth": (84, 104, 40, 72),
    "chin": (100, 112, 40, 72),
    "face": (20, 112, 20, 92),
}
"""Chip px (top, bottom, left, right), multiples of 4, by where the template puts the five points."""

_F, _EL, _ER, _CL, _CR, _N, _M, _K, _FACE = range(9)
_CHROMA_PAIRS = np.array(
    [(_M, _N), (_M, _F), (_K, _M), (_N, _F), (_EL, _CL), (_ER, _CR), (_CL, _CR), (_EL, _ER)]
)
_SIGNED = np.array([(_M, _N), (_EL, _CL), (_ER, _CR), (_N, _F)])
_UNSIGNED = np.array([(_M, _N), (_CL, _CR), (_EL, _ER)])
_TEXTURE = np.array([_M, _EL, _ER, _N, _CL, _CR, _F])


def _weights() -> NDArray[np.float32]:
    """(9, 784): each row is the mean over one region's cells."""
    rows = np.zeros((len(_REGIONS), _CELLS, _CELLS), np.float32)
    for row, (top, bottom, left, right) in zip(rows, _REGIONS.values(), strict=True):
        row[top // 4 : bottom // 4, left // 4 : right // 4] = 1.0
    flat = rows.reshape(len(_REGIONS), -1)
    return np.asarray(flat / flat.sum(axis=1, keepdims=True), np.float32)


_MEANS = _weights()


def comparisons(chip: Pixels) -> NDArray[np.float32]:
    """(22,) float32: what the regions of an aligned chip (112, 112, 3) differ by, about 0..1 each."""
    small = cv2.resize(chip, (_CELLS, _CELLS), interpolation=cv2.INTER_AREA)
    cells = cv2.cvtColor(small, cv2.COLOR_RGB2YCrCb).reshape(-1, 3).astype(np.float32)
    table = np.concatenate([cells, cells[:, :1] ** 2], axis=1)
    mean = _MEANS @ table
    light = mean[:, 0]
    deviation = np.sqrt(np.maximum(mean[:, 3] - light**2, 0.0))
    chroma = mean[_CHROMA_PAIRS[:, 0], 1:3] - mean[_CHROMA_PAIRS[:, 1], 1:3]
    per_light = 1.0 / (light[_FACE] + 8.0)
    return np.concatenate(
        [
            np.hypot(chroma[:, 0], chroma[:, 1]) / 20.0,
            (light[_SIGNED[:, 0]] - light[_SIGNED[:, 1]]) * per_light,
            np.abs(light[_UNSIGNED[:, 0]] - light[_UNSIGNED[:, 1]]) * per_light,
            deviation[_TEXTURE] / (deviation[_FACE] + 4.0),
        ]
    ).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class OcclusionTable:
    """The fitted numbers: `usual` is the median of bare faces, `spread` their deviation (22 each);
    `weights` (44) and `bias` give the log odds of a covered face."""

    usual: NDArray[np.float32]
    spread: NDArray[np.float32]
    weights: NDArray[np.float32]
    bias: float


@cache
def occlusion_table() -> OcclusionTable:
    """The table that ships with the package (about 1 kB, read once)."""
    file = resources.files("mien.vision") / "data" / "occlusion.json"
    raw = json.loads(file.read_text("utf-8"))
    return OcclusionTable(
        usual=np.array(raw["usual"], np.float32),
        spread=np.array(raw["spread"], np.float32),
        weights=np.array(raw["weights"], np.float32),
        bias=float(raw["bias"]),
    )


def covered_odds(chip: Pixels, table: OcclusionTable | None = None) -> float:
    """Log odds that the face on an aligned chip is covered in part; over 0 is the likelier half."""
    table = table or occlusion_table()
    seen = comparisons(chip)
    far = np.abs(seen - table.usual) / table.spread
    return float(np.concatenate([seen, far]) @ table.weights) + table.bias
