"""The packaged migrations give exactly the schema of the tables, from any version, once."""

from __future__ import annotations

import asyncio
import filecmp
import shutil
import sqlite3
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine
from tests.unit.sql.all_tables import METADATA

from mien.backends.sql.sqlite import SqliteDatabase
from mien.kit.errors import SetupError
from mien.migrations import run


async def migrated(path: Path) -> None:
    database = SqliteDatabase(path)
    await database.migrate()
    await database.ping()
    await database.close()


def version(path: Path) -> str:
    connection = sqlite3.connect(path)
    try:
        (found,) = connection.execute("SELECT version_num FROM alembic_version").fetchone()
    finally:
        connection.close()
    return str(found)


async def test_the_schema_is_that_of_the_tables(tmp_path: Path) -> None:
    await migrated(tmp_path / "mien.db")
    engine = create_engine(f"sqlite:///{tmp_path / 'mien.db'}")
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        assert compare_metadata(context, METADATA) == []
    engine.dispose()


async def test_every_older_version_is_brought_up(tmp_path: Path) -> None:
    scripts = ScriptDirectory.from_config(run._config())
    revisions = [script.revision for script in scripts.walk_revisions()]
    assert len(revisions) >= 2
    for revision in revisions:
        path = tmp_path / f"{revision}.db"
        engine = create_engine(f"sqlite:///{path}")
        with engine.begin() as connection:
            config = run._config()
            config.attributes["connection"] = connection
            command.upgrade(config, revision)
        engine.dispose()
        assert version(path) == revision
        await migrated(path)
        assert version(path) == run.newest()


async def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "mien.db"
    await migrated(path)
    before = tmp_path / "before.db"
    shutil.copy(path, before)
    await migrated(path)
    assert filecmp.cmp(path, before, shallow=False)


async def test_two_migrations_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mien.db"
    databases = [SqliteDatabase(path) for _ in range(4)]
    await asyncio.gather(*(database.migrate() for database in databases))
    for database in databases:
        await database.close()
    assert version(path) == run.newest()


async def test_a_schema_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "mien.db"
    await migrated(path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE alembic_version SET version_num = '9999_later'")
    connection.commit()
    connection.close()
    database = SqliteDatabase(path)
    with pytest.raises(SetupError, match="newer version"):
        await database.migrate()
    await database.close()
    assert version(path) == "9999_later"


async def test_the_file_is_for_its_owner_only(tmp_path: Path) -> None:
    await migrated(tmp_path / "mien.db")
    assert (tmp_path / "mien.db").stat().st_mode & 0o777 == 0o600
