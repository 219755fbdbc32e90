"""What a service's key may do: every endpoint is called with it, none is forgotten."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from uuid import uuid4

import httpx

from mien.runtime.container import build
from mien.runtime.http.app import build_app
from mien.runtime.http.authentication import LocalApp
from mien.runtime.settings import Settings
from tests.services.openapi import check_openapi

OPEN = {"/healthz", "/readyz", "/metrics"}
ALLOWED = {
    ("get", "/v1/tenants/me"),
    ("get", "/v1/collections"),
    ("get", "/v1/collections/{name}"),
    ("get", "/v1/collections/{name}/thresholds"),
    ("get", "/v1/collections/{name}/faces"),
    ("get", "/v1/collections/{name}/faces/{face_id}"),
    ("get", "/v1/collections/{name}/persons"),
    ("get", "/v1/collections/{name}/persons/{person_id}"),
    ("get", "/v1/jobs"),
    ("get", "/v1/jobs/{job_id}"),
    ("post", "/v1/detect"),
    ("post", "/v1/compare"),
    ("post", "/v1/collections/{name}/search"),
    ("post", "/v1/collections/{name}/persons/search"),
}


@asynccontextmanager
async def doors(folder: Path) -> AsyncIterator[tuple[httpx.AsyncClient, httpx.AsyncClient]]:
    """The administrator's door and the network's."""
    services = await build(Settings(data_dir=folder, offline=True))
    try:
        app = build_app(services)
        local, net = httpx.ASGITransport(LocalApp(app)), httpx.ASGITransport(app)
        async with (
            httpx.AsyncClient(transport=local, base_url="http://localhost") as administrator,
            httpx.AsyncClient(transport=net, base_url="http://localhost") as client,
        ):
            yield administrator, client
    finally:
        await services.close()


async def test_every_endpoint_with_a_services_key(tmp_path: Path) -> None:
    async with doors(tmp_path / "data") as (administrator, client):
        made = await administrator.post("/v1/keys", json={"name": "door", "kind": "service"})
        headers = {"X-API-Key": made.json()["key"]}
        document = (await administrator.get("/openapi.json")).json()
        check_openapi(document)
        for path, operations in document["paths"].items():
            for method, operation in operations.items():
                assert operation["summary"], path
                assert operation["description"], path
                named = [p["name"] for p in operation.get("parameters", []) if p["in"] == "header"]
                written = method != "get" and not path.endswith(("/imports", "/v1/keys"))
                assert named == (["Idempotency-Key"] if written else []), (method, path)
        assert document["paths"]["/v1/detect"]["post"]["summary"] == "Find the faces of a photo"
        assert "image/*" in document["paths"]["/v1/detect"]["post"]["requestBody"]["content"]
        paths = document["paths"]
        allowed = set()
        for path, methods in paths.items():
            for method in methods:
                if path in OPEN:
                    continue
                url = path.replace("{name}", "nothing").format_map(
                    {"face_id": uuid4(), "person_id": uuid4(), "job_id": uuid4(), "key_id": uuid4()}
                )
                bare = await client.request(method, url)
                assert bare.status_code == 401, (method, path)
                answer = await client.request(method, url, headers=headers)
                if answer.status_code != 403:
                    allowed.add((method, path))
                else:
                    assert answer.json()["code"] == "forbidden"
        assert allowed == ALLOWED


async def test_an_answer_is_kept_for_its_own_key_and_no_keys_text_ever(tmp_path: Path) -> None:
    async with doors(tmp_path / "data") as (administrator, client):
        once = {"Idempotency-Key": "k1"}
        refused = await administrator.post("/v1/keys", json={"name": "a", "kind": "admin"}, headers=once)
        assert refused.status_code == 422
        texts = [
            (await administrator.post("/v1/keys", json={"name": name, "kind": "admin"})).json()["key"]
            for name in ("first", "second")
        ]
        made = {"name": "people"}
        first, again, other = [
            await client.post("/v1/collections", json=made, headers=once | {"X-API-Key": text})
            for text in (texts[0], texts[0], texts[1])
        ]
        assert (first.status_code, again.status_code) == (201, 201)
        assert again.json() == first.json()
        assert other.status_code == 422
