"""Tenants and their API keys.

A key's text is `mien_<prefix>_<secret>`: 8 characters that find the row, then 256 random bits.
Only the SHA-256 of the text is stored: a random secret needs no slow hash (NIST SP 800-63B, 5.1.2.2,
asks for one only below 112 bits of entropy).
"""

import asyncio
import hashlib
import hmac
import re
import secrets
import string
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, cast
from uuid import UUID

from sqlalchemy.ext.asyncio import AsyncSession

from mien.backends.sql.base import Database
from mien.features.tenants import repository
from mien.features.tenants.tables import AccountRow, ApiKeyRow, TenantRow
from mien.kit.clock import Clock, utc_now
from mien.kit.errors import BadInput, Forbidden, NotFound, SetupError, Unauthenticated
from mien.kit.ids import new_id
from mien.kit.paging import Page, decode_cursor, encode_cursor
from mien.kit.tenant import Principal, Role, TenantId

DEFAULT_TENANT = "default"
KeyKind = Literal["admin", "service"]
SERVICE_ROLE: Role = "operator"

_ALPHABET = string.ascii_lowercase + string.digits
_TEXT = re.compile(r"mien_([a-z0-9]{8})_([A-Za-z0-9_-]{43})")
_CACHE_SIZE = 1024
_CACHE_AGE = timedelta(seconds=30)
_TOUCH_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Tenant:
    id: TenantId
    slug: str
    name: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key without its secret."""

    id: UUID
    name: str
    kind: str
    prefix: str
    role: Role
    scopes: tuple[str, ...]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class _Known:
    principal: Principal
    checked_at: datetime
    expires_at: datetime | None
    touched_at: datetime | None


class TenantsService:
    """Tenants, accounts and keys.

    An authentication is remembered for 30 s at most (1,024 keys at most); revoking a key forgets it.
    """

    def __init__(self, database: Database, *, clock: Clock = utc_now) -> None:
        self._database = database
        self._clock = clock
        self._known: OrderedDict[bytes, _Known] = OrderedDict()
        self._revocations = 0
        self._touches: set[asyncio.Task[None]] = set()

    async def bootstrap(self, *, with_key: bool = True) -> tuple[TenantId, str | None]:
        """Make the default tenant, its administrator and (`with_key`) a first key where they are missing.

        Returns the tenant and, only when this call made it, the key's text (it is not kept). A tenant
        that ever had a key gets none, also if all are revoked.
        """
        now = self._clock()
        async with self._database.across_tenants("bootstrap", write=True) as unit:
            found = await repository.tenant_by_slug(unit.session, DEFAULT_TENANT)
            text = None
            account: AccountRow | None
            if found is None:
                tenant_id, account = await self._first_tenant(unit.session, now)
            else:
                tenant_id = found.id
                account = await repository.first_account(unit.session, tenant_id, "system_admin")
            if with_key and account is not None and not await repository.any_key(unit.session, tenant_id):
                text, key = _new_key(tenant_id, account, "first administrator's key", "admin", (), now, None)
                unit.session.add(key)
        return TenantId(tenant_id), text

    async def _first_tenant(self, session: AsyncSession, now: datetime) -> tuple[UUID, AccountRow]:
        tenant = TenantRow(id=new_id(), slug=DEFAULT_TENANT, name="Default", created_at=now)
        account = AccountRow(
            tenant_id=tenant.id,
            id=new_id(),
            email="admin@localhost",
            name="Administrator",
            role="system_admin",
            created_at=now,
            disabled_at=None,
        )
        session.add(tenant)
        await session.flush()
        session.add(account)
        await session.flush()
        return tenant.id, account

    async def default_tenant(self) -> Tenant:
        """SetupError before the first `bootstrap`."""
        async with self._database.across_tenants("bootstrap") as unit:
            found = await repository.tenant_by_slug(unit.session, DEFAULT_TENANT)
        if found is None:
            raise SetupError("This data folder has no tenant yet; start the server once: mien serve")
        return _tenant(found)

    async def tenant(self, tenant: TenantId) -> Tenant:
        async with self._database.read(tenant) as unit:
            found = await repository.tenant_by_id(unit.session, tenant)
        if found is None:
            raise NotFound("This tenant is not there any more.")
        return _tenant(found)

    async def create_key(
        self,
        by: Principal,
        *,
        name: str,
        kind: KeyKind,
        scopes: tuple[str, ...] = (),
        expires_at: datetime | None = None,
    ) -> tuple[ApiKey, str]:
        """A new key of the tenant and its text, which is never to be had again.

        Forbidden unless an administrator asks; BadInput for an expiry that is not in the future.
        """
        _require_administrator(by)
        now = self._clock()
        if expires_at is not None and expires_at <= now:
            raise BadInput("The expiry lies in the past.", field="expires_at")
        async with self._database.write(by.tenant_id) as unit:
            account = await self._account_for(by, unit.session)
            text, row = _new_key(by.tenant_id, account, name, kind, scopes, now, expires_at)
            unit.session.add(row)
        return _key(row), text

    async def list_keys(self, by: Principal, *, cursor: str | None = None, limit: int = 100) -> Page[ApiKey]:
        _require_administrator(by)
        after = UUID(decode_cursor("keys", cursor)) if cursor else None
        async with self._database.read(by.tenant_id) as unit:
            rows = await repository.keys(unit.session, after, limit + 1)
        more = len(rows) > limit
        rows = rows[:limit]
        return Page(
            tuple(_key(row) for row in rows), encode_cursor("keys", str(rows[-1].id)) if more else None
        )

    async def revoke_key(self, by: Principal, key_id: UUID) -> ApiKey:
        """Revoked at once in this process, within 30 s in others. Twice changes nothing."""
        _require_administrator(by)
        async with self._database.write(by.tenant_id) as unit:
            row = await repository.key_by_id(unit.session, key_id)
            if row is None:
                raise NotFound(f"There is no key {key_id}.")
            row.revoked_at = row.revoked_at or self._clock()
        self._revocations += 1
        self._known = OrderedDict((d, k) for d, k in self._known.items() if k.principal.key_id != key_id)
        return _key(row)

    async def authenticate(self, text: str) -> Principal:
        """Who holds this key; Unauthenticated (always with the same words) if it does not hold."""
        match = _TEXT.fullmatch(text)
        if match is None:
            raise Unauthenticated("The API key is not valid.")
        digest = hashlib.sha256(text.encode()).digest()
        now = self._clock()
        known = self._known.get(digest)
        if known is None or now - known.checked_at > _CACHE_AGE:
            revocations = self._revocations
            known = await self._look_up(match[1], digest, now)
            if revocations == self._revocations:  # else what was read may be out of date by now
                self._known[digest] = known
                self._known.move_to_end(digest)
                while len(self._known) > _CACHE_SIZE:
                    self._known.popitem(last=False)
        if known.expires_at is not None and known.expires_at <= now:
            raise Unauthenticated("The API key is not valid.")
        if known.touched_at is None or now - known.touched_at > _TOUCH_EVERY:
            if digest in self._known:
                self._known[digest] = _Known(known.principal, known.checked_at, known.expires_at, now)
            self._touch(known.principal, now)
        return known.principal

    async def _look_up(self, prefix: str, digest: bytes, now: datetime) -> _Known:
        async with self._database.across_tenants("authenticate") as unit:
            found = await repository.key_by_prefix(unit.session, prefix)
        if found is None:
            raise Unauthenticated("The API key is not valid.")
        key, account = found
        if (
            not hmac.compare_digest(key.digest, digest)
            or key.revoked_at is not None
            or account.disabled_at is not None
        ):
            raise Unauthenticated("The API key is not valid.")
        principal = Principal(TenantId(key.tenant_id), cast(Role, key.role), key.id)
        return _Known(principal, now, key.expires_at, key.last_used_at)

    def _touch(self, principal: Principal, now: datetime) -> None:
        async def write() -> None:
            async with self._database.write(principal.tenant_id) as unit:
                assert principal.key_id is not None
                await repository.touch(unit.session, principal.key_id, now)

        task = asyncio.get_running_loop().create_task(write())
        self._touches.add(task)
        task.add_done_callback(self._touched)

    def _touched(self, task: asyncio.Task[None]) -> None:
        self._touches.discard(task)
        if not task.cancelled():
            task.exception()  # the time of last use is a hint; a busy database may lose one

    async def close(self) -> None:
        """Wait for the last times of use to be written."""
        if self._touches:
            await asyncio.wait(self._touches, timeout=5.0)

    async def _account_for(self, by: Principal, session: AsyncSession) -> AccountRow:
        if by.key_id is not None:
            key = await repository.key_by_id(session, by.key_id)
            account = None if key is None else await repository.account_by_id(session, key.account_id)
        else:
            account = await repository.first_account(session, by.tenant_id, "system_admin")
        if account is None:
            raise SetupError("The tenant has no administrator's account; restore one from a backup.")
        return account


def _require_administrator(by: Principal) -> None:
    if by.role not in {"system_admin", "tenant_admin"}:
        raise Forbidden("Only an administrator's key may do this.")


def _new_key(
    tenant_id: UUID,
    account: AccountRow,
    name: str,
    kind: KeyKind,
    scopes: tuple[str, ...],
    now: datetime,
    expires_at: datetime | None,
) -> tuple[str, ApiKeyRow]:
    prefix = "".join(secrets.choice(_ALPHABET) for _ in range(8))
    text = f"mien_{prefix}_{secrets.token_urlsafe(32)}"
    # An administrator's key acts with its account's role; a service's key never administers.
    role = account.role if kind == "admin" else SERVICE_ROLE
    row = ApiKeyRow(
        tenant_id=tenant_id,
        id=new_id(),
        account_id=account.id,
        kind=kind,
        name=name,
        prefix=prefix,
        digest=hashlib.sha256(text.encode()).digest(),
        role=role,
        scopes=list(scopes),
        created_at=now,
        expires_at=expires_at,
        revoked_at=None,
        last_used_at=None,
    )
    return text, row


def _tenant(row: TenantRow) -> Tenant:
    return Tenant(TenantId(row.id), row.slug, row.name, row.created_at)


def _key(row: ApiKeyRow) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        kind=row.kind,
        prefix=row.prefix,
        role=cast(Role, row.role),
        scopes=tuple(row.scopes),
        created_at=row.created_at,
        expires_at=row.expires_at,
        revoked_at=row.revoked_at,
        last_used_at=row.last_used_at,
    )
