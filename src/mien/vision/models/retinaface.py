"""RetinaFace with a MobileNet 0.25 (the Pytorch_Retinaface family, MIT).

J. Deng et al.: RetinaFace: Single-stage Dense Face Localisation in the Wild, CVPR 2020. BGR minus
(104, 117, 123); prior boxes of two sizes per cell at strides 8, 16 and 32; boxes are centre and log
size relative to the prior, points relative to it, with variances 0.1 and 0.2; two classes, of which
the second is the face.
"""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mien.kit.errors import ModelError
from mien.vision.models.base import NOTHING, Detections
from mien.vision.models.planes import to_planes
from mien.vision.models.suppression import suppress
from mien.vision.runtimes.base import Session
from mien.vision.values import Pixels

PRIOR_PX = {8: (16, 32), 16: (64, 128), 32: (256, 512)}
"""`min_sizes` of the family's `cfg_mnet`."""
CENTRE_VARIANCE, SIZE_VARIANCE = np.float32(0.1), np.float32(0.2)
MEAN_BGR = np.array([104.0, 117.0, 123.0], np.float32)[:, None, None]
MAX_OVERLAP = 0.4


@lru_cache(maxsize=16)
def _priors(width: int, height: int) -> NDArray[np.float32]:
    """(A, 4) float32: centre x, centre y, width, height in px. Bounded: sizes repeat."""
    blocks = []
    for stride, sizes in PRIOR_PX.items():
        rows, columns = np.mgrid[0 : -(-height // stride), 0 : -(-width // stride)]
        centres = (np.stack([columns.ravel(), rows.ravel()], axis=1) + 0.5) * stride
        sides = np.array(sizes, np.float64)
        blocks.append(
            np.concatenate(
                [
                    np.repeat(centres, len(sizes), axis=0),
                    np.repeat(np.tile(sides, len(centres))[:, None], 2, axis=1),
                ],
                axis=1,
            )
        )
    priors = np.concatenate(blocks).astype(np.float32)
    priors.flags.writeable = False
    return priors


class RetinaFace:
    """A `Detector`."""

    def __init__(self, session: Session) -> None:
        """ModelError if the outputs are not boxes, classes and points (4, 2 and 10 numbers each)."""
        self._session = session
        self._input = session.inputs[0].name
        by_length = {port.shape[-1]: i for i, port in enumerate(session.outputs)}
        try:
            self._boxes, self._classes, self._points = by_length[4], by_length[2], by_length[10]
        except KeyError:
            raise ModelError("The outputs of this RetinaFace are not boxes, classes and points.") from None
        height, width = session.inputs[0].shape[2:]
        self.canvas_size: tuple[int, int] | None = (width, height) if width and height else None

    @property
    def runtime(self) -> str:
        return self._session.runtime

    def __call__(self, canvas: Pixels, min_confidence: float) -> Detections:
        """See `Detector`."""
        height, width = canvas.shape[:2]
        planes = to_planes(canvas, bgr=True)
        planes -= MEAN_BGR
        out = self._session.run({self._input: planes})
        score = out[self._classes].reshape(-1, 2)[:, 1]
        hit = np.flatnonzero(score >= min_confidence)
        if not hit.size:
            return NOTHING
        prior = _priors(width, height)[hit]
        centre, size = prior[:, :2], prior[:, 2:]
        box = out[self._boxes].reshape(-1, 4)[hit]
        sides = size * np.exp(box[:, 2:] * SIZE_VARIANCE)
        corner = centre + box[:, :2] * CENTRE_VARIANCE * size - 0.5 * sides
        offsets = out[self._points].reshape(-1, 5, 2)[hit]
        points = centre[:, None] + offsets * CENTRE_VARIANCE * size[:, None]
        found = Detections(np.concatenate([corner, sides], axis=1), points, score[hit])
        return suppress(found, MAX_OVERLAP)
