"""The Collections API over HTTP, in process: shapes, forms and JSON, and every bad input."""

from __future__ import annotations

import base64
import io
import json
import zipfile
from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from fastapi import FastAPI
from pydantic import BaseModel
from starlette.requests import Request
from tests.unit.collections.conftest import World, photo_bytes, random_vectors

from mien.features.collections import replies
from mien.features.collections.endpoints import router
from mien.features.jobs.endpoints import router as jobs_router
from mien.features.jobs.schemas import JobOut
from mien.kit.tenant import Principal
from mien.runtime.http import problems

Api = httpx.AsyncClient


@pytest.fixture
async def api(world: World) -> AsyncIterator[Api]:
    """A client of an app with these routes only; the header `x-other` makes it the other tenant."""

    async def authenticate(request: Request) -> Principal:
        tenant = world.other if "x-other" in request.headers else world.tenant
        return Principal(tenant, "system_admin")

    app = FastAPI()
    problems.install(app)
    app.include_router(router(world.service, authenticate=authenticate))
    app.include_router(jobs_router(world.jobs, authenticate))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://mien") as client:
        yield client


def shaped(model: type[BaseModel], answer: httpx.Response, status: int = 200) -> Any:
    """The JSON of an answer, which must be as the OpenAPI document says."""
    assert answer.status_code == status, answer.text
    model.model_validate_json(answer.content, strict=True)
    return answer.json()


def problem(answer: httpx.Response, *statuses: int) -> Any:
    """The problem document of a refusal."""
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
    body = answer.json()
    assert body["status"] == answer.status_code
    assert body["detail"]
    return body


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def file(data: bytes) -> dict[str, tuple[str, bytes, str]]:
    return {"file": ("photo.jpg", data, "image/jpeg")}


async def test_the_tour(api: Api, six: bytes, astronaut: bytes) -> None:
    """Detect, create, index, search, persons, compare, delete, as a user would."""
    detected = shaped(replies.DetectReply, await api.post("/v1/detect", files=file(six)))
    assert (detected["image"], len(detected["faces"])) == ({"width": 1280, "height": 886}, 6)
    face = detected["faces"][0]
    box, relative = face["bounding_box"], face["relative_box"]
    assert relative["x"] * 1280 == pytest.approx(box["x"], abs=0.01)
    assert face["landmarks"]["left_eye"]["x"] < face["landmarks"]["right_eye"]["x"]

    made = shaped(
        replies.CollectionReply,
        await api.post("/v1/collections", json={"name": "staff", "metadata": {"a": [1, None]}}),
        201,
    )
    assert made["policy"] == {"fpir": 0.01}
    shaped(replies.CollectionList, await api.get("/v1/collections"))

    indexed = shaped(
        replies.IndexedReply,
        await api.post(
            "/v1/collections/staff/faces",
            files=file(six),
            data={"external_image_id": "Gruppe ☺", "metadata": '{"day": 3}', "quality_filter": "low"},
        ),
        201,
    )
    assert len(indexed["faces"]) == 6
    assert indexed["faces"][0]["external_image_id"] == "Gruppe ☺"
    assert indexed["faces"][0]["metadata"] == {"day": 3}
    shaped(
        replies.IndexedReply,
        await api.post("/v1/collections/staff/faces", json={"image": b64(astronaut)}),
        201,
    )
    ids = [face["face_id"] for face in indexed["faces"]]
    stored = shaped(replies.FaceReply, await api.get(f"/v1/collections/staff/faces/{ids[0]}"))
    assert stored == indexed["faces"][0]
    page = shaped(replies.FaceList, await api.get("/v1/collections/staff/faces", params={"limit": 3}))
    assert len(page["faces"]) == 3

    for request in (
        {"files": file(six), "data": {"max_matches": "1"}},
        {"json": {"image": b64(six), "max_matches": 1}},
        {"content": six, "headers": {"content-type": "image/jpeg"}, "params": {"max_matches": "1"}},
    ):
        answer = await api.post("/v1/collections/staff/search", **request)
        found = shaped(replies.SearchReply, answer)
        assert [face["matches"][0]["face_id"] for face in found["faces"]] == ids
        assert found["threshold"]["gallery_size"] == 8
        rates = [found["threshold"][name] for name in ("fmr", "fpir", "fnmr")]
        rates += [match["fmr"] for face in found["faces"] for match in face["matches"]]
        assert all(len(f"{rate:.15e}".split("e")[0].rstrip("0")) <= 5 for rate in rates)  # d.ddd
    by_face = shaped(
        replies.SearchReply, await api.post("/v1/collections/staff/search", json={"face_id": ids[0]})
    )
    assert by_face["faces"][0]["face_id"] == ids[0]
    assert ids[0] not in {match["face_id"] for match in by_face["faces"][0]["matches"]}

    person = shaped(
        replies.PersonReply,
        await api.post("/v1/collections/staff/persons", json={"name": "Zoë", "external_id": "7"}),
        201,
    )
    at = f"/v1/collections/staff/persons/{person['person_id']}"
    attached = await api.post(f"{at}/faces", json={"face_ids": ids[:1]})
    assert shaped(replies.AttachedReply, attached) == {"attached": ids[:1], "not_found": []}
    assert shaped(replies.PersonReply, await api.get(at))["face_count"] == 1
    found = shaped(
        replies.PersonSearchReply,
        await api.post("/v1/collections/staff/persons/search", files=file(six), data={"sort": "mean"}),
    )
    assert found["faces"][0]["persons"][0]["person"]["name"] == "Zoë"
    detached = await api.post(f"{at}/faces/detach", json={"face_ids": ids[:1]})
    assert shaped(replies.DetachedReply, detached)["detached"] == ids[:1]
    assert shaped(replies.PersonReply, await api.patch(at, json={"kind": "staff"}))["kind"] == "staff"
    listed = await api.get("/v1/collections/staff/persons", params={"kind": "staff"})
    assert len(shaped(replies.PersonList, listed)["persons"]) == 1
    assert (await api.delete(at)).status_code == 204

    compared = shaped(
        replies.CompareReply,
        await api.post("/v1/compare", files={"source": ("a", six), "target": ("b", astronaut)}),
    )
    assert [len(compared[side]["faces"]) for side in ("source", "target")] == [6, 1]
    assert compared["target"]["unmatched"] == [0]
    same = await api.post("/v1/compare", json={"source": b64(astronaut), "target": b64(astronaut)})
    assert shaped(replies.CompareReply, same)["matches"][0]["similarity"] > 99

    deleted = await api.post("/v1/collections/staff/faces/delete", json={"face_ids": ids[:2]})
    assert shaped(replies.DeletedReply, deleted)["deleted"] == ids[:2]
    assert (await api.delete(f"/v1/collections/staff/faces/{ids[2]}")).status_code == 204
    described = shaped(replies.DescribeReply, await api.get("/v1/collections/staff"))
    assert (described["face_count"], described["person_count"]) == (4, 0)
    moves = shaped(replies.MoveList, await api.get("/v1/collections/staff/thresholds"))
    assert [move["cause"] for move in moves["thresholds"]] == ["faces_removed", "faces_added", "created"]
    changed = await api.patch("/v1/collections/staff", json={"policy": {"distance": 1.1}})
    assert shaped(replies.CollectionReply, changed)["policy"] == {"distance": 1.1}
    assert (await api.delete("/v1/collections/staff")).status_code == 204


async def test_no_face_is_data(api: Api, coffee: bytes) -> None:
    assert shaped(replies.DetectReply, await api.post("/v1/detect", files=file(coffee)))["faces"] == []
    await api.post("/v1/collections", json={"name": "a"})
    found = shaped(replies.SearchReply, await api.post("/v1/collections/a/search", files=file(coffee)))
    assert found["faces"] == []
    assert found["note"].startswith("No face was found")
    indexed = shaped(replies.IndexedReply, await api.post("/v1/collections/a/faces", files=file(coffee)), 201)
    assert indexed["faces"] == []


async def test_attributes_and_timings_only_when_asked(api: Api, astronaut: bytes) -> None:
    plain = (await api.post("/v1/detect", files=file(astronaut), data={"attributes": ""})).json()
    assert "timings_ms" not in plain
    assert "objects" not in plain
    bare = shaped(
        replies.DetectReply,
        await api.post("/v1/detect", json={"image": b64(astronaut), "attributes": [], "timings": True}),
    )
    assert "quality" not in bare["faces"][0]
    assert bare["timings_ms"]["detect"] > 0


@pytest.mark.full
async def test_every_attribute(api: Api, astronaut: bytes) -> None:
    answer = await api.post(
        "/v1/detect",
        files=file(astronaut),
        data={"attributes": "quality,pose,liveness,eyes,emotion,objects"},
    )
    if answer.status_code == 503:
        pytest.skip(answer.json()["detail"])
    face = shaped(replies.DetectReply, answer)["faces"][0]
    assert face["emotion"]["label"] == "happy"
    assert face.keys() >= {"quality", "liveness", "eyes", "emotion"}


# --- bad input ---------------------------------------------------------------------------------------

BODIES: list[tuple[str, dict[str, Any], int]] = [
    ("no body", {}, 422),
    ("empty file", {"files": file(b"")}, 422),
    ("text called .jpg", {"files": file(b"this is text")}, 415),
    ("cut off", {"files": file(photo_bytes("six_faces")[:5000])}, 422),
    ("no file", {"files": {"other": ("a", b"x")}}, 422),
    ("base64 broken", {"json": {"image": "####"}}, 422),
    ("base64 with a stop", {"json": {"image": "aGVs.bG8="}}, 422),
    ("base64 empty", {"json": {"image": ""}}, 422),
    ("base64 a number", {"json": {"image": 7}}, 422),
    ("data URL not base64", {"json": {"image": "data:image/png,abc"}}, 422),
    ("no image", {"json": {}}, 422),
    ("a list", {"json": []}, 422),
    ("JSON broken", {"content": b"{", "headers": {"content-type": "application/json"}}, 422),
    ("JSON not UTF-8", {"content": b'{"a":"\xff"}', "headers": {"content-type": "application/json"}}, 422),
    ("JSON deep", {"content": b"[" * 100_000, "headers": {"content-type": "application/json"}}, 422),
    ("other type", {"content": b"x", "headers": {"content-type": "text/csv"}}, 415),
    ("no boundary", {"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 422),
    (
        "form cut off",
        {
            "content": b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nxx',
            "headers": {"content-type": "multipart/form-data; boundary=b"},
        },
        422,
    ),
    (
        "form of noise",
        {"content": b"noise", "headers": {"content-type": "multipart/form-data; boundary=b"}},
        422,
    ),
    ("unknown option", {"files": file(b"x"), "data": {"treshold": "1"}}, 422),
    ("bad option", {"files": file(b"x"), "data": {"max_faces": "0"}}, 422),
]


@pytest.mark.parametrize(("what", "request_", "status"), BODIES, ids=[what for what, _, _ in BODIES])
@pytest.mark.parametrize("path", ["/v1/detect", "/v1/collections/a/faces", "/v1/collections/a/search"])
async def test_bodies_that_are_refused(
    api: Api, path: str, what: str, request_: dict[str, Any], status: int
) -> None:
    await api.post("/v1/collections", json={"name": "a"})
    problem(await api.post(path, **request_), status)
    assert (await api.get("/v1/collections/a")).json()["face_count"] == 0


FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="%s"\r\n\r\n%s\r\n%s--b--\r\n'
FIELD = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'


@pytest.mark.parametrize(
    ("sent", "fault"),
    [
        ({"max_faces": "many"}, {"detail": "must be a whole number", "pointer": "/max_faces"}),
        ({"max_faces": 0}, {"detail": "must be at least 1", "pointer": "/max_faces"}),
        ({"max_matches": 1001}, {"detail": "must be at most 1000", "pointer": "/max_matches"}),
        ({"min_confidence": "x"}, {"detail": "must be a number", "pointer": "/min_confidence"}),
        ({"thorough": "maybe"}, {"detail": "must be true or false", "pointer": "/thorough"}),
        (
            {"face_id": "nobody"},
            {"detail": "must be a UUID, such as 0198c1f2-7d6a-7cc0-9f4e-3a5b7c9d1e2f", "pointer": "/face_id"},
        ),
        (
            {"quality_filter": "best"},
            {"detail": "must be 'none', 'low', 'medium' or 'high'", "pointer": "/quality_filter"},
        ),
        (
            {"policy": {"luck": 1}},
            {"detail": "is not known; known are score, distance, fmr, fpir", "pointer": "/policy/luck"},
        ),
        (
            {"policy": '{"luck": 1}'},
            {"detail": "is not known; known are score, distance, fmr, fpir", "pointer": "/policy/luck"},
        ),
        ({"policy": "{"}, {"detail": "must be JSON", "pointer": "/policy"}),
        ({"policy": 3}, {"detail": "must be a JSON object", "pointer": "/policy"}),
        ({"space": "x" * 256}, {"detail": "must have at most 255 characters", "pointer": "/space"}),
        (
            {"filters": {"metadata": {"a/b": []}}},
            {
                "detail": "must be a text or a whole number or a number or true or false",
                "pointer": "/filters/metadata/a~1b",
            },
        ),
        ({"embedding": [0.5, True]}, {"detail": "must be a number", "pointer": "/embedding/1"}),
        ({"score": 0.4}, {"detail": 'is no member here: say policy: {"score": 0.4}', "pointer": "/score"}),
        (
            {"threshold": "0.4"},
            {"detail": 'is no member here: say policy: {"score": 0.4}', "pointer": "/threshold"},
        ),
    ],
)
async def test_faults_are_told_in_plain_words(api: Api, sent: dict[str, Any], fault: dict[str, str]) -> None:
    body = problem(await api.post("/v1/collections/a/search", json=sent), 422)
    assert body["errors"] == [fault]
    assert fault["detail"] in body["detail"]


async def test_faults_name_parameters_and_known_members(api: Api, astronaut: bytes) -> None:
    body = problem(await api.get("/v1/collections/a/faces/nobody?limit=x"), 422)
    assert [fault["parameter"] for fault in body["errors"]] == ["face_id"]
    body = problem(await api.get("/v1/collections/a/faces?limit=0"), 422)
    assert body["errors"] == [{"detail": "must be at least 1", "parameter": "limit"}]
    assert body["detail"] == "limit must be at least 1."
    body = problem(await api.post("/v1/collections", json={"title": "a", "name": "a"}), 422)
    assert body["detail"] == "title is not known; known are name, description, metadata, policy."
    body = problem(await api.post("/v1/collections", json={"name": "a", "fmr": 0.01}), 422)
    assert 'say policy: {"fmr": 0.01}' in body["detail"]
    body = problem(await api.post("/v1/collections", json={}), 422)
    assert body["errors"] == [{"detail": "is missing", "pointer": "/name"}]
    headers = {"content-type": "application/json"}
    body = problem(await api.post("/v1/collections", content=b'{"name', headers=headers), 422)
    assert body["errors"] == [{"detail": "is no valid JSON", "pointer": ""}]
    image: dict[str, Any] = {"content": astronaut, "headers": {"content-type": "image/png"}}
    body = problem(await api.post("/v1/detect?max_faces=x", **image), 422)
    assert body["errors"] == [{"detail": "must be a whole number", "parameter": "max_faces"}]


async def test_base64_in_lines_and_for_urls(api: Api, astronaut: bytes) -> None:
    wanted = (await api.post("/v1/detect", json={"image": b64(astronaut)})).json()
    assert len(wanted["faces"]) == 1
    lines = base64.encodebytes(astronaut).decode()
    for_urls = base64.urlsafe_b64encode(astronaut).decode()
    assert "-" in for_urls
    for sent in (lines, lines.replace("\n", "\r\n"), for_urls, for_urls.rstrip("=")):
        assert (await api.post("/v1/detect", json={"image": sent})).json() == wanted
    # As `-d "{\"image\": \"$(base64 photo.png)\"}"` sends it.
    raw = f'{{"image": "{lines}"}}'.encode()
    answer = await api.post("/v1/detect", content=raw, headers={"content-type": "application/json"})
    assert answer.json() == wanted
    for bad in ("!!", "AAAAA", "é"):
        assert "base64" in problem(await api.post("/v1/detect", json={"image": bad}), 422)["detail"]


async def test_text_that_is_not_utf8(api: Api, astronaut: bytes) -> None:
    await api.post("/v1/collections", json={"name": "a"})
    headers = {"content-type": "multipart/form-data; boundary=b"}
    for body in (
        FORM % (b"a\xff.jpg", astronaut, b""),
        FORM % (b"a.jpg", astronaut, FIELD % (b"external_image_id", b"na\xefve")),
        FORM % (b"a.jpg", astronaut, FIELD % (b"na\xefve", b"x")),
        FORM % (b"a.jpg", astronaut, FIELD % (b"metadata", b'{"a":"\xff"}')),
    ):
        answer = await api.post("/v1/collections/a/faces", content=body, headers=headers)
        assert "UTF-8" in problem(answer, 422)["detail"]
    lone = b'{"image":"%s","external_image_id":"\\udcff"}' % b64(astronaut).encode()
    for body in (
        lone,
        lone.replace(b"external_image_id", b"metadata").replace(b'"\\udcff"', b'{"a":"\\udcff"}'),
    ):
        answer = await api.post(
            "/v1/collections/a/faces", content=body, headers={"content-type": "application/json"}
        )
        problem(answer, 422)
    problem(await api.get("/v1/collections/%FF%FE"), 404, 422)
    problem(await api.post("/v1/collections", json={"name": "naïve"}), 422)
    answer = await api.post(
        "/v1/collections", content=b'{"name":"\xff"}', headers={"content-type": "application/json"}
    )
    problem(answer, 400, 422)
    assert (await api.get("/v1/collections/a")).json()["face_count"] == 0
    # A name of a file is only looked at; what is UTF-8 is taken as it is.
    good = FORM % ("☺.jpg".encode(), astronaut, FIELD % (b"external_image_id", "naïve ☺".encode()))
    answer = await api.post("/v1/collections/a/faces", content=good, headers=headers)
    assert shaped(replies.IndexedReply, answer, 201)["faces"][0]["external_image_id"] == "naïve ☺"


async def test_embeddings_and_searches_that_are_refused(api: Api, astronaut: bytes) -> None:
    await api.post("/v1/collections", json={"name": "a"})
    space = "sface.r1.arcface112.128"
    good = random_vectors(1)[0].tolist()
    shaped(
        replies.SearchReply,
        await api.post("/v1/collections/a/search", json={"embedding": good, "space": space}),
    )
    cases: list[tuple[dict[str, Any], int, str]] = [
        ({"embedding": good}, 422, "space"),
        ({"embedding": good[:-1], "space": space}, 422, "127 numbers"),
        ({"embedding": [0.0] * 128, "space": space}, 422, "zero"),
        ({"embedding": ["x"] * 128, "space": space}, 422, ""),
        ({"embedding": good, "space": "other.r1.arcface112.128"}, 409, space),
        ({"embedding": good, "space": space, "face_id": str(uuid4())}, 422, "one of"),
        ({}, 422, "one of"),
        ({"face_id": "no id"}, 422, ""),
        ({"face_id": str(uuid4())}, 404, "no face"),
        ({"embedding": good, "space": space, "policy": {"score": 2}}, 422, "score"),
        ({"embedding": good, "space": space, "policy": {"score": 0.1, "fmr": 0.1}}, 422, "one of"),
        ({"embedding": good, "space": space, "policy": {}}, 422, ""),
        ({"embedding": good, "space": space, "max_matches": 1001}, 422, "1000"),
        ({"embedding": good, "space": space, "filters": {"metadata": {"a": [1]}}}, 422, ""),
    ]
    for body, status, says in cases:
        answer = await api.post("/v1/collections/a/search", json=body)
        assert says in problem(answer, status)["detail"], body
    raw = json.dumps({"embedding": [float("nan")] * 128, "space": space}).encode()
    answer = await api.post(
        "/v1/collections/a/search", content=raw, headers={"content-type": "application/json"}
    )
    assert "finite" in problem(answer, 422)["detail"]


async def test_what_is_not_there_or_taken(api: Api, astronaut: bytes) -> None:
    await api.post("/v1/collections", json={"name": "a"})
    problem(await api.post("/v1/collections", json={"name": "a"}), 409)
    for method, path, request in (
        ("GET", "/v1/collections/b", {}),
        ("DELETE", "/v1/collections/b", {}),
        ("GET", "/v1/collections/b/faces", {}),
        ("GET", "/v1/collections/b/thresholds", {}),
        ("POST", "/v1/collections/b/faces", {"files": file(astronaut)}),
        ("POST", "/v1/collections/b/search", {"files": file(astronaut)}),
        ("POST", "/v1/collections/b/persons", {"json": {}}),
        ("GET", f"/v1/collections/a/faces/{uuid4()}", {}),
        ("DELETE", f"/v1/collections/a/faces/{uuid4()}", {}),
        ("GET", f"/v1/collections/a/persons/{uuid4()}", {}),
    ):
        problem(await api.request(method, path, **request), 404)
    other = {"x-other": "1"}
    problem(await api.get("/v1/collections/a", headers=other), 404)
    assert (await api.post("/v1/collections", json={"name": "a"}, headers=other)).status_code == 201


async def test_cursors(api: Api) -> None:
    for name in "abc":
        await api.post("/v1/collections", json={"name": name})
    page = (await api.get("/v1/collections", params={"limit": 2})).json()
    rest = (await api.get("/v1/collections", params={"limit": 2, "cursor": page["next_cursor"]})).json()
    assert [c["name"] for c in (*page["collections"], *rest["collections"])] == ["a", "b", "c"]
    for path in ("/v1/collections/a/faces", "/v1/collections/a/persons", "/v1/collections/a/thresholds"):
        problem(await api.get(path, params={"cursor": page["next_cursor"]}), 422)
        problem(await api.get(path, params={"cursor": "é"}), 422)
        problem(await api.get(path, params={"limit": 0}), 422)


async def test_bounds_of_bodies(world: World, api: Api, astronaut: bytes) -> None:
    from dataclasses import replace

    world.service.limits = replace(world.service.limits, photo_bytes=100_000, field_bytes=1000)
    problem(await api.post("/v1/detect", files=file(astronaut)), 413)
    problem(await api.post("/v1/detect", json={"image": b64(astronaut)}), 413)
    problem(await api.post("/v1/detect", content=astronaut, headers={"content-type": "image/png"}), 413)
    answer = await api.post("/v1/detect", files=file(b"x"), data={"attributes": "x" * 1001})
    problem(answer, 413)
    many = {f"f{i}": "x" for i in range(100)}
    problem(await api.post("/v1/detect", files=file(b"x"), data=many), 422)


async def test_imports(world: World, api: Api, astronaut: bytes) -> None:
    await api.post("/v1/collections", json={"name": "a"})
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("Zoë/1.png", astronaut)
    answer = await api.post(
        "/v1/collections/a/imports",
        files={"file": ("photos.zip", out.getvalue(), "application/zip")},
        data={"persons": "by_folder", "metadata": '{"batch": 1}'},
    )
    job = shaped(replies.JobReply, answer, 202)
    JobOut.model_validate(job)
    async with world.bus.subscribe(world.tenant, ["jobs"]) as events:
        now = (await api.get(f"/v1/jobs/{job['id']}")).json()
        while now["state"] in ("queued", "running"):
            await anext(events)
            now = (await api.get(f"/v1/jobs/{job['id']}")).json()
    assert now.keys() == job.keys()
    assert (now["state"], now["result"]["faces"]) == ("succeeded", 1)
    (face,) = (await api.get("/v1/collections/a/faces")).json()["faces"]
    assert face["external_image_id"] == "Zoë/1.png"
    assert face["metadata"] == {"batch": 1}
    assert face["person_id"] is not None
    problem(await api.post("/v1/collections/a/imports", json={"folder": "/etc"}), 403)
    problem(await api.post("/v1/collections/a/imports", json={}), 422)
    problem(await api.post("/v1/collections/a/imports", files=file(astronaut)), 422)
    problem(await api.post("/v1/collections/b/imports", files={"file": ("a", out.getvalue())}), 404)


async def test_a_hundred_matches_for_each_of_many_faces(world: World, api: Api, six: bytes) -> None:
    await api.post("/v1/collections", json={"name": "a"})
    await world.fill("a", random_vectors(300))
    answer = await api.post(
        "/v1/collections/a/search",
        files=file(six),
        data={"policy": '{"score": -1}', "max_matches": "250"},
    )
    found = shaped(replies.SearchReply, answer)
    assert [len(face["matches"]) for face in found["faces"]] == [250] * 6


def test_the_openapi_document_is_whole(world: World) -> None:
    """Every route says what it takes and gives, and every reference resolves."""
    app = FastAPI()

    async def authenticate() -> Principal:
        raise NotImplementedError

    app.include_router(router(world.service, authenticate=authenticate))
    document = app.openapi()
    text = json.dumps(document)
    for reference in set(text.split('"$ref": "')[1:]):
        name = reference.split('"')[0].removeprefix("#/components/schemas/")
        assert name in document["components"]["schemas"]
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["description"], path
            good = next(s for s in operation["responses"] if s.startswith("2"))
            if good != "204":
                assert operation["responses"][good]["content"]["application/json"]["schema"], (path, method)
    photo = document["paths"]["/v1/collections/{name}/faces"]["post"]["requestBody"]["content"]
    assert photo["multipart/form-data"]["schema"]["properties"]["file"]["format"] == "binary"
    assert "image" in photo["application/json"]["schema"]["required"]
