"""Idempotency keys: a write that is sent again gets the first answer again.

`begin` reserves a key before the work, `finish` keeps the answer, `abandon` frees the key when the
answer is not worth keeping. A reservation whose process died is taken over: its work may have been
committed without its answer, so a client that was cut off by a crash has to look before it trusts.
"""

import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from mien.backends.sql.base import Database
from mien.features.jobs import idempotency_repository as repository
from mien.kit.clock import Clock, utc_now
from mien.kit.errors import BadInput, Busy, Conflict
from mien.kit.ids import new_id
from mien.kit.tenant import TenantId

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 1 << 20
_TRIM_EVERY = 64
_SWEEP_BATCH = 500


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """The first answer: HTTP status, the headers worth repeating, the body (at most 1 MiB)."""

    status: int
    headers: dict[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class IdempotencyLimits:
    """At most `keys` keys and `body_bytes` of answers of one tenant; the oldest answers go first.

    A reservation of another process is taken over after `take_over_s`, or at once where this process
    is the only one on the database (`alone`: an embedded data folder).
    """

    keys: int = 10_000
    body_bytes: int = 256 << 20
    take_over_s: float = 600.0
    alone: bool = True


class IdempotencyService:
    """See the module. `keep` is how long an answer is kept."""

    def __init__(
        self,
        database: Database,
        *,
        keep: timedelta = timedelta(hours=24),
        limits: IdempotencyLimits | None = None,
        clock: Clock = utc_now,
    ) -> None:
        self._database = database
        self._keep = keep
        self._limits = limits or IdempotencyLimits()
        self._clock = clock
        self._owner = new_id()
        self._begun = 0

    async def begin(self, tenant: TenantId, key: str, fingerprint: bytes) -> StoredAnswer | None:
        """Reserve `key` for a request with this `fingerprint` (SHA-256 of what was asked).

        None: go on, then `finish` or `abandon`. A StoredAnswer: give it again. Raises Conflict while
        the first request runs, BadInput when the key belongs to another request, Busy when the tenant
        has too many requests with keys under way.
        """
        now = self._clock()
        self._begun += 1
        try:
            async with self._database.write(tenant) as unit:
                found = await repository.find(unit.session, key)
                if found is not None and found.expires_at > now:
                    if found.fingerprint != fingerprint:
                        raise BadInput(
                            "This Idempotency-Key was used for another request; take a new one.",
                            field="Idempotency-Key",
                        )
                    if found.status is not None:
                        return StoredAnswer(found.status, dict(found.headers or {}), found.body or b"")
                    if not self._is_lost(found.owner, found.created_at, now):
                        raise Conflict("The first request with this Idempotency-Key is still running.")
                if found is not None:
                    await repository.delete(unit.session, key)
                elif self._begun % _TRIM_EVERY == 1:
                    await self._trim(unit.session, tenant, now)
                await repository.add(
                    unit.session, tenant, key, fingerprint, self._owner, now, now + self._keep
                )
        except IntegrityError:
            # Another process reserved it between our look and our write.
            raise Conflict("The first request with this Idempotency-Key is still running.") from None
        return None

    async def finish(self, tenant: TenantId, key: str, answer: StoredAnswer) -> None:
        """Keep the answer. ValueError if its body is over 1 MiB."""
        if len(answer.body) > MAX_BODY_BYTES:
            raise ValueError("an answer of over 1 MiB is not kept")
        async with self._database.write(tenant) as unit:
            kept = await repository.keep(
                unit.session, key, self._owner, answer.status, answer.headers, answer.body
            )
        if not kept:
            log.warning("an idempotency key was taken over before its answer came")

    async def abandon(self, tenant: TenantId, key: str) -> None:
        """Free a key that this process reserved; a kept answer stays."""
        async with self._database.write(tenant) as unit:
            await repository.release(unit.session, key, self._owner)

    async def sweep(self) -> int:
        """Forget expired keys of all tenants; returns how many. In batches, so that no writer waits long."""
        total = 0
        while True:
            async with self._database.across_tenants("sweep", write=True) as unit:
                gone = await repository.delete_expired(unit.session, self._clock(), _SWEEP_BATCH)
            total += gone
            if gone < _SWEEP_BATCH:
                return total

    def _is_lost(self, owner: UUID, created_at: datetime, now: datetime) -> bool:
        if owner == self._owner:
            return False
        return self._limits.alone or created_at <= now - timedelta(seconds=self._limits.take_over_s)

    async def _trim(self, session: AsyncSession, tenant: TenantId, now: datetime) -> None:
        """Hold the tenant to its limits: expired keys go, then the oldest answers, half at a time."""
        await repository.delete_expired(session, now, _SWEEP_BATCH)
        keys, size = await repository.measure(session)
        while keys >= self._limits.keys or size > self._limits.body_bytes:
            if not await repository.delete_oldest_answers(session, max(1, keys // 2)):
                raise Busy("Too many requests with an Idempotency-Key are under way.", retry_after_s=5.0)
            keys, size = await repository.measure(session)
