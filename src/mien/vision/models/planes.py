"""uint8 pixels to the float32 planes that networks take."""

import numpy as np
from numpy.typing import NDArray

from mien.vision.values import Pixels


def to_planes(
    pixels: Pixels | NDArray[np.uint8], *, bgr: bool = False, mean: float = 0.0, divisor: float = 1.0
) -> NDArray[np.float32]:
    """(H, W, 3) or (N, H, W, 3) uint8 RGB -> (N, 3, H, W) float32, (x - mean) / divisor."""
    batch = pixels if pixels.ndim == 4 else pixels[None]
    if bgr:
        batch = batch[..., ::-1]
    planes = np.empty((batch.shape[0], 3, *batch.shape[1:3]), np.float32)
    np.copyto(planes, batch.transpose(0, 3, 1, 2))
    if mean:
        planes -= np.float32(mean)
    if divisor != 1.0:
        planes *= np.float32(1.0 / divisor)
    return planes
