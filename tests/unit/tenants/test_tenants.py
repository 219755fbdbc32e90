"""Tenants and keys: made once, shown once, checked, revoked at once."""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from mien.backends.sql.sqlite import SqliteDatabase
from mien.features.tenants.service import TenantsService
from mien.features.tenants.tables import AccountRow, ApiKeyRow, TenantRow
from mien.kit.clock import utc_now
from mien.kit.errors import BadInput, Forbidden, NotFound, SetupError, Unauthenticated
from mien.kit.ids import new_id
from mien.kit.tenant import Principal, TenantId


class SetClock:
    def __init__(self) -> None:
        self.now = utc_now()

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[SqliteDatabase]:
    made = SqliteDatabase(tmp_path / "mien.db")
    await made.migrate()
    yield made
    await made.close()


async def test_the_first_start_makes_one_tenant_and_shows_its_key_once(database: SqliteDatabase) -> None:
    with pytest.raises(SetupError):
        await TenantsService(database).default_tenant()
    starts = await asyncio.gather(*(TenantsService(database).bootstrap() for _ in range(8)))
    assert len({tenant for tenant, _ in starts}) == 1
    (text,) = [key for _, key in starts if key is not None]
    assert re.fullmatch(r"mien_[a-z0-9]{8}_[A-Za-z0-9_-]{43}", text)
    who = await TenantsService(database).authenticate(text)
    assert who.tenant_id == starts[0][0]
    assert who.role == "system_admin"
    assert who.key_id is not None


async def test_only_the_digest_is_stored(database: SqliteDatabase, tmp_path: Path) -> None:
    _, text = await TenantsService(database).bootstrap()
    assert text is not None
    async with database.across_tenants("backup") as unit:
        row = (await unit.session.scalars(select(ApiKeyRow))).one()
    assert row.digest == hashlib.sha256(text.encode()).digest()
    secret = text.rpartition("_")[2].encode()
    files = [path.read_bytes() for path in tmp_path.glob("mien.db*")]  # noqa: ASYNC240
    assert files
    assert not any(secret in data for data in files)


@pytest.mark.parametrize(
    "text", ["", "mien_", "mien_abcdefgh_short", "Bearer x", "mien_abcdefgh_" + "é" * 43]
)
async def test_what_is_no_key_is_refused(database: SqliteDatabase, text: str) -> None:
    service = TenantsService(database)
    await service.bootstrap()
    with pytest.raises(Unauthenticated):
        await service.authenticate(text)


async def test_every_changed_character_is_refused(database: SqliteDatabase) -> None:
    service = TenantsService(database)
    _, text = await service.bootstrap()
    assert text is not None
    said = set()
    for at in range(len("mien_"), len(text)):
        wrong = text[:at] + ("a" if text[at] != "a" else "b") + text[at + 1 :]
        with pytest.raises(Unauthenticated) as refused:
            await service.authenticate(wrong)
        said.add(refused.value.message)
    assert len(said) == 1  # nothing tells a wrong prefix from a wrong secret
    await service.authenticate(text)


async def test_a_revoked_key_fails_at_once(database: SqliteDatabase) -> None:
    service = TenantsService(database)
    tenant, _ = await service.bootstrap()
    by = Principal(tenant, "system_admin")
    key, text = await service.create_key(by, name="door", kind="service")
    assert (await service.authenticate(text)).role == "operator"
    revoked = await service.revoke_key(by, key.id)
    assert revoked.revoked_at is not None
    with pytest.raises(Unauthenticated):
        await service.authenticate(text)
    await service.close()
    assert (await service.revoke_key(by, key.id)).revoked_at == revoked.revoked_at
    with pytest.raises(NotFound):
        await service.revoke_key(by, new_id())


async def test_a_revocation_beats_a_look_up_under_way(database: SqliteDatabase) -> None:
    """Whatever way the two fall, nothing is remembered past the revocation."""
    service = TenantsService(database)
    tenant, _ = await service.bootstrap()
    by = Principal(tenant, "system_admin")
    for _ in range(20):
        key, text = await service.create_key(by, name="k", kind="service")
        await asyncio.gather(
            service.authenticate(text), service.revoke_key(by, key.id), return_exceptions=True
        )
        with pytest.raises(Unauthenticated):
            await service.authenticate(text)
    await service.close()


async def test_a_key_expires_while_it_is_remembered(database: SqliteDatabase) -> None:
    clock = SetClock()
    service = TenantsService(database, clock=clock)
    tenant, _ = await service.bootstrap()
    by = Principal(tenant, "system_admin")
    _, text = await service.create_key(
        by, name="k", kind="service", expires_at=clock.now + timedelta(seconds=5)
    )
    await service.authenticate(text)
    clock.now += timedelta(seconds=5)
    with pytest.raises(Unauthenticated):
        await service.authenticate(text)
    with pytest.raises(BadInput):
        await service.create_key(by, name="k", kind="service", expires_at=clock.now)
    await service.close()


async def test_a_disabled_account_ends_its_keys(database: SqliteDatabase) -> None:
    clock = SetClock()
    service = TenantsService(database, clock=clock)
    tenant, text = await service.bootstrap()
    assert text is not None
    await service.authenticate(text)
    async with database.write(tenant) as unit:
        (await unit.session.scalars(select(AccountRow))).one().disabled_at = clock.now
    clock.now += timedelta(seconds=31)  # as long as another process remembers
    with pytest.raises(Unauthenticated):
        await service.authenticate(text)
    await service.close()


async def test_the_last_use_is_written_behind_and_seldom(database: SqliteDatabase) -> None:
    clock = SetClock()
    service = TenantsService(database, clock=clock)
    tenant, text = await service.bootstrap()
    assert text is not None
    by = Principal(tenant, "system_admin")
    first = clock.now
    for seconds in (0, 20, 40):
        clock.now = first + timedelta(seconds=seconds)
        await service.authenticate(text)
        await service.close()
    assert (await service.list_keys(by)).items[0].last_used_at == first
    clock.now = first + timedelta(seconds=61)
    await service.authenticate(text)
    await service.close()
    assert (await service.list_keys(by)).items[0].last_used_at == clock.now


async def test_only_administrators_touch_keys_and_only_their_tenants(database: SqliteDatabase) -> None:
    service = TenantsService(database)
    tenant, _ = await service.bootstrap()
    other = TenantId(new_id())
    async with database.across_tenants("bootstrap", write=True) as unit:
        unit.session.add(TenantRow(id=other, slug="other", name="Other", created_at=utc_now()))
    key, _ = await service.create_key(Principal(tenant, "system_admin"), name="k", kind="admin")
    for stranger in (Principal(tenant, "operator"), Principal(tenant, "worker")):
        with pytest.raises(Forbidden):
            await service.create_key(stranger, name="k", kind="service")
        with pytest.raises(Forbidden):
            await service.list_keys(stranger)
        with pytest.raises(Forbidden):
            await service.revoke_key(stranger, key.id)
    elsewhere = Principal(other, "tenant_admin")
    assert (await service.list_keys(elsewhere)).items == ()
    with pytest.raises(NotFound):
        await service.revoke_key(elsewhere, key.id)
    assert (await service.tenant(other)).slug == "other"


async def test_keys_are_listed_in_pages(database: SqliteDatabase) -> None:
    service = TenantsService(database)
    tenant, _ = await service.bootstrap()
    by = Principal(tenant, "tenant_admin")
    for i in range(6):
        await service.create_key(by, name=f"{i}", kind="service")
    first = await service.list_keys(by, limit=4)
    rest = await service.list_keys(by, limit=4, cursor=first.next_cursor)
    names = [key.name for key in (*first.items, *rest.items)]
    assert names[1:] == ["0", "1", "2", "3", "4", "5"]
    assert rest.next_cursor is None
