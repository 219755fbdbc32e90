"""`/v1/keys`, `/v1/tenants/me` and `/v1/jobs` over HTTP, with real services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI, Header
from tests.unit.jobs.conftest import Office, close_office, open_office

from mien.features.jobs import endpoints as job_endpoints
from mien.features.tenants import endpoints as tenant_endpoints
from mien.features.tenants.service import TenantsService
from mien.kit.tenant import Principal


@pytest.fixture
async def served(tmp_path: Path) -> AsyncIterator[tuple[httpx.AsyncClient, Office]]:
    """A client with an administrator's key."""
    office = await open_office(tmp_path)
    tenants = TenantsService(office.database)
    _, text = await tenants.create_key(Principal(office.tenant, "system_admin"), name="test", kind="admin")

    async def authenticate(key: str = Header()) -> Principal:
        return await tenants.authenticate(key)

    app = FastAPI()
    app.include_router(tenant_endpoints.router(tenants, authenticate))
    app.include_router(job_endpoints.router(office.jobs, authenticate))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(
        transport=transport, base_url="http://mien", headers={"key": text}
    ) as client:
        yield client, office
    await tenants.close()
    await close_office(office)


async def test_a_key_is_made_used_and_revoked(served: tuple[httpx.AsyncClient, Office]) -> None:
    client, office = served
    me = (await client.get("/v1/tenants/me")).json()
    assert (me["id"], me["slug"], me["role"]) == (str(office.tenant), "default", "system_admin")
    answer = await client.post("/v1/keys", json={"name": "door", "kind": "service"})
    assert answer.status_code == 201
    made = answer.json()
    assert made["key"].startswith(f"mien_{made['prefix']}_")
    as_door = await client.get("/v1/tenants/me", headers={"key": made["key"]})
    assert as_door.json()["role"] == "operator"
    listed = (await client.get("/v1/keys")).json()
    assert [key["name"] for key in listed["keys"]][-1] == "door"
    assert made["key"] not in str(listed)
    revoked = await client.post(f"/v1/keys/{made['id']}/revoke")
    assert revoked.json()["revoked_at"] is not None


@pytest.mark.parametrize(
    "body", [{}, {"name": ""}, {"name": "x", "kind": "root"}, {"name": "x", "more": 1}, {"name": "x" * 256}]
)
async def test_a_bad_key_request_is_refused(
    served: tuple[httpx.AsyncClient, Office], body: dict[str, object]
) -> None:
    client, _ = served
    assert (await client.post("/v1/keys", json=body)).status_code == 422


async def test_jobs_are_shown_and_cancelled(served: tuple[httpx.AsyncClient, Office]) -> None:
    client, office = served
    job = await office.enqueue("x", {"secret": "the payload is not shown"})
    page = (await client.get("/v1/jobs", params={"state": "queued"})).json()
    assert [shown["id"] for shown in page["jobs"]] == [str(job.id)]
    one = (await client.get(f"/v1/jobs/{job.id}")).json()
    assert one["progress"] == {"done": 0, "total": None, "note": ""}
    assert "payload" not in str(one)
    assert (await client.post(f"/v1/jobs/{job.id}/cancel")).json()["state"] == "cancelled"
    assert (await client.post(f"/v1/jobs/{job.id}/retry")).json()["state"] == "queued"
    assert (await client.get("/v1/jobs", params={"state": "nonsense"})).status_code == 422
    assert (await client.get("/v1/jobs/not-an-id")).status_code == 422
