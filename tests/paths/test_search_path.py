"""The first way through the house: photo -> index -> search, over each door of the real server."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import zipfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pytest

from mien.runtime.container import build
from mien.runtime.http.app import build_app
from mien.runtime.http.authentication import LocalApp
from mien.runtime.settings import Settings
from tests.photos import photo
from tests.services.serving import Serving

Call = Callable[..., httpx.Response]


@asynccontextmanager
async def in_process(folder: Path) -> AsyncIterator[httpx.AsyncClient]:
    """The real app without a server, as a command without one uses it."""
    services = await build(Settings(data_dir=folder, offline=True))
    try:
        transport = httpx.ASGITransport(LocalApp(build_app(services)))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=60) as http:
            yield http
    finally:
        await services.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    with Serving(tmp_path_factory.mktemp("paths") / "data") as serving:
        yield serving
        assert serving.stop() == 0


@pytest.fixture(params=["process", "socket", "tcp"])
def call(request: pytest.FixtureRequest, tmp_path: Path, running: Serving) -> Iterator[Call]:
    """A client of one of the three doors."""
    if request.param == "process":
        with asyncio.Runner() as runner:
            door = in_process(tmp_path / "data")
            http = runner.run(door.__aenter__())
            yield lambda *a, **k: runner.run(http.request(*a, **k))
            runner.run(door.__aexit__(None, None, None))
        return
    client = running.local() if request.param == "socket" else running.tcp(running.new_key())
    with client:
        yield client.request
        for entry in client.get("/v1/collections").json()["collections"]:
            client.delete(f"/v1/collections/{entry['name']}")


def ok(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json() if answer.content else None


def file(name: str) -> dict[str, bytes]:
    return {"file": photo(name).read_bytes()}


def test_from_photo_to_name_and_back(call: Call) -> None:
    ok(call("POST", "/v1/collections", json={"name": "crew", "metadata": {"site": 1}}), 201)
    path = "/v1/collections/crew"
    astronaut = ok(
        call("POST", f"{path}/faces", files=file("astronaut"), data={"external_image_id": "eileen"}), 201
    )["faces"]
    six = ok(call("POST", f"{path}/faces", files=file("six_faces")), 201)["faces"]
    assert (len(astronaut), len(six)) == (1, 6)
    face = astronaut[0]
    assert face["external_image_id"] == "eileen"
    assert {"confidence", "bounding_box", "quality_score", "created_at", "metadata"} <= face.keys()

    person = ok(call("POST", f"{path}/persons", json={"name": "Eileen"}), 201)["person_id"]
    ok(call("POST", f"{path}/persons/{person}/faces", json={"face_ids": [face["face_id"]]}))

    # By photo: every face in it, each nearest to itself.
    found = ok(call("POST", f"{path}/search", files=file("six_faces")))
    assert [f["matches"][0]["face_id"] for f in found["faces"]] == [f["face_id"] for f in six]
    assert all(f["matches"][0]["score"] > 0.999 for f in found["faces"])
    # By base64, by face id, and for persons.
    image = base64.b64encode(photo("astronaut").read_bytes()).decode()
    match = ok(call("POST", f"{path}/search", json={"image": image}))["faces"][0]["matches"][0]
    assert (match["face_id"], match["person_id"]) == (face["face_id"], person)
    assert match["similarity"] > 99
    persons = ok(call("POST", f"{path}/persons/search", files=file("astronaut")))["faces"][0]["persons"]
    assert persons[0]["person"]["name"] == "Eileen"
    # Nobody there, and nobody known.
    nobody = ok(call("POST", f"{path}/search", files=file("coffee")))
    assert nobody["faces"] == []
    assert "No face" in nobody["note"]
    stranger = ok(call("POST", f"{path}/search", files=file("portrait")))["faces"]
    assert [f["matches"] for f in stranger] == [[]]

    # What is deleted is not found from the next request on.
    ok(call("DELETE", f"{path}/faces/{face['face_id']}"), 204)
    assert ok(call("POST", f"{path}/search", json={"image": image}))["faces"][0]["matches"] == []
    assert ok(call("GET", path))["face_count"] == 6
    ok(call("DELETE", path), 204)
    ok(call("POST", f"{path}/search", json={"image": image}), 404)


def test_detect_and_compare(call: Call) -> None:
    reply = ok(call("POST", "/v1/detect", files=file("six_faces"), data={"attributes": "quality,emotion"}))
    assert len(reply["faces"]) == 6
    assert all(0 <= f["quality"]["overall"] <= 1 and f["emotion"]["label"] for f in reply["faces"])
    both = {"source": photo("astronaut").read_bytes(), "target": photo("six_faces").read_bytes()}
    reply = ok(call("POST", "/v1/compare", files=both))
    assert reply["matches"] == []
    assert [len(row) for row in reply["scores"]] == [6]
    both["target"] = both["source"]
    assert ok(call("POST", "/v1/compare", files=both))["matches"][0]["score"] > 0.999


def test_an_import_runs_as_a_job_with_progress(call: Call) -> None:
    ok(call("POST", "/v1/collections", json={"name": "bulk"}), 201)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.write(photo("astronaut"), "eileen/1.png")
        archive.write(photo("six_faces"), "friends/all.jpg")
        archive.write(photo("coffee"), "things/coffee.png")
        archive.writestr("things/broken.jpg", b"\xff\xd8\xff no photo")
    job = ok(
        call(
            "POST",
            "/v1/collections/bulk/imports",
            files={"file": packed.getvalue()},
            data={"persons": "by_folder"},
        ),
        202,
    )
    path = f"/v1/jobs/{job['id']}"
    for _ in range(6000):
        job = ok(call("GET", path))
        if job["state"] not in ("queued", "running"):
            break
    assert job["state"] == "succeeded", job
    assert job["progress"]["done"] == job["progress"]["total"]
    assert "broken.jpg" in json.dumps(job["result"])
    assert ok(call("GET", "/v1/collections/bulk"))["face_count"] == 7
    persons = ok(call("GET", "/v1/collections/bulk/persons"))["persons"]
    counts = {p["name"]: p["face_count"] for p in persons}
    assert (counts["eileen"], counts["friends"]) == (1, 6)


def test_a_write_that_is_sent_again_is_done_once(call: Call) -> None:
    ok(call("POST", "/v1/collections", json={"name": "once"}), 201)
    path = "/v1/collections/once/faces"
    headers = {"Idempotency-Key": f"photo-{uuid4()}"}
    first = call("POST", path, files=file("six_faces"), headers=headers)
    again = call("POST", path, files=file("six_faces"), headers=headers)
    assert (first.status_code, again.status_code) == (201, 201)
    assert first.content == again.content
    assert again.headers["idempotency-replayed"] == "true"
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    assert ok(call("GET", "/v1/collections/once"))["face_count"] == 6
    other = call("POST", path, files=file("astronaut"), headers=headers)
    assert other.status_code == 422
    assert "Idempotency-Key" in other.json()["detail"]
    # An answer that says what is wrong with the input is kept, too.
    headers = {"Idempotency-Key": f"photo-{uuid4()}"}
    refused = call("POST", path, files={"file": b"text"}, headers=headers)
    assert refused.status_code == 415
    assert call("POST", path, files={"file": b"text"}, headers=headers).content == refused.content
    wrong = call("POST", path, files=file("astronaut"), headers={"Idempotency-Key": "x" * 200})
    assert wrong.status_code == 422


def test_the_document_names_every_endpoint(call: Call) -> None:
    spec = ok(call("GET", "/openapi.json"))
    wanted = {
        "/v1/detect": "post",
        "/v1/compare": "post",
        "/v1/collections": "post",
        "/v1/collections/{name}": "delete",
        "/v1/collections/{name}/faces": "post",
        "/v1/collections/{name}/search": "post",
        "/v1/collections/{name}/persons": "post",
        "/v1/collections/{name}/imports": "post",
        "/v1/jobs/{job_id}": "get",
        "/v1/keys": "post",
        "/healthz": "get",
        "/readyz": "get",
        "/metrics": "get",
    }
    for path, verb in wanted.items():
        assert verb in spec["paths"][path], path
    ids = [op["operationId"] for verbs in spec["paths"].values() for op in verbs.values()]
    assert len(ids) == len(set(ids))
