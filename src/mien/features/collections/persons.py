"""Persons of a collection: made, changed, given faces, and searched for."""

from collections import defaultdict
from typing import Any, Literal
from uuid import UUID

import numpy as np
from numpy.typing import NDArray
from sqlalchemy.exc import IntegrityError

from mien.backends.sql.base import Database
from mien.features.collections import checks
from mien.features.collections.catalog import cursor_id, gone, page_size
from mien.features.collections.limits import CollectionLimits
from mien.features.collections.records import (
    Collection,
    Facts,
    FoundPersons,
    Match,
    Person,
    PersonMatch,
    Probe,
    SearchRequest,
)
from mien.features.collections.repository import CollectionRepository
from mien.features.collections.repository_faces import FaceRepository
from mien.features.collections.repository_persons import PersonRepository
from mien.features.collections.search import EMPTY, NO_FACE, NO_GOOD_FACE, Search
from mien.features.collections.thresholds import Thresholds
from mien.kit.clock import Clock
from mien.kit.errors import BadInput, Conflict
from mien.kit.ids import new_id
from mien.kit.paging import Page, encode_cursor
from mien.kit.tenant import TenantId

_HITS = 1000
"""Hits per probe among which persons are looked for; over the default threshold there are few."""
_MOST_PERSONS = 100


class Persons:
    """The identities of each collection. A face belongs to at most one person."""

    def __init__(
        self,
        database: Database,
        search: Search,
        thresholds: Thresholds,
        clock: Clock,
        limits: CollectionLimits,
    ) -> None:
        self._database = database
        self._search = search
        self._thresholds = thresholds
        self._clock = clock
        self._limits = limits

    async def create(
        self,
        tenant: TenantId,
        name: str,
        *,
        person_name: str = "",
        kind: str = "",
        external_id: str | None = None,
        facts: Facts | None = None,
    ) -> Person:
        """A new person; Conflict if the external id is taken in the collection."""
        fields = self._fields(person_name, kind, external_id, facts)
        now = self._clock()
        person = Person(
            id=new_id(),
            name=person_name,
            kind=kind,
            external_id=external_id,
            facts=fields["facts"] if facts is not None else {},
            face_count=0,
            created_at=now,
            updated_at=now,
        )
        try:
            async with self._database.write(tenant) as unit:
                collection = await CollectionRepository(unit.session, tenant).get(name)
                repository = PersonRepository(unit.session, tenant)
                if external_id is not None and await repository.by_external_id(collection.id, external_id):
                    raise _taken(external_id)
                if await repository.count(collection.id) >= self._limits.persons_per_collection:
                    raise Conflict(f"A collection has at most {self._limits.persons_per_collection} persons.")
                await repository.create(collection.id, person)
        except IntegrityError:
            raise _taken(external_id) from None
        return person

    async def ensure(self, tenant: TenantId, name: str, external_id: str, person_name: str) -> UUID:
        """The person of this external id, made if there is none yet."""
        async with self._database.read(tenant) as unit:
            collection = await CollectionRepository(unit.session, tenant).get(name)
            found = await PersonRepository(unit.session, tenant).by_external_id(collection.id, external_id)
        if found is not None:
            return found
        try:
            return (await self.create(tenant, name, person_name=person_name, external_id=external_id)).id
        except Conflict:
            async with self._database.read(tenant) as unit:
                found = await PersonRepository(unit.session, tenant).by_external_id(
                    collection.id, external_id
                )
            if found is None:
                raise
            return found

    async def get(self, tenant: TenantId, name: str, person: UUID) -> Person:
        """NotFound if the collection or the person is not there."""
        async with self._database.read(tenant) as unit:
            collection = await CollectionRepository(unit.session, tenant).get(name)
            return await PersonRepository(unit.session, tenant).get(collection.id, person)

    async def page(
        self,
        tenant: TenantId,
        name: str,
        *,
        limit: int = 100,
        cursor: str | None = None,
        kind: str | None = None,
        external_id: str | None = None,
    ) -> Page[Person]:
        """Persons in the order in which they were made."""
        limit = page_size(limit, self._limits)
        self._fields(None, kind, external_id, None)
        async with self._database.read(tenant) as unit:
            collection = await CollectionRepository(unit.session, tenant).get(name)
            query = f"persons:{collection.id}:{kind!r}:{external_id!r}"
            found = await PersonRepository(unit.session, tenant).page(
                collection.id,
                None if cursor is None else cursor_id(query, cursor),
                limit + 1,
                kind=kind,
                external_id=external_id,
            )
        return Page(
            tuple(found[:limit]),
            encode_cursor(query, str(found[limit - 1].id)) if len(found) > limit else None,
        )

    async def update(
        self,
        tenant: TenantId,
        name: str,
        person: UUID,
        *,
        person_name: str | None = None,
        kind: str | None = None,
        external_id: str | None = None,
        facts: Facts | None = None,
    ) -> Person:
        """Change what is given (None: as it was)."""
        fields = self._fields(person_name, kind, external_id, facts)
        try:
            async with self._database.write(tenant) as unit:
                collection = await CollectionRepository(unit.session, tenant).get(name)
                repository = PersonRepository(unit.session, tenant)
                await repository.get(collection.id, person)
                await repository.change_fields(collection.id, person, fields, self._clock())
                return await repository.get(collection.id, person)
        except IntegrityError:
            raise _taken(external_id) from None

    async def delete(self, tenant: TenantId, name: str, person: UUID) -> None:
        """Delete a person; the faces stay in the collection, without a person."""
        async with self._database.write(tenant) as unit:
            collection = await self._locked(CollectionRepository(unit.session, tenant), name)
            repository = PersonRepository(unit.session, tenant)
            await repository.get(collection.id, person)
            await FaceRepository(unit.session, tenant).detach_all(collection.id, person)
            await repository.delete(collection.id, person)

    async def attach(
        self, tenant: TenantId, name: str, person: UUID, faces: list[UUID]
    ) -> tuple[list[UUID], list[UUID]]:
        """Give faces to a person, also such as had another; returns (attached, not found)."""
        return await self._set(tenant, name, person, faces, attach=True)

    async def detach(
        self, tenant: TenantId, name: str, person: UUID, faces: list[UUID]
    ) -> tuple[list[UUID], list[UUID]]:
        """Take faces from a person; returns (detached, not found among the person's faces)."""
        return await self._set(tenant, name, person, faces, attach=False)

    async def _set(
        self, tenant: TenantId, name: str, person: UUID, faces: list[UUID], *, attach: bool
    ) -> tuple[list[UUID], list[UUID]]:
        if not 1 <= len(faces) <= self._limits.ids:
            raise BadInput(f"Give 1 to {self._limits.ids} face ids.", field="face_ids")
        wanted = list(dict.fromkeys(faces))
        async with self._database.write(tenant) as unit:
            collection = await self._locked(CollectionRepository(unit.session, tenant), name)
            await PersonRepository(unit.session, tenant).get(collection.id, person)
            rows = FaceRepository(unit.session, tenant)
            there = await rows.labels_of(collection.id, wanted)
            done = [face for face in wanted if face in there and (attach or there[face][1] == person)]
            if done:
                await rows.set_person(collection.id, done, person if attach else None)
        return done, [face for face in wanted if face not in done]

    # --- search ------------------------------------------------------------------------------------

    async def search_photo(
        self,
        tenant: TenantId,
        name: str,
        photo: bytes,
        request: SearchRequest,
        *,
        sort: Literal["best", "mean"] = "best",
    ) -> FoundPersons:
        """Persons for every face of a photo.

        A person is found by a face of theirs at or over the threshold; `best` and `mean` are over all
        of their faces, and `sort` says by which of both they are ranked.
        """
        self._check(request)
        collection = await self._search.open(tenant, name)
        analysis = await self._search.analyze(tenant, photo, request)
        probes, left_out, size = self._search.probes(collection, analysis, request)
        note = None if probes else (NO_GOOD_FACE if left_out else NO_FACE)
        found = await self._found(tenant, collection, probes, request, sort)
        return FoundPersons(
            collection=collection,
            threshold=found.threshold,
            results=found.results,
            unsearched=left_out,
            width=size[0],
            height=size[1],
            note=note or found.note,
        )

    async def search_face(
        self,
        tenant: TenantId,
        name: str,
        face: UUID,
        request: SearchRequest,
        *,
        sort: Literal["best", "mean"] = "best",
    ) -> FoundPersons:
        """Persons for a stored face. Its own score of 1 counts where it belongs to a person."""
        self._check(request)
        collection = await self._search.open(tenant, name)
        stored = await self._search.stored(tenant, collection, face)
        probe = Probe("face", stored.vector, face_id=face)
        return await self._found(tenant, collection, [probe], request, sort)

    async def _found(
        self,
        tenant: TenantId,
        collection: Collection,
        probes: list[Probe],
        request: SearchRequest,
        sort: Literal["best", "mean"],
    ) -> FoundPersons:
        threshold = self._thresholds.of(collection, request.policy)
        nearest = await self._search.nearest(tenant, collection, probes, _HITS, threshold.score)
        best: list[dict[UUID, Match]] = []
        for matches in nearest:
            firsts: dict[UUID, Match] = {}
            for match in matches:
                if match.person_id is not None and len(firsts) < _MOST_PERSONS:
                    firsts.setdefault(match.person_id, match)
            best.append(firsts)
        candidates = list({person for firsts in best for person in firsts})
        if not candidates:
            note = EMPTY if collection.face_count == 0 else None
            return FoundPersons(collection, threshold, tuple((probe, ()) for probe in probes), note=note)
        async with self._database.read(tenant) as unit:
            persons = await PersonRepository(unit.session, tenant).many(collection.id, candidates)
            vectors = await FaceRepository(unit.session, tenant).vectors_of_persons(
                collection.id, candidates, self._limits.person_faces
            )
        templates: dict[UUID, list[NDArray[np.float32]]] = defaultdict(list)
        for owner, vector in vectors:
            templates[owner].append(vector)
        stacks = {owner: np.stack(found) for owner, found in templates.items()}
        results = tuple(
            (probe, self._rank(collection, probe, firsts, persons, stacks, request.max_matches, sort))
            for probe, firsts in zip(probes, best, strict=True)
        )
        return FoundPersons(collection, threshold, results)

    def _rank(
        self,
        collection: Collection,
        probe: Probe,
        firsts: dict[UUID, Match],
        persons: dict[UUID, Person],
        stacks: dict[UUID, NDArray[np.float32]],
        most: int,
        sort: Literal["best", "mean"],
    ) -> tuple[PersonMatch, ...]:
        table = self._thresholds.table(collection.space.key)
        ranked = []
        for id_, first in firsts.items():
            if id_ not in persons or id_ not in stacks:
                continue  # deleted or detached meanwhile
            scores = stacks[id_] @ probe.vector
            ranked.append(
                PersonMatch(
                    person=persons[id_],
                    best=first.score,
                    mean=min(first.score, float(scores.mean())),
                    similarity=table.similarity(first.score) if table else None,
                    fmr=table.fmr(first.score) if table else None,
                    best_face_id=first.face_id,
                )
            )
        ranked.sort(key=lambda m: (-m.best, -m.mean) if sort == "best" else (-m.mean, -m.best))
        return tuple(ranked[:most])

    # --- inside ------------------------------------------------------------------------------------

    async def _locked(self, repository: CollectionRepository, name: str) -> Collection:
        """The collection under its lock, so that faces and persons don't move meanwhile."""
        collection = await repository.get(name)
        locked = await repository.lock(collection.id, self._clock())
        if locked is None:
            raise gone(name)
        return locked

    def _check(self, request: SearchRequest) -> None:
        if not 1 <= request.max_matches <= _MOST_PERSONS:
            raise BadInput(f"max_matches must be from 1 to {_MOST_PERSONS}.", field="max_matches")
        if not 1 <= request.max_faces <= self._limits.faces_per_photo:
            raise BadInput(f"max_faces must be from 1 to {self._limits.faces_per_photo}.", field="max_faces")
        if not request.filters.empty:
            raise BadInput("A search for persons takes no filters.", field="filters")

    def _fields(
        self, person_name: str | None, kind: str | None, external_id: str | None, facts: Facts | None
    ) -> dict[str, Any]:
        limits = self._limits
        fields: dict[str, Any] = {}
        if person_name is not None:
            fields["name"] = checks.text(person_name, "name", limits.text_length)
        if kind is not None:
            fields["kind"] = checks.text(kind, "kind", 64)
        if external_id is not None:
            fields["external_id"] = checks.text(
                external_id, "external_id", limits.external_id_length, empty=False
            )
        if facts is not None:
            fields["facts"] = checks.facts(facts, limits)
        return fields


def _taken(external_id: str | None) -> Conflict:
    return Conflict(f"There is already a person with the external id {external_id!r} in this collection.")
