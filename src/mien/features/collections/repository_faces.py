"""Queries over stored faces."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from mien.features.collections.records import Face, Facts, NewFace
from mien.features.collections.tables import FaceRow
from mien.kit.tenant import TenantId
from mien.vision.values import Box

F = FaceRow
_COLUMNS = (
    F.id,
    F.label,
    F.person_id,
    F.external_image_id,
    F.image_sha256,
    F.image_width,
    F.image_height,
    F.box,
    F.landmarks,
    F.confidence,
    F.quality_score,
    F.quality,
    F.attributes,
    F.facts,
    F.space_key,
    F.runtime,
    F.created_at,
)
_IN = 5000
"""Values of one IN list; SQLite takes 32,766 parameters in a statement, asyncpg 32,767."""


def _face(row: Any) -> Face:
    (id_, label, person, external, sha, width, height, box, *rest) = row
    return Face(id_, label, person, external, sha, width, height, Box(*box), *rest)


class FaceRepository:
    """Faces of one tenant; one object per unit of work."""

    def __init__(self, session: AsyncSession, tenant: TenantId) -> None:
        self._session = session
        self._tenant = tenant

    def _of(self, collection: UUID) -> tuple[ColumnElement[bool], ColumnElement[bool]]:
        return F.tenant_id == self._tenant, F.collection_id == collection

    async def add(
        self,
        collection: UUID,
        faces: Sequence[NewFace],
        *,
        first_label: int,
        external_image_id: str | None,
        person_id: UUID | None,
        facts: Facts,
        image_sha256: str,
        image_size: tuple[int, int],
        space_key: str,
        now: datetime,
    ) -> list[Face]:
        """Store the faces of one photo under ascending labels."""
        stored = [
            Face(
                id=face.id,
                label=first_label + i,
                person_id=person_id,
                external_image_id=external_image_id,
                image_sha256=image_sha256,
                image_width=image_size[0],
                image_height=image_size[1],
                box=face.box,
                landmarks=face.landmarks,
                confidence=face.confidence,
                quality_score=face.quality_score,
                quality=face.quality,
                attributes=face.attributes,
                facts=facts,
                space_key=space_key,
                runtime=face.runtime,
                created_at=now,
            )
            for i, face in enumerate(faces)
        ]
        if stored:
            await self._session.execute(
                insert(F),
                [
                    {
                        "tenant_id": self._tenant,
                        "id": face.id,
                        "collection_id": collection,
                        "label": face.label,
                        "person_id": person_id,
                        "external_image_id": external_image_id,
                        "image_sha256": image_sha256,
                        "image_width": image_size[0],
                        "image_height": image_size[1],
                        "box": [face.box.x, face.box.y, face.box.width, face.box.height],
                        "landmarks": face.landmarks,
                        "confidence": face.confidence,
                        "quality_score": face.quality_score,
                        "quality": face.quality,
                        "attributes": face.attributes,
                        "facts": dict(facts),
                        "space_key": space_key,
                        "runtime": face.runtime,
                        "created_at": now,
                        "embedding": new.embedding,
                    }
                    for face, new in zip(stored, faces, strict=True)
                ],
            )
        return stored

    async def is_known(self, collection: UUID, image_sha256: str, external_image_id: str | None) -> bool:
        """Whether faces of this very photo are stored under this external id."""
        row = await self._session.execute(
            select(F.label)
            .where(
                *self._of(collection),
                F.image_sha256 == image_sha256,
                F.external_image_id == external_image_id,
            )
            .limit(1)
        )
        return row.first() is not None

    async def find(self, collection: UUID, face: UUID) -> Face | None:
        row = (
            await self._session.execute(select(*_COLUMNS).where(*self._of(collection), F.id == face))
        ).first()
        return None if row is None else _face(row)

    async def embedding(self, collection: UUID, face: UUID) -> tuple[int, NDArray[np.float32]] | None:
        """(label, vector (D,)) of a live face."""
        row = (
            await self._session.execute(
                select(F.label, F.embedding).where(*self._of(collection), F.id == face)
            )
        ).first()
        return None if row is None else (row[0], np.frombuffer(row[1], dtype="<f4").astype(np.float32))

    async def page(
        self,
        collection: UUID,
        after: int,
        limit: int,
        *,
        external_image_id: str | None = None,
        person_id: UUID | None = None,
    ) -> list[Face]:
        """Faces in the order of their adds, after the label `after`."""
        query = select(*_COLUMNS).where(*self._of(collection), F.label > after)
        if external_image_id is not None:
            query = query.where(F.external_image_id == external_image_id)
        if person_id is not None:
            query = query.where(F.person_id == person_id)
        rows = await self._session.execute(query.order_by(F.label).limit(limit))
        return [_face(row) for row in rows]

    async def labels_of(self, collection: UUID, ids: Sequence[UUID]) -> dict[UUID, tuple[int, UUID | None]]:
        """id -> (label, person) of those faces that are there."""
        rows = await self._session.execute(
            select(F.id, F.label, F.person_id).where(*self._of(collection), F.id.in_(ids))
        )
        return {id_: (label, person) for id_, label, person in rows}

    async def delete(self, collection: UUID, ids: Sequence[UUID]) -> None:
        await self._session.execute(
            delete(F).where(*self._of(collection), F.id.in_(ids)).execution_options(synchronize_session=False)
        )

    async def set_person(self, collection: UUID, ids: Sequence[UUID], person: UUID | None) -> None:
        """Attach faces to a person, or detach them."""
        await self._session.execute(
            update(F)
            .where(*self._of(collection), F.id.in_(ids))
            .values(person_id=person)
            .execution_options(synchronize_session=False)
        )

    async def detach_all(self, collection: UUID, person: UUID) -> None:
        """Detach all faces of a person."""
        await self._session.execute(
            update(F)
            .where(*self._of(collection), F.person_id == person)
            .values(person_id=None)
            .execution_options(synchronize_session=False)
        )

    async def vectors_of_persons(
        self, collection: UUID, persons: Sequence[UUID], limit: int
    ) -> list[tuple[UUID, NDArray[np.float32]]]:
        """(person, vector) of all faces of these persons, at most `limit`."""
        found: list[tuple[UUID, NDArray[np.float32]]] = []
        for start in range(0, len(persons), _IN):
            rows = await self._session.execute(
                select(F.person_id, F.embedding)
                .where(*self._of(collection), F.person_id.in_(persons[start : start + _IN]))
                .order_by(F.label)
                .limit(limit - len(found))
            )
            found.extend(
                (person, np.frombuffer(raw, dtype="<f4")) for person, raw in rows if person is not None
            )
            if len(found) >= limit:
                break
        return found
