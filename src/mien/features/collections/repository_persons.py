"""Queries over persons."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ScalarSelect, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from mien.features.collections.records import Person
from mien.features.collections.tables import FaceRow, PersonRow
from mien.kit.errors import NotFound
from mien.kit.tenant import TenantId

P = PersonRow


def _person(row: Any) -> Person:
    return Person(*row)


class PersonRepository:
    """Persons of one tenant; one object per unit of work."""

    def __init__(self, session: AsyncSession, tenant: TenantId) -> None:
        self._session = session
        self._tenant = tenant

    def _face_count(self) -> ScalarSelect[int]:
        return (
            select(func.count(FaceRow.id))
            .where(
                FaceRow.tenant_id == self._tenant,
                FaceRow.collection_id == P.collection_id,
                FaceRow.person_id == P.id,
            )
            .correlate(P)
            .scalar_subquery()
        )

    def _columns(self) -> tuple[Any, ...]:
        return (
            P.id,
            P.name,
            P.kind,
            P.external_id,
            P.facts,
            self._face_count(),
            P.created_at,
            P.updated_at,
        )

    async def create(self, collection: UUID, person: Person) -> None:
        """Store a new one; IntegrityError if its external id is taken in the collection."""
        await self._session.execute(
            insert(P).values(
                tenant_id=self._tenant,
                id=person.id,
                collection_id=collection,
                name=person.name,
                kind=person.kind,
                external_id=person.external_id,
                facts=dict(person.facts),
                created_at=person.created_at,
                updated_at=person.updated_at,
            )
        )

    async def exists(self, collection: UUID, person: UUID) -> bool:
        row = await self._session.execute(
            select(P.id).where(P.tenant_id == self._tenant, P.collection_id == collection, P.id == person)
        )
        return row.first() is not None

    async def get(self, collection: UUID, person: UUID) -> Person:
        """NotFound if there is none."""
        row = (
            await self._session.execute(
                select(*self._columns()).where(
                    P.tenant_id == self._tenant, P.collection_id == collection, P.id == person
                )
            )
        ).first()
        if row is None:
            raise NotFound(f"There is no person {person} in this collection.", person_id=str(person))
        return _person(row)

    async def by_external_id(self, collection: UUID, external_id: str) -> UUID | None:
        row = (
            await self._session.execute(
                select(P.id).where(
                    P.tenant_id == self._tenant,
                    P.collection_id == collection,
                    P.external_id == external_id,
                )
            )
        ).first()
        return None if row is None else row[0]

    async def many(self, collection: UUID, persons: Sequence[UUID]) -> dict[UUID, Person]:
        rows = await self._session.execute(
            select(*self._columns()).where(
                P.tenant_id == self._tenant, P.collection_id == collection, P.id.in_(persons)
            )
        )
        return {row[0]: _person(row) for row in rows}

    async def page(
        self, collection: UUID, after: UUID | None, limit: int, *, kind: str | None, external_id: str | None
    ) -> list[Person]:
        """Persons in the order in which they were made."""
        query = select(*self._columns()).where(P.tenant_id == self._tenant, P.collection_id == collection)
        if after is not None:
            query = query.where(P.id > after)
        if kind is not None:
            query = query.where(P.kind == kind)
        if external_id is not None:
            query = query.where(P.external_id == external_id)
        rows = await self._session.execute(query.order_by(P.id).limit(limit))
        return [_person(row) for row in rows]

    async def count(self, collection: UUID) -> int:
        return (
            await self._session.execute(
                select(func.count(P.id)).where(P.tenant_id == self._tenant, P.collection_id == collection)
            )
        ).scalar_one()

    async def change_fields(
        self, collection: UUID, person: UUID, fields: dict[str, Any], now: datetime
    ) -> None:
        """Set fields; IntegrityError if an external id is taken."""
        await self._session.execute(
            update(P)
            .where(P.tenant_id == self._tenant, P.collection_id == collection, P.id == person)
            .values(updated_at=now, **fields)
            .execution_options(synchronize_session=False)
        )

    async def delete(self, collection: UUID, person: UUID) -> None:
        await self._session.execute(
            delete(P)
            .where(P.tenant_id == self._tenant, P.collection_id == collection, P.id == person)
            .execution_options(synchronize_session=False)
        )
