"""SFace, the default embedder: 128-D (OpenCV Zoo `face_recognition_sface_2021dec`, Apache-2.0).

Y. Zhong, W. Deng et al.: SFace: Sigmoid-Constrained Hypersphere Loss, TIP 2021. RGB 0..255 as it is.
"""

from mien.vision.models.arcface import ArcFace
from mien.vision.runtimes.base import Session


def sface(session: Session) -> ArcFace:
    """The `Embedder` of SFace: the ArcFace way of use, on raw RGB."""
    return ArcFace(session, mean=0.0, divisor=1.0)
