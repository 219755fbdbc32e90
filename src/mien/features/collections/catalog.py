"""Collections themselves: made, listed, described, changed, deleted."""

from typing import Any
from uuid import UUID

from sqlalchemy.exc import IntegrityError

from mien.backends.pipelines.base import Pipelines
from mien.backends.sql.base import Database
from mien.backends.vectors.base import VectorIndex
from mien.features.collections import checks
from mien.features.collections.limits import CollectionLimits
from mien.features.collections.projection import Projection
from mien.features.collections.records import Collection, Described, Facts, ThresholdMove
from mien.features.collections.repository import CollectionRepository
from mien.features.collections.repository_persons import PersonRepository
from mien.features.collections.thresholds import Thresholds
from mien.features.jobs.service import JobContext, JobsService
from mien.kit.clock import Clock
from mien.kit.errors import BadInput, Conflict, NotFound, Unavailable
from mien.kit.ids import new_id
from mien.kit.paging import Page, decode_cursor, encode_cursor
from mien.kit.tenant import TenantId
from mien.vision.calibration import MatchPolicy

DROP_INDEX = "collections.drop_index"


class Catalog:
    """The collections of each tenant."""

    def __init__(
        self,
        database: Database,
        vectors: VectorIndex,
        pipelines: Pipelines,
        jobs: JobsService,
        projection: Projection,
        thresholds: Thresholds,
        clock: Clock,
        limits: CollectionLimits,
    ) -> None:
        self._database = database
        self._vectors = vectors
        self._pipelines = pipelines
        self._jobs = jobs
        self._projection = projection
        self._thresholds = thresholds
        self._clock = clock
        self._limits = limits

    def register(self) -> None:
        """Say that this carries out the catalog's jobs."""
        self._jobs.register(DROP_INDEX, self._drop_index)

    async def create(
        self,
        tenant: TenantId,
        name: str,
        *,
        description: str = "",
        facts: Facts | None = None,
        policy: MatchPolicy | None = None,
    ) -> Collection:
        """A new, empty collection in the space of the models in use.

        BadInput for a bad name or metadata, or if the policy needs a calibration table that the space
        does not have; Conflict if the name is taken or the tenant has as many as it may.
        """
        checks.collection_name(name, self._limits)
        checks.text(description, "description", self._limits.text_length)
        space = self._pipelines.space
        policy = policy or MatchPolicy()
        threshold = self._thresholds.at(space.key, policy, 0)
        now = self._clock()
        collection = Collection(
            id=new_id(),
            name=name,
            description=description,
            facts=checks.facts(facts or {}, self._limits),
            policy=policy,
            space=space,
            change_head=0,
            change_tail=0,
            face_count=0,
            threshold_score=threshold.score,
            threshold_gallery=threshold.gallery_size,
            created_at=now,
            updated_at=now,
        )
        taken = Conflict(f"There is already a collection {name!r}.", collection=name)
        try:
            async with self._database.write(tenant) as unit:
                repository = CollectionRepository(unit.session, tenant)
                if await repository.find(name) is not None:
                    raise taken
                if await repository.count() >= self._limits.collections:
                    raise Conflict(f"A tenant has at most {self._limits.collections} collections.")
                await repository.create(collection)
                await repository.record_move(new_id(), collection.id, threshold, "created", 0, now)
        except IntegrityError:
            raise taken from None
        return collection

    async def get(self, tenant: TenantId, name: str) -> Collection:
        """NotFound if there is none of this name."""
        async with self._database.read(tenant) as unit:
            return await CollectionRepository(unit.session, tenant).get(name)

    async def page(
        self, tenant: TenantId, *, limit: int = 100, cursor: str | None = None
    ) -> Page[Collection]:
        """Collections by name."""
        limit = page_size(limit, self._limits)
        after = "" if cursor is None else decode_cursor("collections", cursor)
        async with self._database.read(tenant) as unit:
            found = await CollectionRepository(unit.session, tenant).page(after, limit + 1)
        return Page(
            tuple(found[:limit]),
            encode_cursor("collections", found[limit - 1].name) if len(found) > limit else None,
        )

    async def describe(self, tenant: TenantId, name: str) -> Described:
        """A collection with its counts, its threshold now and the state of its index."""
        async with self._database.read(tenant) as unit:
            collection = await CollectionRepository(unit.session, tenant).get(name)
            persons = await PersonRepository(unit.session, tenant).count(collection.id)
        kind, live, applied, memory = None, 0, 0, 0
        try:
            stats = await self._vectors.stats(tenant, collection.ref)
            kind, live, applied, memory = stats.kind, stats.live, stats.applied, stats.memory_bytes
        except Unavailable:
            pass  # the rest is true all the same
        return Described(
            collection=collection,
            person_count=persons,
            threshold=self._thresholds.of(collection),
            index_kind=kind,
            index_live=live,
            index_applied=applied,
            index_memory_bytes=memory,
        )

    async def thresholds(
        self, tenant: TenantId, name: str, *, limit: int = 100, cursor: str | None = None
    ) -> Page[ThresholdMove]:
        """How the collection's own threshold moved, newest first."""
        limit = page_size(limit, self._limits)
        async with self._database.read(tenant) as unit:
            repository = CollectionRepository(unit.session, tenant)
            collection = await repository.get(name)
            query = f"thresholds:{collection.id}"
            before = None if cursor is None else cursor_id(query, cursor)
            found = await repository.moves(collection.id, before, limit + 1)
        return Page(
            tuple(move for _, move in found[:limit]),
            encode_cursor(query, str(found[limit - 1][0])) if len(found) > limit else None,
        )

    async def update(
        self,
        tenant: TenantId,
        name: str,
        *,
        description: str | None = None,
        facts: Facts | None = None,
        policy: MatchPolicy | None = None,
    ) -> Collection:
        """Change what is given (None: as it was); another policy moves the threshold at once."""
        fields: dict[str, Any] = {}
        if description is not None:
            fields["description"] = checks.text(description, "description", self._limits.text_length)
        if facts is not None:
            fields["facts"] = checks.facts(facts, self._limits)
        if policy is not None:
            fields["policy"] = checks.policy_json(policy)
        now = self._clock()
        async with self._database.write(tenant) as unit:
            repository = CollectionRepository(unit.session, tenant)
            before = await repository.lock((await repository.get(name)).id, now)
            if before is None:
                raise gone(name)
            if fields:
                await repository.change_fields(before.id, fields, now)
            after = await repository.by_id(before.id)
            if after is None:
                raise gone(name)
            if after.policy != before.policy:
                await self._thresholds.record(repository, after, "policy_changed", now)
        return await self.get(tenant, name)

    async def delete(self, tenant: TenantId, name: str) -> None:
        """Delete a collection with all its faces, persons and its index."""
        async with self._database.write(tenant) as unit:
            repository = CollectionRepository(unit.session, tenant)
            collection = await repository.get(name)
            # The lock first: a photo that is being stored is then wholly before or wholly refused.
            await repository.lock(collection.id, self._clock())
            if not await repository.delete(collection.id):
                raise gone(name)
            # A job of the same transaction: a crash now leaves no biometric data in an index file.
            await self._jobs.enqueue(unit, tenant, DROP_INDEX, {"collection_id": str(collection.id)})

    async def _drop_index(self, context: JobContext) -> dict[str, Any]:
        await self._projection.drop(context.tenant, UUID(context.payload["collection_id"]))
        return {}


def gone(name: str) -> NotFound:
    """For a collection that was deleted while something was under way in it."""
    return NotFound(f"The collection {name!r} was deleted meanwhile.", collection=name)


def page_size(limit: int, limits: CollectionLimits) -> int:
    """A page's size within bounds; BadInput otherwise."""
    if not 1 <= limit <= limits.page:
        raise BadInput(f"limit must be from 1 to {limits.page}.", field="limit")
    return limit


def cursor_id(query: str, cursor: str) -> UUID:
    """The id that a cursor of `query` stands behind."""
    position = decode_cursor(query, cursor)
    try:
        return UUID(position)
    except ValueError:
        raise BadInput("The cursor is damaged; start again without one.", field="cursor") from None


def cursor_number(query: str, cursor: str) -> int:
    """The number that a cursor of `query` stands behind."""
    position = decode_cursor(query, cursor)
    if not position.isascii() or not position.isdigit() or len(position) > 18:
        raise BadInput("The cursor is damaged; start again without one.", field="cursor")
    return int(position)
