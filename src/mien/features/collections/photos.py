"""Photos alone, without a collection: detect, and compare the faces of two."""

import asyncio

import numpy as np

from mien.backends.pipelines.base import Pipelines
from mien.features.collections import checks
from mien.features.collections.records import Comparison, Detected, Pair
from mien.features.collections.thresholds import Thresholds
from mien.kit.errors import BadInput
from mien.kit.tenant import TenantId
from mien.vision.calibration import MatchPolicy
from mien.vision.values import Analysis, AnalyzedFace, AnalyzeRequest

COMPARE_POLICY = MatchPolicy(fmr=1e-3)
"""FMR 0.1 %: what Frontex's best practices ask of one-to-one checks at automated border gates."""


class Photos:
    """What can be said about photos by themselves. Nothing is stored."""

    def __init__(self, pipelines: Pipelines, thresholds: Thresholds) -> None:
        self._pipelines = pipelines
        self._thresholds = thresholds

    async def detect(
        self,
        tenant: TenantId,
        photo: bytes,
        *,
        attributes: frozenset[str] = frozenset({"quality"}),
        thorough: bool = False,
        max_faces: int = 100,
        min_confidence: float = 0.6,
    ) -> Detected:
        """The faces of a photo, largest first, with the attributes asked for; none is no error."""
        request = analyze_request(
            attributes, embed=False, thorough=thorough, max_faces=max_faces, min_confidence=min_confidence
        )
        analysis = await self._pipelines.analyze(tenant, photo, request)
        return Detected(
            analysis.width,
            analysis.height,
            analysis.faces,
            analysis.objects,
            {str(stage): ms for stage, ms in analysis.timings_ms.items()},
        )

    async def compare(
        self,
        tenant: TenantId,
        source: bytes,
        target: bytes,
        *,
        policy: MatchPolicy | None = None,
        thorough: bool = False,
        max_faces: int = 100,
        min_confidence: float = 0.6,
        min_quality: float = 0.0,
    ) -> Comparison:
        """All faces of `source` against all of `target`; a photo without a face is no error.

        BadInput for an `fpir` policy: there is no gallery here.
        """
        if policy is not None and policy.fpir is not None:
            raise BadInput("A comparison has no gallery; give score, distance or fmr.", field="policy")
        request = analyze_request(
            frozenset({"quality"}),
            embed=True,
            thorough=thorough,
            max_faces=max_faces,
            min_confidence=min_confidence,
        )
        space = self._pipelines.space
        threshold = self._thresholds.at(space.key, policy or COMPARE_POLICY, 1)
        first, second = await asyncio.gather(
            self._pipelines.analyze(tenant, source, request), self._pipelines.analyze(tenant, target, request)
        )
        sources, targets = (_usable(a, min_quality) for a in (first, second))
        scores = (
            np.clip(_vectors(sources) @ _vectors(targets).T, -1.0, 1.0)
            if sources and targets
            else np.zeros((len(sources), len(targets)), np.float32)
        )
        table = self._thresholds.table(space.key)
        pairs = [
            Pair(
                int(i),
                int(j),
                float(scores[i, j]),
                table.similarity(float(scores[i, j])) if table else None,
                table.fmr(float(scores[i, j])) if table else None,
            )
            for i, j in np.argwhere(scores >= threshold.score)
        ]
        pairs.sort(key=lambda pair: -pair.score)
        return Comparison(
            source=sources,
            target=targets,
            source_size=(first.width, first.height),
            target_size=(second.width, second.height),
            scores=scores,
            pairs=tuple(pairs),
            threshold=threshold,
        )


def analyze_request(
    attributes: frozenset[str], *, embed: bool, thorough: bool, max_faces: int, min_confidence: float
) -> AnalyzeRequest:
    """The vision path's request; BadInput for an attribute or a number out of range."""
    unknown = attributes - checks.ATTRIBUTES
    if unknown:
        raise BadInput(f"attributes are of {', '.join(sorted(checks.ATTRIBUTES))}.", field="attributes")
    if not 0.0 <= min_confidence <= 1.0:
        raise BadInput("min_confidence must be from 0 to 1.", field="min_confidence")
    if max_faces < 1:
        raise BadInput("max_faces must be at least 1.", field="max_faces")
    return AnalyzeRequest(
        embed=embed,
        quality=bool(attributes & {"quality", "pose"}),  # the pose is a part of the quality
        pose="pose" in attributes,
        liveness="liveness" in attributes,
        eyes="eyes" in attributes,
        emotion="emotion" in attributes,
        objects="objects" in attributes,
        thorough=thorough,
        max_faces=max_faces,
        min_confidence=min_confidence,
    )


def _usable(analysis: Analysis, min_quality: float) -> tuple[AnalyzedFace, ...]:
    return tuple(
        face
        for face in analysis.faces
        if face.embedding is not None and not checks.quality_reasons(face, min_quality)
    )


def _vectors(faces: tuple[AnalyzedFace, ...]) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    return np.stack([face.embedding.vector for face in faces if face.embedding is not None])
