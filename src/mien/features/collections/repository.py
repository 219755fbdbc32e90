"""Queries over collections, their numbered changes and their thresholds.

One object per unit of work: every statement names the tenant, and the session's guard adds it again.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast
from uuid import UUID

import numpy as np
from sqlalchemy import CursorResult, Select, and_, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from mien.backends.vectors.base import Change
from mien.features.collections.checks import policy_json
from mien.features.collections.records import Collection, ThresholdMove
from mien.features.collections.tables import ChangeRow, CollectionRow, FaceRow, PersonRow, ThresholdMoveRow
from mien.kit.errors import NotFound
from mien.kit.tenant import TenantId
from mien.vision.calibration import MatchPolicy, Threshold
from mien.vision.values import Space

C = CollectionRow
_COLUMNS = (
    C.id,
    C.name,
    C.description,
    C.facts,
    C.policy,
    C.space_model,
    C.space_recipe,
    C.space_alignment,
    C.space_dim,
    C.change_head,
    C.change_tail,
    C.face_count,
    C.threshold_score,
    C.threshold_gallery,
    C.created_at,
    C.updated_at,
)


def _collection(row: Any) -> Collection:
    (id_, name, description, facts, policy, model, recipe, alignment, dim, head, tail, faces, *rest) = row
    return Collection(
        id_,
        name,
        description,
        facts,
        MatchPolicy(**policy),
        Space(model, recipe, alignment, dim),
        head,
        tail,
        faces,
        *rest,
    )


def collection_named(session: Session, tenant: TenantId, name: str) -> Collection:
    """The same as `CollectionRepository.get`, on a plain session."""
    row = session.execute(_named(tenant, name)).first()
    if row is None:
        raise _unknown(name)
    return _collection(row)


def _named(tenant: TenantId, name: str) -> Select[Any]:
    return select(*_COLUMNS).where(C.tenant_id == tenant, C.name == name)


def _unknown(name: str) -> NotFound:
    return NotFound(f"There is no collection {name!r}.", collection=name)


class CollectionRepository:
    """Collections, changes and threshold moves of one tenant."""

    def __init__(self, session: AsyncSession, tenant: TenantId) -> None:
        self._session = session
        self._tenant = tenant

    # --- collections -----------------------------------------------------------------------------

    async def create(self, collection: Collection) -> None:
        """Store a new one; IntegrityError if the name is taken."""
        space = collection.space
        await self._session.execute(
            insert(C).values(
                tenant_id=self._tenant,
                id=collection.id,
                name=collection.name,
                description=collection.description,
                facts=dict(collection.facts),
                policy=policy_json(collection.policy),
                space_model=space.model,
                space_recipe=space.recipe,
                space_alignment=space.alignment,
                space_dim=space.dim,
                change_head=0,
                change_tail=0,
                face_count=0,
                threshold_score=collection.threshold_score,
                threshold_gallery=collection.threshold_gallery,
                created_at=collection.created_at,
                updated_at=collection.updated_at,
            )
        )

    async def find(self, name: str) -> Collection | None:
        row = (await self._session.execute(_named(self._tenant, name))).first()
        return None if row is None else _collection(row)

    async def get(self, name: str) -> Collection:
        """The collection of this name; NotFound if there is none."""
        found = await self.find(name)
        if found is None:
            raise _unknown(name)
        return found

    async def by_id(self, collection: UUID) -> Collection | None:
        row = (
            await self._session.execute(
                select(*_COLUMNS).where(C.tenant_id == self._tenant, C.id == collection)
            )
        ).first()
        return None if row is None else _collection(row)

    async def page(self, after: str, limit: int) -> list[Collection]:
        """Collections by name, after `after`."""
        rows = await self._session.execute(
            select(*_COLUMNS).where(C.tenant_id == self._tenant, C.name > after).order_by(C.name).limit(limit)
        )
        return [_collection(row) for row in rows]

    async def count(self) -> int:
        return (
            await self._session.execute(select(func.count(C.id)).where(C.tenant_id == self._tenant))
        ).scalar_one()

    async def change_fields(self, collection: UUID, fields: dict[str, Any], now: datetime) -> bool:
        """Set described fields (`description`, `facts`, `policy`); False if it is gone."""
        result = await self._session.execute(
            update(C)
            .where(C.tenant_id == self._tenant, C.id == collection)
            .values(updated_at=now, **fields)
            .execution_options(synchronize_session=False)
        )
        return _count(result) == 1

    async def delete(self, collection: UUID) -> bool:
        """Delete it with all that it holds."""
        for table in (ChangeRow, ThresholdMoveRow, FaceRow, PersonRow):
            await self._session.execute(
                delete(table)
                .where(table.tenant_id == self._tenant, table.collection_id == collection)
                .execution_options(synchronize_session=False)
            )
        result = await self._session.execute(
            delete(C)
            .where(C.tenant_id == self._tenant, C.id == collection)
            .execution_options(synchronize_session=False)
        )
        return _count(result) == 1

    # --- changes ---------------------------------------------------------------------------------

    async def lock(self, collection: UUID, now: datetime) -> Collection | None:
        """Take the row's lock until the transaction ends; the collection as it now stands."""
        return await self.advance(collection, 0, 0, now)

    async def advance(self, collection: UUID, changes: int, faces: int, now: datetime) -> Collection | None:
        """Take the row's lock and `changes` numbers; returns the collection after it, None if gone."""
        row = (
            await self._session.execute(
                update(C)
                .where(C.tenant_id == self._tenant, C.id == collection)
                .values(change_head=C.change_head + changes, face_count=C.face_count + faces, updated_at=now)
                .returning(*_COLUMNS)
                .execution_options(synchronize_session=False)
            )
        ).first()
        return None if row is None else _collection(row)

    async def add_changes(self, collection: UUID, changes: Sequence[tuple[int, int, bool]]) -> None:
        """Append (number, label, added)."""
        if changes:
            await self._session.execute(
                insert(ChangeRow),
                [
                    {
                        "tenant_id": self._tenant,
                        "collection_id": collection,
                        "number": number,
                        "label": label,
                        "added": added,
                    }
                    for number, label, added in changes
                ],
            )

    async def changes_after(self, collection: UUID, number: int, limit: int) -> list[Change]:
        """The next changes in order. An add whose face has gone comes without a vector."""
        rows = await self._session.execute(
            select(ChangeRow.number, ChangeRow.label, ChangeRow.added, FaceRow.embedding)
            .outerjoin(
                FaceRow,
                and_(
                    FaceRow.tenant_id == ChangeRow.tenant_id,
                    FaceRow.collection_id == ChangeRow.collection_id,
                    FaceRow.label == ChangeRow.label,
                ),
            )
            .where(
                ChangeRow.tenant_id == self._tenant,
                ChangeRow.collection_id == collection,
                ChangeRow.number > number,
            )
            .order_by(ChangeRow.number)
            .limit(limit)
        )
        return [
            Change(number, label, np.frombuffer(raw, dtype="<f4") if added and raw is not None else None)
            for number, label, added, raw in rows
        ]

    async def prune(self, collection: UUID, up_to: int) -> None:
        """Forget changes up to `up_to`; an index further behind is built anew."""
        await self._session.execute(
            delete(ChangeRow)
            .where(
                ChangeRow.tenant_id == self._tenant,
                ChangeRow.collection_id == collection,
                ChangeRow.number <= up_to,
            )
            .execution_options(synchronize_session=False)
        )
        await self._session.execute(
            update(C)
            .where(C.tenant_id == self._tenant, C.id == collection, C.change_tail < up_to)
            .values(change_tail=up_to)
            .execution_options(synchronize_session=False)
        )

    # --- thresholds ------------------------------------------------------------------------------

    async def record_move(
        self, id_: UUID, collection: UUID, threshold: Threshold, cause: str, faces: int, now: datetime
    ) -> None:
        """Keep a move of the threshold, and what now holds, with the collection."""
        await self._session.execute(
            insert(ThresholdMoveRow).values(
                tenant_id=self._tenant,
                id=id_,
                collection_id=collection,
                cause=cause,
                policy=policy_json(threshold.policy),
                score=threshold.score,
                fmr=threshold.fmr,
                fpir=threshold.fpir,
                fnmr=threshold.fnmr,
                gallery_size=threshold.gallery_size,
                face_count=faces,
                extrapolated=threshold.extrapolated,
                created_at=now,
            )
        )
        await self._session.execute(
            update(C)
            .where(C.tenant_id == self._tenant, C.id == collection)
            .values(threshold_score=threshold.score, threshold_gallery=threshold.gallery_size)
            .execution_options(synchronize_session=False)
        )

    async def moves(
        self, collection: UUID, before: UUID | None, limit: int
    ) -> list[tuple[UUID, ThresholdMove]]:
        """Moves of the threshold, newest first."""
        m = ThresholdMoveRow
        query = select(
            m.id,
            m.cause,
            m.policy,
            m.score,
            m.fmr,
            m.fpir,
            m.fnmr,
            m.gallery_size,
            m.face_count,
            m.extrapolated,
            m.created_at,
        ).where(m.tenant_id == self._tenant, m.collection_id == collection)
        if before is not None:
            query = query.where(m.id < before)
        rows = await self._session.execute(query.order_by(m.id.desc()).limit(limit))
        return [(id_, ThresholdMove(*rest)) for id_, *rest in rows]


def _count(result: object) -> int:
    return cast("CursorResult[Any]", result).rowcount


async def change_heads(session: AsyncSession) -> list[tuple[UUID, UUID, int]]:
    """(tenant, collection, head) of all collections; for the cross-tenant path "project" only."""
    rows = await session.execute(select(C.tenant_id, C.id, C.change_head))
    return [(tenant, collection, head) for tenant, collection, head in rows]
