"""Faces of a collection: indexed, listed, deleted."""

import asyncio
import hashlib
from dataclasses import asdict
from typing import Any
from uuid import UUID

import numpy as np

from mien.backends.pipelines.base import Pipelines
from mien.backends.sql.base import Database
from mien.features.collections import checks
from mien.features.collections.catalog import cursor_number, gone, page_size
from mien.features.collections.limits import CollectionLimits
from mien.features.collections.photos import analyze_request
from mien.features.collections.projection import Projection
from mien.features.collections.records import Collection, Face, Indexed, IndexRequest, NewFace, Unindexed
from mien.features.collections.repository import CollectionRepository
from mien.features.collections.repository_faces import FaceRepository
from mien.features.collections.repository_persons import PersonRepository
from mien.features.collections.thresholds import Thresholds
from mien.kit.clock import Clock
from mien.kit.errors import BadInput, Conflict, NotFound
from mien.kit.ids import new_id
from mien.kit.paging import Page, encode_cursor
from mien.kit.tenant import TenantId
from mien.vision.values import AnalyzedFace


class Faces:
    """The stored faces of each collection."""

    def __init__(
        self,
        database: Database,
        pipelines: Pipelines,
        projection: Projection,
        thresholds: Thresholds,
        clock: Clock,
        limits: CollectionLimits,
    ) -> None:
        self._database = database
        self._pipelines = pipelines
        self._projection = projection
        self._thresholds = thresholds
        self._clock = clock
        self._limits = limits

    async def index(self, tenant: TenantId, name: str, photo: bytes, request: IndexRequest) -> Indexed:
        """Store the faces of a photo: all of them in one transaction, or none.

        Faces that are left out come back with their reasons. NotFound for an unknown collection or
        person, SpaceMismatch if the models in use make other embeddings than the collection holds,
        Conflict when the collection is full, and what the pipeline raises.
        """
        limits = self._limits
        facts = checks.facts(request.facts, limits)
        if request.external_image_id is not None:
            checks.text(
                request.external_image_id, "external_image_id", limits.external_id_length, empty=False
            )
        if not 1 <= request.max_faces <= limits.faces_per_photo:
            raise BadInput(f"max_faces must be from 1 to {limits.faces_per_photo}.", field="max_faces")
        if not 0.0 <= request.min_quality <= 1.0:
            raise BadInput("min_quality must be from 0 to 1.", field="min_quality")
        wanted = analyze_request(
            request.attributes | {"quality"},
            embed=True,
            thorough=request.thorough,
            # All faces are looked at, so that those over `max_faces` can be told.
            max_faces=max(100, request.max_faces),
            min_confidence=request.min_confidence,
        )
        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(photo).hexdigest())
        async with self._database.read(tenant) as unit:
            collection = await CollectionRepository(unit.session, tenant).get(name)
            if request.person_id is not None:
                await PersonRepository(unit.session, tenant).get(collection.id, request.person_id)
            known = request.skip_known and await FaceRepository(unit.session, tenant).is_known(
                collection.id, sha256, request.external_image_id
            )
        if known:
            return Indexed(0, 0, (), (), skipped=True)
        checks.same_space(collection.space, self._pipelines.space, name)
        analysis = await self._pipelines.analyze(tenant, photo, wanted)
        chosen, left_out = _choose(analysis.faces, request)
        faces = [_new_face(face, request.attributes) for face in chosen]
        if not faces:
            return Indexed(analysis.width, analysis.height, (), left_out)
        stored = await self._store(
            tenant, collection, faces, request, facts, sha256, (analysis.width, analysis.height)
        )
        if stored is None:
            return Indexed(analysis.width, analysis.height, (), (), skipped=True)
        return Indexed(analysis.width, analysis.height, tuple(stored), left_out)

    async def _store(
        self,
        tenant: TenantId,
        collection: Collection,
        faces: list[NewFace],
        request: IndexRequest,
        facts: dict[str, Any],
        sha256: str,
        size: tuple[int, int],
    ) -> list[Face] | None:
        now = self._clock()
        async with self._database.write(tenant) as unit:
            repository = CollectionRepository(unit.session, tenant)
            rows = FaceRepository(unit.session, tenant)
            before = await repository.lock(collection.id, now)
            if before is None:
                raise gone(collection.name)
            if request.skip_known and await rows.is_known(collection.id, sha256, request.external_image_id):
                return None
            if before.face_count + len(faces) > self._limits.faces_per_collection:
                raise Conflict(
                    f"The collection would hold more than {self._limits.faces_per_collection} faces.",
                    faces=before.face_count,
                )
            after = await repository.advance(collection.id, len(faces), len(faces), now)
            if after is None:
                raise gone(collection.name)
            if request.person_id is not None:  # may have been deleted while the photo was analysed
                await PersonRepository(unit.session, tenant).get(collection.id, request.person_id)
            first = before.change_head + 1
            stored = await rows.add(
                collection.id,
                faces,
                first_label=first,
                external_image_id=request.external_image_id,
                person_id=request.person_id,
                facts=facts,
                image_sha256=sha256,
                image_size=size,
                space_key=collection.space.key,
                now=now,
            )
            await repository.add_changes(
                collection.id, [(first + i, first + i, True) for i in range(len(faces))]
            )
            await self._thresholds.record(repository, after, "faces_added", now)
            unit.after_commit(lambda: self._projection.notify(tenant, collection.id))
        return stored

    async def get(self, tenant: TenantId, name: str, face: UUID) -> Face:
        """NotFound if the collection or the face is not there."""
        async with self._database.read(tenant) as unit:
            collection = await CollectionRepository(unit.session, tenant).get(name)
            found = await FaceRepository(unit.session, tenant).find(collection.id, face)
        if found is None:
            raise no_face(face)
        return found

    async def page(
        self,
        tenant: TenantId,
        name: str,
        *,
        limit: int = 100,
        cursor: str | None = None,
        external_image_id: str | None = None,
        person_id: UUID | None = None,
    ) -> Page[Face]:
        """Faces in the order in which they were indexed."""
        limit = page_size(limit, self._limits)
        if external_image_id is not None:
            checks.text(external_image_id, "external_image_id", self._limits.external_id_length)
        async with self._database.read(tenant) as unit:
            collection = await CollectionRepository(unit.session, tenant).get(name)
            query = f"faces:{collection.id}:{external_image_id!r}:{person_id}"
            found = await FaceRepository(unit.session, tenant).page(
                collection.id,
                0 if cursor is None else cursor_number(query, cursor),
                limit + 1,
                external_image_id=external_image_id,
                person_id=person_id,
            )
        return Page(
            tuple(found[:limit]),
            encode_cursor(query, str(found[limit - 1].label)) if len(found) > limit else None,
        )

    async def delete(self, tenant: TenantId, name: str, faces: list[UUID]) -> tuple[list[UUID], list[UUID]]:
        """Delete faces for good; returns (deleted, not found), each in the order given."""
        if not 1 <= len(faces) <= self._limits.ids:
            raise BadInput(f"Give 1 to {self._limits.ids} face ids.", field="face_ids")
        wanted = list(dict.fromkeys(faces))
        now = self._clock()
        async with self._database.write(tenant) as unit:
            repository = CollectionRepository(unit.session, tenant)
            rows = FaceRepository(unit.session, tenant)
            collection = await repository.get(name)
            before = await repository.lock(collection.id, now)
            if before is None:
                raise gone(name)
            there = await rows.labels_of(collection.id, wanted)
            deleted = [face for face in wanted if face in there]
            if deleted:
                after = await repository.advance(collection.id, len(deleted), -len(deleted), now)
                if after is None:
                    raise gone(name)
                await repository.add_changes(
                    collection.id,
                    [(before.change_head + 1 + i, there[face][0], False) for i, face in enumerate(deleted)],
                )
                await rows.delete(collection.id, deleted)
                await self._thresholds.record(repository, after, "faces_removed", now)
                unit.after_commit(lambda: self._projection.notify(tenant, collection.id))
        return deleted, [face for face in wanted if face not in there]

    async def delete_one(self, tenant: TenantId, name: str, face: UUID) -> None:
        """Delete one face; NotFound if it is not there."""
        deleted, _ = await self.delete(tenant, name, [face])
        if not deleted:
            raise no_face(face)


def no_face(face: UUID) -> NotFound:
    return NotFound(f"There is no face {face} in this collection.", face_id=str(face))


def _choose(
    faces: tuple[AnalyzedFace, ...], request: IndexRequest
) -> tuple[list[AnalyzedFace], tuple[Unindexed, ...]]:
    """The faces to store (the largest first) and the others with their reasons."""
    chosen: list[AnalyzedFace] = []
    left_out: list[Unindexed] = []
    for face in faces:
        reasons = checks.quality_reasons(face, request.min_quality)
        if face.embedding is None:
            left_out.append(Unindexed(face, ("not_embedded",)))
        elif reasons:
            left_out.append(Unindexed(face, reasons))
        elif len(chosen) >= request.max_faces:
            left_out.append(Unindexed(face, ("exceeds_max_faces",)))
        else:
            chosen.append(face)
    return chosen, tuple(left_out)


def _new_face(face: AnalyzedFace, attributes: frozenset[str]) -> NewFace:
    assert face.embedding is not None
    kept: dict[str, Any] = {}
    vector = face.embedding.vector.astype(np.float64)
    vector /= np.linalg.norm(vector)  # exactly, as the index will not take less
    for name in ("liveness", "eyes", "emotion"):
        if name in attributes and getattr(face, name) is not None:
            kept[name] = plain(getattr(face, name))
    return NewFace(
        id=new_id(),
        box=face.face.box,
        landmarks=[[round(float(x), 2), round(float(y), 2)] for x, y in face.face.landmarks],
        confidence=float(face.face.confidence),
        quality_score=None if face.quality is None else float(face.quality.overall),
        quality=None if face.quality is None else plain(face.quality),
        attributes=kept or None,
        embedding=vector.astype("<f4").tobytes(),
        runtime=face.embedding.runtime,
    )


def plain(value: Any) -> dict[str, Any]:
    """One of the vision path's values as JSON values, numbers rounded to six digits."""
    return {name: _rounded(inner) for name, inner in asdict(value).items()}


def _rounded(value: Any) -> Any:
    match value:
        case dict():
            return {name: _rounded(inner) for name, inner in value.items()}
        case list() | tuple():
            return [_rounded(inner) for inner in value]
        case str() | None | bool():
            return value
        case _:
            return round(float(value), 6)
