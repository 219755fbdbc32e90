"""Embedders in the manner of ArcFace: one 112 x 112 RGB face in, one vector out.

J. Deng et al.: ArcFace, CVPR 2019. Families differ in how they scale pixels:
`faceplugin-512` (`fr_feature.onnx`) takes (x - 127) / 128, InsightFace's nets (x - 127.5) / 127.5,
SFace x itself.
"""

import numpy as np

from mien.kit.errors import ModelError
from mien.vision.models.base import Chips, Vectors
from mien.vision.models.planes import to_planes
from mien.vision.runtimes.base import Session


def unit(vectors: Vectors) -> Vectors:
    """Rows divided by their length; ModelError if one has none (a broken model)."""
    length = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))[:, None]
    if not ((length > 1e-12) & (length < np.inf)).all():  # NaN is neither
        raise ModelError("The embedding model gave no usable vector; `mien models verify` checks it.")
    return np.asarray(vectors / length, np.float32)


class ArcFace:
    """An `Embedder`."""

    def __init__(self, session: Session, *, mean: float, divisor: float) -> None:
        self._session = session
        self._input = session.inputs[0].name
        self._mean, self._divisor = mean, divisor
        # Older exports name a fixed batch of 1 for the output though the input's is free.
        dim = session.outputs[0].shape[-1]
        if dim is None:
            raise ModelError("The embedding model does not say how long its vectors are.")
        self.dim: int = dim
        batch = session.inputs[0].shape[0]
        self._at_once = 32 if batch is None and session.batches else 1

    @property
    def runtime(self) -> str:
        return self._session.runtime

    def __call__(self, chips: Chips) -> Vectors:
        """See `Embedder`. On a GPU up to 32 faces are one run; on a CPU that gains nothing."""
        if not len(chips):
            return np.empty((0, self.dim), np.float32)
        rows = [
            self._session.run(
                {self._input: to_planes(chips[i : i + self._at_once], mean=self._mean, divisor=self._divisor)}
            )[0].reshape(-1, self.dim)
            for i in range(0, len(chips), self._at_once)
        ]
        return unit(rows[0] if len(rows) == 1 else np.concatenate(rows))


def faceplugin_512(session: Session) -> ArcFace:
    """The `Embedder` of `fr_feature.onnx` (npm faceplugin-face-recognition-js, MIT), 512-D."""
    return ArcFace(session, mean=127.0, divisor=128.0)


def insightface(session: Session) -> ArcFace:
    """The `Embedder` of InsightFace's recognition nets (w600k_*; non-commercial), 512-D."""
    return ArcFace(session, mean=127.5, divisor=127.5)
