"""A process that writes rows for ever, inside a job, and prints each once its commit is acknowledged.

It is started by test_sqlite.py and ends by kill -9 only.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import sys
from pathlib import Path
from typing import Any

from mien.backends.queue.inline import InlineJobQueue
from mien.backends.sql.sqlite import SqliteDatabase
from mien.features.jobs.service import JobContext, JobsService
from mien.features.tenants.service import TenantsService
from mien.features.tenants.tables import AccountRow
from mien.kit.clock import utc_now
from mien.kit.ids import new_id


async def main(folder: Path) -> None:
    database = SqliteDatabase(folder / "mien.db")
    await database.migrate()
    tenant, _ = await TenantsService(database).bootstrap()
    jobs = JobsService(database, InlineJobQueue())

    async def write_for_ever(context: JobContext) -> dict[str, Any]:
        for i in itertools.count():
            email = f"{os.getpid()}-{i}@example.org"
            async with database.write(tenant) as unit:
                unit.session.add(
                    AccountRow(
                        tenant_id=tenant,
                        id=new_id(),
                        email=email,
                        name="",
                        role="worker",
                        created_at=utc_now(),
                    )
                )
            sys.stdout.write(email + "\n")
            sys.stdout.flush()
            await context.progress(i)
        return {}

    jobs.register("crash", write_for_ever)
    # Not `start`: the jobs of the processes before are left for the test to take up.
    async with database.write(tenant) as unit:
        job = await jobs.enqueue(unit, tenant, "crash", {}, max_attempts=10)
    await jobs.run(job.id)


asyncio.run(main(Path(sys.argv[1])))
