"""Whom a photo shows: the one face that a labelled photo is about."""

from collections.abc import Sequence

from mien.vision.values import AnalyzedFace


def subject(faces: Sequence[AnalyzedFace], width: int, height: int) -> AnalyzedFace | None:
    """The largest and most central face of a photo of `width` x `height` px; None without faces.

    Area of the box minus twice the squared distance of its centre from the photo's: the rule of
    InsightFace's `FaceAnalysis.get`, which LFW's photos (subject in the middle, others around) need.
    """

    def weight(face: AnalyzedFace) -> float:
        box = face.face.box
        dx = box.x + box.width / 2 - width / 2
        dy = box.y + box.height / 2 - height / 2
        return box.width * box.height - 2.0 * (dx * dx + dy * dy)

    return max(faces, key=weight, default=None)
