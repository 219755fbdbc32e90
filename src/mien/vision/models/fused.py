"""Embedders made of embedders: two models as one space, and a face averaged with its mirror image."""

from collections.abc import Sequence
from math import sqrt

import numpy as np

from mien.kit.errors import SetupError
from mien.vision.models.arcface import unit
from mien.vision.models.base import Chips, Embedder, Vectors


class Fused:
    """An `Embedder` whose cosine is the weighted mean of its parts' cosines.

    Each part's unit vector, times the square root of its weight, side by side:
    <(sqrt(w) a, sqrt(v) b), (sqrt(w) a', sqrt(v) b')> = w <a, a'> + v <b, b'>, of unit length as
    w + v = 1. So one index and one calibration serve the fusion.
    """

    def __init__(self, parts: Sequence[tuple[float, Embedder]]) -> None:
        if abs(sum(weight for weight, _ in parts) - 1.0) > 1e-6 or any(weight <= 0 for weight, _ in parts):
            raise SetupError("The weights of a fused embedder are positive and sum to 1.")
        self._parts = tuple((np.float32(sqrt(weight)), part) for weight, part in parts)
        self.dim = sum(part.dim for _, part in parts)

    @property
    def runtime(self) -> str:
        return "+".join(dict.fromkeys(part.runtime for _, part in self._parts))

    def __call__(self, chips: Chips) -> Vectors:
        """See `Embedder`."""
        return np.concatenate([weight * part(chips) for weight, part in self._parts], axis=1)


class FlipAveraged:
    """An `Embedder` that adds the vectors of a face and of its mirror image. Costs two runs a face."""

    def __init__(self, part: Embedder) -> None:
        self._part = part
        self.dim = part.dim

    @property
    def runtime(self) -> str:
        return self._part.runtime

    def __call__(self, chips: Chips) -> Vectors:
        """See `Embedder`."""
        return unit(self._part(chips) + self._part(np.ascontiguousarray(chips[:, :, ::-1])))
