"""Head pose: yaw, pitch and roll in degrees.

Source: `fr_pose.onnx` (npm faceplugin-face-recognition-js, MIT), a Hopenet-style classifier (N. Ruiz,
E. Chong, J. Rehg, Fine-Grained Head Pose Estimation Without Keypoints, 2018): for each angle 66 bins
of 3 degrees from -99, the angle is their expectation. Input 224x224 RGB, ImageNet mean and deviation.

Found by experiment on LFW DevTrain photos (docs/attributes.md): RGB in a crop of 1.2 x the box (1.5
in BGR upstream) agrees best with landmarks and with mirrored photos. A bin's *middle* is -97.5 + 3 i:
with upstream's -99 a mirrored face's yaw and roll miss their opposites by 3 degrees, with -97.5 by
0.5. Upstream's yaw grows to the image's left; ours to its right.
"""

from collections.abc import Sequence

import numpy as np

from mien.vision.crops import crop_around
from mien.vision.models.batches import run_rows, softmax
from mien.vision.runtimes.base import Array, Session
from mien.vision.values import Face, Image, Pose

SIDE = 224
GROW = 1.2
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)[:, None, None] * 255.0
_SCALE = 1.0 / (np.array([0.229, 0.224, 0.225], np.float32)[:, None, None] * 255.0)
_MIDDLES = np.arange(66, dtype=np.float32) * 3.0 - 97.5


class HeadPose:
    """Angles of heads by a network; `quality.pose_from_points` is the cheap one without."""

    def __init__(self, session: Session) -> None:
        """`session`: input (N, 3, 224, 224); outputs yaw, pitch, roll, each (N, 66) logits."""
        self._session = session

    def __call__(self, image: Image, faces: Sequence[Face]) -> list[Pose]:
        """One Pose per face, in order. Raises ModelError if the graph refuses its input."""
        if not faces:
            return []
        rows = np.empty((len(faces), 3, SIDE, SIDE), np.float32)
        for row, face in zip(rows, faces, strict=True):
            row[:] = crop_around(image, face.box, grow=GROW, side=SIDE).transpose(2, 0, 1)
            row -= _MEAN
            row *= _SCALE
        left, up, clockwise = (_angles(bins) for bins in run_rows(self._session, rows))
        return [
            Pose(yaw=-float(yaw), pitch=float(pitch), roll=float(roll))
            for yaw, pitch, roll in zip(left, up, clockwise, strict=True)
        ]


def _angles(bins: Array) -> Array:
    return np.asarray(softmax(bins) @ _MIDDLES, np.float32)
