"""Bad input at the server's door: a clear 4xx each, and nothing half-written."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from uuid import uuid4

import httpx
import PIL.Image
import pytest

from tests.photos import photo
from tests.services.serving import Serving


@pytest.fixture(scope="module")
def http(serving: Serving, key: str) -> Iterator[httpx.Client]:
    with serving.tcp(key) as client:
        assert client.post("/v1/collections", json={"name": "door"}).status_code == 201
        yield client
        assert client.get("/v1/collections/door").json()["face_count"] == 0, "something was half-written"


def bomb() -> bytes:
    """A PNG of 20,000 x 20,000 px in a few hundred bytes (its pixels are not even there)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 64))
        + chunk(b"IEND", b"")
    )


def animated() -> bytes:
    frames = [PIL.Image.new("RGB", (64, 64), colour) for colour in ("red", "blue")]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


def one_pixel() -> bytes:
    out = io.BytesIO()
    PIL.Image.new("RGB", (1, 1)).save(out, "PNG")
    return out.getvalue()


def truncated() -> bytes:
    data = photo("six_faces").read_bytes()
    return data[: len(data) // 2]


def problem(answer: httpx.Response, *statuses: int) -> dict[str, object]:
    assert answer.status_code in statuses, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, object] = answer.json()
    assert body["detail"]
    assert body["request_id"]
    for inside in ("Traceback", "/src/", "sqlalchemy", "sqlite"):
        assert inside not in answer.text
    return body


PLACES = ["/v1/detect", "/v1/collections/door/faces", "/v1/collections/door/search"]
PHOTOS: dict[str, tuple[Callable[[], bytes], tuple[int, ...]]] = {
    "empty": (lambda: b"", (422,)),
    "text.jpg": (lambda: b"this is a text file", (415,)),
    "bomb": (bomb, (413, 422)),
    "truncated": (truncated, (422,)),
    "animated": (animated, (415, 422)),
    "pdf": (lambda: b"%PDF-1.7 ...", (415,)),
    "zip": (lambda: b"PK\x03\x04" + b"\0" * 40, (415,)),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", sorted(PHOTOS))
def test_no_photo(http: httpx.Client, place: str, name: str) -> None:
    make, statuses = PHOTOS[name]
    problem(http.post(place, files={"file": (f"{name}.jpg", make(), "image/jpeg")}), *statuses)


@pytest.mark.parametrize("place", PLACES)
def test_a_tiny_photo_has_no_face(http: httpx.Client, place: str) -> None:
    answer = http.post(place, files={"file": one_pixel()})
    if answer.status_code < 300:
        assert answer.json()["faces"] == []
    else:
        problem(answer, 422)


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "application/json"),
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b'{"image": 7}', "application/json"),
        (b'{"image": "!!"}', "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"abc", "multipart/form-data; boundary=x"),
        (b"abc", "multipart/form-data"),
        (b"a=b", "application/x-www-form-urlencoded"),
        (b"", None),
    ],
)
def test_no_request(http: httpx.Client, place: str, content: bytes, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    problem(http.post(place, content=content, headers=headers), 415, 422)


def test_no_face_is_no_error(http: httpx.Client) -> None:
    data = photo("coffee").read_bytes()
    assert http.post("/v1/detect", files={"file": data}).json()["faces"] == []
    answer = http.post("/v1/collections/door/faces", files={"file": data})
    assert answer.status_code == 201
    assert answer.json()["faces"] == []
    answer = http.post("/v1/collections/door/search", files={"file": data})
    assert answer.status_code == 200
    assert answer.json()["note"]


@pytest.mark.parametrize(
    "embedding", ["[NaN]", "[1e999]", "[]", "[0.0]", '["a"]', json.dumps([0.5] * 3), json.dumps([0.0] * 128)]
)
def test_wrong_embeddings(http: httpx.Client, embedding: str) -> None:
    space = http.get("/v1/collections/door").json()["space"]["key"]
    body = f'{{"embedding": {embedding}, "space": "{space}"}}'
    headers = {"Content-Type": "application/json"}
    problem(http.post("/v1/collections/door/search", content=body, headers=headers), 422)


def test_an_embedding_of_another_space(http: httpx.Client) -> None:
    body = {"embedding": [1.0, *[0.0] * 127], "space": "other.r1.none.128"}
    problem(http.post("/v1/collections/door/search", json=body), 409, 422)


def test_unknown_and_duplicate_names(http: httpx.Client) -> None:
    problem(http.get("/v1/collections/nobody"), 404)
    problem(http.post("/v1/collections/nobody/faces", files={"file": photo("astronaut").read_bytes()}), 404)
    problem(http.post("/v1/collections", json={"name": "door"}), 409)
    problem(http.get(f"/v1/collections/door/faces/{uuid4()}"), 404)
    problem(http.get("/v1/collections/door/faces/no-id"), 422)
    problem(http.get(f"/v1/jobs/{uuid4()}"), 404)


@pytest.mark.parametrize("name", ["", "a b", "ü", "a/b", "x" * 256, "../etc", "a\0b"])
def test_names_that_are_none(http: httpx.Client, name: str) -> None:
    problem(http.post("/v1/collections", json={"name": name}), 422)


def test_names_that_are_not_utf8(http: httpx.Client) -> None:
    problem(http.get("/v1/collections/%ff%fe"), 404, 422)
    form = (
        b'--x\r\nContent-Disposition: form-data; name="external_image_id"\r\n\r\n\xff\xfe\r\n'
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        + one_pixel()
        + b"\r\n--x--\r\n"
    )
    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    problem(http.post("/v1/collections/door/faces", content=form, headers=headers), 422)


def test_cursors_of_another_query_and_damaged_ones(http: httpx.Client) -> None:
    for name in ("cursor-a", "cursor-b"):
        assert http.post("/v1/collections", json={"name": name}).status_code == 201
    cursor = http.get("/v1/collections", params={"limit": 1}).json()["next_cursor"]
    assert cursor
    problem(http.get("/v1/collections/door/faces", params={"cursor": cursor}), 422)
    problem(http.get("/v1/keys", params={"cursor": cursor}), 422)
    problem(http.get("/v1/jobs", params={"cursor": cursor}), 422)
    for damaged in ("x", "AAAA", cursor[:-3]):
        problem(http.get("/v1/collections", params={"cursor": damaged}), 422)
    for limit in ("0", "-1", "100000", "x"):
        problem(http.get("/v1/collections", params={"limit": limit}), 422)
    for name in ("cursor-a", "cursor-b"):
        assert http.delete(f"/v1/collections/{name}").status_code == 204


def test_wrong_options(http: httpx.Client) -> None:
    data = photo("astronaut").read_bytes()
    for fields in (
        {"max_faces": "0"},
        {"max_faces": "many"},
        {"min_confidence": "2"},
        {"attributes": "soul"},
        {"colour": "red"},
    ):
        problem(http.post("/v1/detect", files={"file": data}, data=fields), 422)
    for policy in ({"score": 2}, {"fmr": 0}, {"score": 0.3, "fmr": 0.1}, {}, {"luck": 1}):
        body = {"policy": json.dumps(policy)}
        problem(http.post("/v1/collections/door/search", files={"file": data}, data=body), 422)


def test_keys_that_do_not_hold(serving: Serving) -> None:
    tries: list[list[tuple[bytes, bytes]]] = [
        [],
        [(b"Authorization", b"Bearer mien_aaaaaaaa_" + b"b" * 43)],
        [(b"Authorization", b"Basic dTpw")],
        [(b"X-API-Key", "é".encode())],
        [(b"X-API-Key", b"x" * 5000)],
    ]
    for headers in tries:
        with serving.tcp() as client:
            problem(client.get("/v1/collections", headers=headers), 401)
            problem(client.get("/v1/keys", headers=headers), 401)


def test_a_revoked_key_is_refused_at_once(serving: Serving) -> None:
    with serving.local() as admin:
        made = admin.post("/v1/keys", json={"name": "short", "kind": "admin"}).json()
        with serving.tcp(made["key"]) as client:
            assert client.get("/v1/collections").status_code == 200
            assert admin.post(f"/v1/keys/{made['id']}/revoke").status_code == 200
            problem(client.get("/v1/collections"), 401)
        assert made["key"] not in admin.get("/v1/keys").text


def test_a_hundred_faces(http: httpx.Client) -> None:
    with PIL.Image.open(photo("astronaut")) as image:
        face = image.convert("RGB").crop((150, 0, 310, 200)).resize((128, 160))
    sheet = PIL.Image.new("RGB", (1280, 1600), "white")
    for n in range(100):
        sheet.paste(face, ((n % 10) * 128, (n // 10) * 160))
    out = io.BytesIO()
    sheet.save(out, "JPEG", quality=92)
    reply = http.post("/v1/detect", files={"file": out.getvalue()}, data={"max_faces": "1000"}).json()
    assert len(reply["faces"]) == 100
    reply = http.post("/v1/detect", files={"file": out.getvalue()}, data={"max_faces": "7"}).json()
    assert len(reply["faces"]) == 7
