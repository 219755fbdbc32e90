"""A migrated SQLite file with two tenants, and one row of every tenant table for each."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import JSON, Boolean, Float, Integer, LargeBinary, Uuid
from tests.unit.sql.all_tables import METADATA

from mien.backends.sql.base import UtcDateTime
from mien.backends.sql.guard import tenant_tables
from mien.backends.sql.sqlite import SqliteDatabase
from mien.features.tenants.tables import TenantRow
from mien.kit.clock import utc_now
from mien.kit.ids import new_id
from mien.kit.tenant import TenantId


@dataclass
class Two:
    """Two tenants on one database; `keys` holds the primary key of each one's row by table."""

    database: SqliteDatabase
    a: TenantId
    b: TenantId
    keys: dict[tuple[str, TenantId], dict[str, Any]]


def some_value(column: Any, seed: int) -> Any:
    """A value that the column takes; UUIDs and texts differ by seed."""
    match column.type:
        case Uuid():
            return UUID(int=seed + 1)
        case UtcDateTime():
            return datetime.fromisoformat("2026-01-02T03:04:05+00:00")
        case JSON():
            return {}
        case LargeBinary():
            return b"x"
        case Boolean():
            return False
        case Integer() | Float():
            return 1
    return f"text-{seed}"


def new_row(table: Any, tenant: TenantId, seed: int) -> dict[str, Any]:
    """A row whose references all point to the rows of the same seed."""
    row = {c.name: some_value(c, seed) for c in table.c if not c.nullable}
    row["tenant_id"] = tenant
    return row


async def two_tenants(path: Path) -> Two:
    database = SqliteDatabase(path / "mien.db")
    await database.migrate()
    a, b = TenantId(new_id()), TenantId(new_id())
    keys: dict[tuple[str, TenantId], dict[str, Any]] = {}
    async with database.across_tenants("bootstrap", write=True) as unit:
        for tenant, slug in ((a, "a"), (b, "b")):
            unit.session.add(TenantRow(id=tenant, slug=slug, name=slug, created_at=utc_now()))
        await unit.session.flush()
        for seed, tenant in enumerate((a, b)):
            for table in METADATA.sorted_tables:
                if table in tenant_tables():
                    row = new_row(table, tenant, seed)
                    await unit.session.execute(table.insert().values(row))
                    keys[table.name, tenant] = {c.name: row[c.name] for c in table.primary_key}
    return Two(database, a, b, keys)


@pytest.fixture
async def two(tmp_path: Path) -> AsyncIterator[Two]:
    made = await two_tenants(tmp_path)
    yield made
    await made.database.close()
