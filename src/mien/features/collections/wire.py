"""Services' values as the JSON of replies (their shapes are in `replies.py`)."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

from starlette.responses import Response

from mien.features.collections.checks import policy_json
from mien.features.collections.faces import plain
from mien.features.collections.records import (
    Collection,
    Comparison,
    Described,
    Detected,
    Face,
    Found,
    FoundPersons,
    Indexed,
    Match,
    Person,
    PersonMatch,
    Probe,
    ThresholdMove,
    Unindexed,
)
from mien.features.jobs.service import Job
from mien.kit.paging import Page
from mien.vision.calibration import Threshold
from mien.vision.values import AnalyzedFace, Box

Json = dict[str, Any]

_POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")


def answer(value: Json, status: int = 200) -> Response:
    """A JSON response; UTF-8, without a framework's second look at every value."""
    raw = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return Response(raw.encode("utf-8"), status, media_type="application/json")


def time(value: datetime) -> str:
    """RFC 3339 in UTC."""
    return value.isoformat().replace("+00:00", "Z")


def _box(box: Box) -> Json:
    return {
        "x": round(box.x, 2),
        "y": round(box.y, 2),
        "width": round(box.width, 2),
        "height": round(box.height, 2),
    }


def _relative(box: Box, width: int, height: int) -> Json:
    return {
        "x": round(box.x / width, 6),
        "y": round(box.y / height, 6),
        "width": round(box.width / width, 6),
        "height": round(box.height / height, 6),
    }


def _landmarks(points: Iterable[Sequence[float]]) -> Json:
    return {
        name: {"x": round(float(point[0]), 2), "y": round(float(point[1]), 2)}
        for name, point in zip(_POINTS, points, strict=True)
    }


def found_face(face: AnalyzedFace, width: int, height: int) -> Json:
    """A face of a photo that was just analysed."""
    box = face.face.box
    reply: Json = {
        "bounding_box": _box(box),
        "relative_box": _relative(box, width, height),
        "landmarks": _landmarks(face.face.landmarks),
        "confidence": round(float(face.face.confidence), 4),
    }
    for name in ("quality", "liveness", "eyes", "emotion"):
        value = getattr(face, name)
        if value is not None:
            reply[name] = plain(value)
    return reply


def _left_out(faces: Iterable[Unindexed], width: int, height: int) -> list[Json]:
    return [{**found_face(f.face, width, height), "reasons": list(f.reasons)} for f in faces]


def detected(value: Detected, *, objects: bool, timings: bool) -> Json:
    reply: Json = {
        "image": {"width": value.width, "height": value.height},
        "faces": [found_face(face, value.width, value.height) for face in value.faces],
    }
    if objects:
        reply["objects"] = [
            {"label": o.label, "confidence": round(float(o.confidence), 4), "bounding_box": _box(o.box)}
            for o in value.objects
        ]
    if timings:
        reply["timings_ms"] = {stage: round(ms, 2) for stage, ms in value.timings_ms.items()}
    return reply


def threshold(value: Threshold) -> Json:
    reply: Json = {
        "score": round(value.score, 6),
        "distance": round(value.distance, 6),
        "policy": policy_json(value.policy),
        "fmr": _rate(value.fmr),
        "fpir": _rate(value.fpir),
        "fnmr": _rate(value.fnmr),
        "gallery_size": value.gallery_size,
        "extrapolated": value.extrapolated,
    }
    if value.note is not None:
        reply["note"] = value.note
    return reply


def compared(value: Comparison) -> Json:
    def side(faces: tuple[AnalyzedFace, ...], size: tuple[int, int], matched: set[int]) -> Json:
        return {
            "image": {"width": size[0], "height": size[1]},
            "faces": [found_face(face, *size) for face in faces],
            "unmatched": [i for i in range(len(faces)) if i not in matched],
        }

    return {
        "source": side(value.source, value.source_size, {pair.source for pair in value.pairs}),
        "target": side(value.target, value.target_size, {pair.target for pair in value.pairs}),
        "scores": [[round(float(score), 6) for score in row] for row in value.scores],
        "matches": [
            {
                "source": pair.source,
                "target": pair.target,
                "score": round(pair.score, 6),
                "similarity": _similarity(pair.similarity),
                "fmr": _rate(pair.fmr),
            }
            for pair in value.pairs
        ],
        "threshold": threshold(value.threshold),
    }


def _rate(value: float | None) -> float | None:
    """An error rate with four significant digits: more would be noise."""
    return None if value is None else float(f"{value:.4g}")


def _similarity(value: float | None) -> float | None:
    return None if value is None else round(value, 2)


def collection(value: Collection) -> Json:
    space = value.space
    return {
        "name": value.name,
        "description": value.description,
        "metadata": value.facts,
        "policy": policy_json(value.policy),
        "space": {
            "key": space.key,
            "model": space.model,
            "recipe": space.recipe,
            "alignment": space.alignment,
            "dim": space.dim,
        },
        "face_count": value.face_count,
        "created_at": time(value.created_at),
        "updated_at": time(value.updated_at),
    }


def described(value: Described) -> Json:
    index = None
    if value.index_kind is not None:
        index = {
            "kind": value.index_kind,
            "live": value.index_live,
            "behind": max(0, value.collection.change_head - value.index_applied),
            "memory_bytes": value.index_memory_bytes,
        }
    return {
        **collection(value.collection),
        "person_count": value.person_count,
        "threshold": threshold(value.threshold),
        "index": index,
    }


def move(value: ThresholdMove) -> Json:
    return {
        "cause": value.cause,
        "policy": dict(value.policy),
        "score": round(value.score, 6),
        "fmr": _rate(value.fmr),
        "fpir": _rate(value.fpir),
        "fnmr": _rate(value.fnmr),
        "gallery_size": value.gallery_size,
        "face_count": value.face_count,
        "extrapolated": value.extrapolated,
        "created_at": time(value.created_at),
    }


def face(value: Face) -> Json:
    reply: Json = {
        "face_id": str(value.id),
        "person_id": None if value.person_id is None else str(value.person_id),
        "external_image_id": value.external_image_id,
        "bounding_box": _box(value.box),
        "relative_box": _relative(value.box, value.image_width, value.image_height),
        "landmarks": _landmarks(value.landmarks),
        "confidence": round(value.confidence, 4),
        "quality_score": value.quality_score,
        "metadata": value.facts,
        "image": {"width": value.image_width, "height": value.image_height},
        "image_sha256": value.image_sha256,
        "space": value.space_key,
        "runtime": value.runtime,
        "created_at": time(value.created_at),
    }
    if value.quality is not None:
        reply["quality"] = value.quality
    reply.update(value.attributes or {})
    return reply


def indexed(value: Indexed) -> Json:
    return {
        "image": {"width": value.width, "height": value.height},
        "faces": [face(stored) for stored in value.faces],
        "unindexed": _left_out(value.unindexed, value.width, value.height),
    }


def _match(match: Match) -> Json:
    return {
        "face_id": str(match.face_id),
        "person_id": None if match.person_id is None else str(match.person_id),
        "external_image_id": match.external_image_id,
        "score": round(match.score, 6),
        "similarity": _similarity(match.similarity),
        "fmr": _rate(match.fmr),
        "metadata": match.facts,
    }


def _probe(probe: Probe, width: int | None, height: int | None) -> Json:
    if probe.face is not None and width and height:
        return found_face(probe.face, width, height)
    return {} if probe.face_id is None else {"face_id": str(probe.face_id)}


def found(value: Found) -> Json:
    faces = [
        {
            **_probe(result.probe, value.width, value.height),
            "matches": [_match(match) for match in result.matches],
        }
        for result in value.results
    ]
    return _search_reply(value, faces)


def _search_reply(value: Found | FoundPersons, faces: list[Json]) -> Json:
    width, height = value.width, value.height
    reply: Json = {
        "collection": value.collection.name,
        "faces": faces,
        "unsearched": _left_out(value.unsearched, width or 1, height or 1),
        "threshold": threshold(value.threshold),
    }
    if width and height:
        reply["image"] = {"width": width, "height": height}
    if value.note is not None:
        reply["note"] = value.note
    return reply


def person(value: Person) -> Json:
    return {
        "person_id": str(value.id),
        "name": value.name,
        "kind": value.kind,
        "external_id": value.external_id,
        "metadata": value.facts,
        "face_count": value.face_count,
        "created_at": time(value.created_at),
        "updated_at": time(value.updated_at),
    }


def _person_match(match: PersonMatch) -> Json:
    return {
        "person": person(match.person),
        "best_score": round(match.best, 6),
        "mean_score": round(match.mean, 6),
        "similarity": _similarity(match.similarity),
        "fmr": _rate(match.fmr),
        "best_face_id": str(match.best_face_id),
    }


def found_persons(value: FoundPersons) -> Json:
    faces = [
        {
            **_probe(probe, value.width, value.height),
            "persons": [_person_match(match) for match in matches],
        }
        for probe, matches in value.results
    ]
    return _search_reply(value, faces)


def job(value: Job) -> Json:
    """A job just queued, in the shape of `/v1/jobs`."""
    return {
        "id": str(value.id),
        "kind": value.kind,
        "state": value.state,
        "progress": {"done": value.done, "total": value.total, "note": value.note},
        "result": None if value.result is None else dict(value.result),
        "error": value.error,
        "attempts": value.attempts,
        "max_attempts": value.max_attempts,
        "created_at": time(value.created_at),
        "started_at": None if value.started_at is None else time(value.started_at),
        "finished_at": None if value.finished_at is None else time(value.finished_at),
    }


def page(name: str, items: list[Json], value: Page[Any]) -> Json:
    """A page of a list under its name."""
    return {name: items, "next_cursor": value.next_cursor}
