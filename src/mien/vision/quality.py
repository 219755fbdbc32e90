"""How far a face can be trusted for matching: parts, one overall figure, and the reasons.

The parts follow the quality components of ISO/IEC 29794-5 (face image data): inter-eye size,
sharpness, under- and over-exposure, luminance variance, pose, occlusion, leaving the frame. They are
turned into *deficits*, numbers from 0 (nothing amiss) upwards, and `overall` is a logistic function
of their weighted sum. The weights (never negative, so that no deficit ever raises `overall`) were
fitted to what matters: the score of a degraded photo with an untouched one of the same person
(`scripts/fit_quality.py`, docs/quality.md). No network; about 0.15 ms a face.
"""

import math
from collections.abc import Mapping
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.vision.align import chip as align_chip
from mien.vision.align import similarity
from mien.vision.occlusion import covered_odds
from mien.vision.values import Face, Image, Pixels, Points5, Pose, Quality

REASONS: Final = {
    "small": "small",
    "blur": "blurred",
    "dark": "dark",
    "bright": "bright",
    "flat": "flat",
    "yaw": "turned",
    "pitch": "turned",
    "roll": "tilted",
    "cover": "occluded",
    "cut": "cut_off",
    "doubt": "uncertain",
}
"""Which word of `Quality.reasons` each deficit gives."""

WEIGHTS: Final = {
    "small": 0.08,
    "blur": 0.72,
    "dark": 0.15,
    "bright": 0.57,
    "flat": 0.15,
    "yaw": 0.5,
    "pitch": 0.2,
    "roll": 2.5,
    "cover": 0.11,
    "cut": 1.2,
    "doubt": 0.91,
}
"""Log odds per unit of each deficit. Fitted, but for yaw, pitch, roll, dark, flat, small and cut: LFW
holds too few such faces, or the detector's doubt and the blur stand in for them, so they are set by hand,
at no cost in what dropping the worst photos gains (docs/quality.md)."""
SHARP: Final = 0.44
"""From which sharpness on nothing is amiss: about the median of LFW."""
BIAS: Final = 1.94

REASON_FROM: Final = {
    "small": 1.0,
    "blur": 0.7,
    "dark": 1.0,
    "bright": 0.25,
    "flat": 1.0,
    "yaw": 0.444,
    "pitch": 0.444,
    "roll": 0.2,
    "cover": 1.0,
    "cut": 0.05,
    "doubt": 0.8,
}
"""From which deficit on it is named: under 40 px; sharpness under half of LFW's median; luminance
under 30; a quarter burnt out; deviation under 10; 30 degrees of yaw or pitch, 20 of roll; as covered
as the most suspect 3 % of bare faces; a twentieth outside of the photo; detector score under 0.85."""

_OVAL_PX: Final = (56, 66), (34, 46)
"""Centre and half axes of the face on a 112 px chip: forehead to chin, ear to ear."""


def _oval_mask() -> NDArray[np.uint8]:
    mask = np.zeros((112, 112), np.uint8)
    cv2.ellipse(mask, _OVAL_PX[0], _OVAL_PX[1], 0.0, 0.0, 360.0, 255.0, -1)
    return mask


def _oval_points() -> NDArray[np.float64]:
    """(49, 2) points spread over the oval, chip px: a 9 x 9 grid without its corners."""
    steps = np.linspace(-1.0, 1.0, 9)
    grid = np.array([(x, y) for y in steps for x in steps if x * x + y * y <= 1.0001])
    return np.asarray(grid * np.array(_OVAL_PX[1]) + np.array(_OVAL_PX[0]), np.float64)


_MASK = _oval_mask()
_POINTS = _oval_points()


def pose_from_points(points: Points5) -> Pose:
    """Head angles in degrees from five points, without a model.

    Yaw is 74.4 x the nose tip's distance from the line between the middles of eyes and mouth, in eye
    distances: against the pose model on 1,148 LFW DevTrain photos the mean difference is 3.3 degrees
    (correlation 0.95). Pitch, from how far down that line the nose tip is, is a hint only (6.2
    degrees, 0.46). Roll is the slope of eyes and mouth; YuNet's points follow a tilted head by only
    about 0.6 to 0.7 of its angle. Points that coincide give zeros.
    """
    p = points.astype(np.float64)
    across = (p[1] - p[0]) + (p[4] - p[3])
    eyes, mouth, nose = (p[0] + p[1]) / 2, (p[3] + p[4]) / 2, p[2]
    eye_px = math.hypot(*(p[1] - p[0]))
    if eye_px < 1e-6 or not np.isfinite(p).all():
        return Pose(0.0, 0.0, 0.0)
    roll = math.atan2(across[1], across[0])
    cos, sin = math.cos(roll), math.sin(roll)
    down_n, down_m = nose - eyes, mouth - eyes
    nose_x, nose_y = down_n[0] * cos + down_n[1] * sin, down_n[1] * cos - down_n[0] * sin
    mouth_x, mouth_y = down_m[0] * cos + down_m[1] * sin, down_m[1] * cos - down_m[0] * sin
    along = nose_y / mouth_y if mouth_y > 1e-6 else 0.5
    yaw = 74.4 * (nose_x - mouth_x * along) / eye_px
    pitch = 43.6 - 85.5 * along
    return Pose(_held(yaw), _held(pitch), math.degrees(roll))


def _held(angle: float) -> float:
    return float(min(max(angle, -90.0), 90.0))


def outside_share(image: Image, points: Points5) -> float:
    """How much of the face (the oval that the five points imply) lies outside of the photo, 0..1."""
    matrix = similarity(points)
    turn, shift = matrix[:, :2], matrix[:, 2]
    if abs(float(turn[0, 0] * turn[1, 1] - turn[0, 1] * turn[1, 0])) < 1e-12:
        return 0.0
    around = (_POINTS - shift) @ np.linalg.inv(turn).T
    width, height = image.source_size
    inside = (around >= 0.0).all(axis=1) & (around[:, 0] <= width) & (around[:, 1] <= height)
    return 1.0 - float(inside.mean())


def deficits(image: Image, face: Face, pose: Pose, chip: Pixels) -> dict[str, float]:
    """What is amiss, each from 0 (nothing) upwards; the keys are those of WEIGHTS.

    "dark" and "flat" are in octaves (factors of two), "small" in their squares (each halving costs
    more than the one before), "blur" in natural logarithms of sharpness, angles in squares of 45
    degrees, "cut" the share outside of the photo, "cover" in log odds, "doubt" the detector's missing
    confidence in tenths.
    """
    grey = cv2.cvtColor(chip, cv2.COLOR_RGB2GRAY)
    mean, deviation = (float(v[0, 0]) for v in cv2.meanStdDev(grey, mask=_MASK))
    sharp = _sharpness(np.asarray(grey[20:, 20:92], np.uint8)) / (deviation + 4.0)
    spread = cv2.calcHist([grey], [0], _MASK, [16], [0, 256]).ravel()
    burnt = float(spread[15] / spread.sum())
    return {
        "small": _log2_over(80.0, face.box.size_px, 4.0) ** 2,
        "blur": min(max(math.log(SHARP / max(sharp, 1e-3)), 0.0), 3.0),
        "dark": _log2_over(60.0, mean, 4.0),
        "bright": burnt + max(mean - 190.0, 0.0) / 50.0,
        "flat": _log2_over(20.0, deviation, 4.0),
        "yaw": (pose.yaw / 45.0) ** 2,
        "pitch": (pose.pitch / 45.0) ** 2,
        "roll": (pose.roll / 45.0) ** 2,
        "cover": min(max(covered_odds(chip), 0.0), 6.0),
        "cut": outside_share(image, face.landmarks),
        "doubt": max(0.93 - face.confidence, 0.0) * 10.0,
    }


def _sharpness(grey: NDArray[np.uint8]) -> float:
    """The least deviation of a second difference, two px apart, over four directions.

    On an aligned chip, so that every face has one size; the caller divides by the contrast, so that a
    flat face is not called blurred. The least direction tells motion blur, which leaves edges along
    its path: with the plain Laplacian (Pech-Pacheco 2000) the correlation of blur with scores is 0.51
    on degraded LFW photos, 0.35 for motion; with this one 0.59 and 0.52.
    """
    g = grey.astype(np.int16)
    mid = 2 * g[2:-2, 2:-2]
    ends = (
        g[2:-2, :-4] + g[2:-2, 4:],
        g[:-4, 2:-2] + g[4:, 2:-2],
        g[:-4, :-4] + g[4:, 4:],
        g[:-4, 4:] + g[4:, :-4],
    )
    return min(float(cv2.meanStdDev(end - mid)[1][0, 0]) for end in ends)


def _log2_over(enough: float, value: float, most: float) -> float:
    return min(max(math.log2(enough / max(value, 1e-3)), 0.0), most)


_BEST: Final = 1.0 / (1.0 + math.exp(-BIAS))


def overall_of(amiss: Mapping[str, float]) -> float:
    """0..1, falling in every deficit; 1.0 where nothing is amiss."""
    cost = sum(WEIGHTS[name] * value for name, value in amiss.items())
    return 1.0 / (1.0 + math.exp(min(cost, 50.0) - BIAS)) / _BEST


def assess(image: Image, face: Face, pose: Pose | None, chip: Pixels | None) -> Quality:
    """The quality of one face; its reasons come worst first.

    `overall` x 0.65 is about the SFace score to expect with a good second photo of the person.
    `chip` is the aligned face (112, 112, 3) uint8 RGB, cut here if None; `pose` comes from a pose
    model, or from the five points if None.
    """
    pose = pose or pose_from_points(face.landmarks)
    chip = chip if chip is not None else align_chip(image, face.landmarks)
    amiss = deficits(image, face, pose, chip)
    named = sorted((k for k in amiss if amiss[k] >= REASON_FROM[k]), key=lambda k: -WEIGHTS[k] * amiss[k])
    reasons = dict.fromkeys(REASONS[k] for k in named)  # worst first, each once
    return Quality(
        overall=overall_of(amiss),
        face_px=face.box.size_px,
        sharpness=max(1.0 - amiss["blur"] / 2.2, 0.0),
        brightness=max(1.0 - max(amiss["dark"] / 4.0, amiss["bright"] / 2.0), 0.0),
        contrast=1.0 - amiss["flat"] / 4.0,
        pose=pose,
        visibility=math.exp(-amiss["cover"]),
        reasons=tuple(reasons),
    )
