"""What every request passes, over real listeners: ids, bounds, problems, metrics, the two doors."""

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import structlog
from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel

from mien.kit.errors import Busy, NotFound, Unauthenticated
from mien.kit.ids import new_id
from mien.kit.tenant import Principal, TenantId
from mien.runtime.http.authentication import Authenticator
from mien.runtime.http.bounds import Bounds
from mien.runtime.http.listen import AddressTaken, Listeners, bind_tcp
from mien.runtime.http.metrics import Metrics
from mien.runtime.http.shell import Shell, wrap
from mien.runtime.owner import Owner
from tests.services.openapi import check_openapi

TENANT = TenantId(new_id())
KEY = "mien_test_secret"
BOUNDS = Bounds(body=1000, import_body=3000, time_s=0.4, import_time_s=5, in_hand=2)


class Pet(BaseModel):
    name: str
    ages: list[int]


async def check_key(text: str) -> Principal:
    if text != KEY:
        raise Unauthenticated("This key does not hold.")
    return Principal(TENANT, "operator", new_id())


authenticator = Authenticator(check_key, TENANT)


class Held:
    """Endpoints that wait say so, and end when told."""

    def __init__(self) -> None:
        self.entered = asyncio.Semaphore(0)
        self.gate = asyncio.Event()
        self.cancelled = False


def endpoints(held: Held) -> APIRouter:
    routes = APIRouter(prefix="/v1")
    inner = APIRouter(prefix="/missing")

    @routes.post("/pets")
    async def pets(pet: Pet) -> Pet:
        return pet

    @routes.post("/raw")
    async def raw(request: Request) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @routes.post("/collections/{name}/imports")
    async def imports(request: Request, name: str) -> dict[str, int]:
        return {"bytes": len(await request.body())}

    @routes.get("/wait")
    async def wait() -> dict[str, str]:
        held.entered.release()
        try:
            await held.gate.wait()
        except asyncio.CancelledError:
            held.cancelled = True
            raise
        return {"waited": "yes"}

    @routes.get("/broken")
    async def broken() -> None:
        raise ValueError("a secret of the inside")

    @routes.get("/busy")
    async def busy() -> None:
        raise Busy("Come again.", retry_after_s=2.3)

    @inner.get("/{name}")
    async def missing(name: str) -> None:
        raise NotFound("There is no such pet.", pet=name)

    @routes.get("/who")
    async def who(principal: Principal = Depends(authenticator)) -> dict[str, str]:
        return {"role": principal.role}

    @routes.get("/kept")
    async def kept(
        limit: int = 10, kind: str | None = None, principal: Principal = Depends(authenticator)
    ) -> dict[str, int]:
        return {"limit": limit}

    @routes.post("/kept")
    async def keep(pet: Pet, principal: Principal = Depends(authenticator)) -> Pet:
        return pet

    routes.include_router(inner)
    return routes


@dataclass
class Running:
    tcp: httpx.AsyncClient
    local: httpx.AsyncClient
    held: Held
    parts: dict[str, str]
    listeners: Listeners
    url: str
    socket: Path


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    held = Held()
    parts: dict[str, str] = {}

    async def missing() -> dict[str, str]:
        return parts

    app = wrap(Shell(BOUNDS, Metrics(), authenticator, missing), [endpoints(held)])
    owner = Owner(tmp_path)
    tcp = bind_tcp("127.0.0.1", 0)
    url = f"http://127.0.0.1:{tcp.getsockname()[1]}"
    local = owner.listen()
    listeners = Listeners(app, tcp=tcp, local=local, shutdown_s=5)
    await listeners.start()
    async with (
        httpx.AsyncClient(base_url=url, trust_env=False) as over_tcp,
        httpx.AsyncClient(
            base_url="http://localhost", transport=httpx.AsyncHTTPTransport(uds=str(tmp_path / "mien.sock"))
        ) as over_socket,
    ):
        yield Running(over_tcp, over_socket, held, parts, listeners, url, tmp_path / "mien.sock")
    await listeners.stop()
    owner.release()


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, object]:
    """The answer as a problem document, with its standard members checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, object] = answer.json()
    assert body["type"] == f"urn:mien:problem:{code}"
    assert (body["status"], body["code"]) == (status, code)
    assert body["title"]
    assert body["detail"]
    assert body["request_id"] == answer.headers["x-request-id"]
    return body


async def chunks(count: int) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield b"x" * 100


async def test_request_ids_are_taken_or_made(running: Running) -> None:
    answer = await running.tcp.get("/healthz", headers={"X-Request-ID": "abc-123"})
    assert answer.json() == {"status": "ok"}
    assert answer.headers["x-request-id"] == "abc-123"
    made = {(await running.tcp.get("/healthz")).headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3
    for bad in (b"a b", b"x" * 129, b"<script>", b"\xe9"):
        answer = await running.tcp.get("/healthz", headers=[(b"X-Request-ID", bad)])
        assert len(answer.headers["x-request-id"]) == 32


async def test_every_answer_has_the_security_headers(running: Running) -> None:
    for path in ("/healthz", "/nowhere", "/v1/broken", "/docs"):
        headers = (await running.tcp.get(path)).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "server" not in headers
    assert (await running.tcp.get("/healthz")).headers["cache-control"] == "no-store"


async def test_faults_are_problems(running: Running) -> None:
    body = problem(await running.tcp.post("/v1/pets", json={"name": 1, "ages": [1, "x"]}), 422, "bad-input")
    faults = body["errors"]
    assert isinstance(faults, list)
    assert [fault["pointer"] for fault in faults] == ["/name", "/ages/1"]
    problem(
        await running.tcp.post("/v1/pets", content=b"{", headers={"content-type": "application/json"}),
        422,
        "bad-input",
    )
    problem(await running.tcp.get("/nowhere"), 404, "not-found")
    answer = await running.tcp.put("/v1/pets")
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "POST"
    assert problem(await running.tcp.get("/v1/missing/rex"), 404, "not-found")["pet"] == "rex"
    answer = await running.tcp.get("/v1/busy")
    problem(answer, 503, "busy")
    assert answer.headers["retry-after"] == "3"


async def test_unknown_query_parameters_are_refused(running: Running) -> None:
    assert (await running.local.get("/v1/kept?limit=3")).json() == {"limit": 3}
    body = problem(await running.local.get("/v1/kept?Limit=3&kind=dog"), 422, "bad-input")
    assert "'Limit'" in str(body["detail"])
    assert "known are limit, kind" in str(body["detail"])
    assert body["errors"] == [{"detail": "is not known here", "parameter": "Limit"}]
    assert "takes none" in str(problem(await running.local.get("/v1/who?x"), 422, "bad-input")["detail"])
    # Who asks comes first.
    problem(await running.tcp.get("/v1/kept?Limit=3"), 401, "unauthenticated")


async def test_json_has_to_be_said_to_be_json(running: Running) -> None:
    pet = b'{"name": "rex", "ages": [3]}'
    for headers in ({"content-type": "application/json"}, {"content-type": "application/pet+json; q=1"}):
        assert (await running.local.post("/v1/kept", content=pet, headers=headers)).status_code == 200
    for headers in ({}, {"content-type": "application/x-www-form-urlencoded"}):
        body = problem(
            await running.local.post("/v1/kept", content=pet, headers=headers), 415, "unsupported-media-type"
        )
        assert "application/json" in str(body["detail"])
    problem(await running.local.post("/v1/kept"), 422, "bad-input")


async def test_head_is_get_without_its_body(running: Running) -> None:
    got = await running.local.get("/v1/kept")
    head = await running.local.head("/v1/kept")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == got.headers["content-length"]
    assert (await running.tcp.head("/healthz")).status_code == 200
    assert (await running.tcp.head("/v1/missing/rex")).status_code == 404
    assert (await running.tcp.head("/v1/kept")).status_code == 401
    page = (await running.tcp.get("/metrics")).text
    assert 'mien_http_requests_total{method="HEAD",route="/v1/kept",status="401"} 1.0' in page


async def test_allow_names_all_methods_of_the_address(running: Running) -> None:
    answer = await running.tcp.put("/v1/kept")
    problem(answer, 405, "method-not-allowed")
    assert answer.headers["allow"] == "GET, HEAD, POST"


async def test_what_breaks_inside_stays_inside(running: Running) -> None:
    with structlog.testing.capture_logs() as logs:
        answer = await running.tcp.get("/v1/broken")
    problem(answer, 500, "internal-error")
    assert "secret" not in answer.text
    assert [entry["event"] for entry in logs] == ["a request broke", "request"]


async def test_a_body_over_the_limit_is_refused_with_and_without_a_length(running: Running) -> None:
    assert (await running.tcp.post("/v1/raw", content=b"x" * 1000)).json() == {"bytes": 1000}
    assert (await running.tcp.post("/v1/raw", content=chunks(10))).json() == {"bytes": 1000}
    for content in (b"x" * 1001, chunks(11), chunks(50)):
        assert (
            problem(await running.tcp.post("/v1/raw", content=content), 413, "too-large")["limit_bytes"]
            == 1000
        )
    # The framework would make a 400 or 422 of it while it reads JSON.
    over = await running.tcp.post(
        "/v1/pets", content=chunks(20), headers={"content-type": "application/json"}
    )
    problem(over, 413, "too-large")
    # A big body is refused at once, and the client gets to read why.
    problem(await running.tcp.post("/v1/raw", content=b"x" * 3_000_000), 413, "too-large")
    # Imports have a limit of their own.
    assert (await running.tcp.post("/v1/collections/a/imports", content=b"x" * 2500)).json() == {
        "bytes": 2500
    }
    problem(await running.tcp.post("/v1/collections/a/imports", content=b"x" * 3001), 413, "too-large")


async def test_an_upload_that_stalls_is_ended(running: Running) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(running.url.rsplit(":", 1)[1]))
    writer.write(b"POST /v1/raw HTTP/1.1\r\nHost: x\r\nContent-Length: 500\r\n\r\nabc")
    await writer.drain()
    head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    assert b" 504 " in head.splitlines()[0]
    writer.close()
    await writer.wait_closed()


async def test_a_long_request_is_cancelled(running: Running) -> None:
    problem(await running.tcp.get("/v1/wait"), 504, "timed-out")
    assert running.held.cancelled


async def test_requests_in_hand_are_bounded_but_probes_pass(running: Running) -> None:
    waiting = [asyncio.ensure_future(running.tcp.get("/v1/wait")) for _ in range(2)]
    for _ in waiting:
        await running.held.entered.acquire()
    answer = await running.tcp.get("/v1/busy")
    problem(answer, 503, "busy")
    assert int(answer.headers["retry-after"]) >= 1
    assert (await running.tcp.get("/healthz")).status_code == 200
    running.held.gate.set()
    assert [(await task).json() for task in waiting] == [{"waited": "yes"}] * 2


async def test_tcp_needs_a_key_and_the_socket_none(running: Running) -> None:
    answer = await running.tcp.get("/v1/who")
    problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    problem(await running.tcp.get("/v1/who", headers={"X-API-Key": "wrong"}), 401, "unauthenticated")
    for headers in (
        {"Authorization": f"Bearer {KEY}"},
        {"X-API-Key": KEY},
        {"authorization": f"bearer {KEY}"},
    ):
        assert (await running.tcp.get("/v1/who", headers=headers)).json() == {"role": "operator"}
    assert (await running.local.get("/v1/who")).json() == {"role": "system_admin"}
    assert stat.S_IMODE(running.socket.stat().st_mode) == 0o600


async def test_readiness_names_what_is_missing(running: Running) -> None:
    assert (await running.tcp.get("/readyz")).json() == {"status": "ready"}
    running.parts["models"] = "sface is being fetched"
    answer = await running.tcp.get("/readyz")
    body = problem(answer, 503, "unavailable")
    assert body["missing"] == {"models": "sface is being fetched"}
    assert "retry-after" in answer.headers


async def test_metrics_count_by_route_and_need_a_key_from_outside(running: Running) -> None:
    for name in ("rex", "tom"):
        await running.tcp.get(f"/v1/missing/{name}")
    await running.tcp.get("/no/such/path")
    page = (await running.tcp.get("/metrics")).text
    assert 'mien_http_requests_total{method="GET",route="/v1/missing/{name}",status="404"} 2.0' in page
    assert 'mien_http_requests_total{method="GET",route="none",status="404"} 1.0' in page
    assert "rex" not in page
    assert (await running.local.get("/metrics")).status_code == 200
    for headers in ({"X-Forwarded-For": "203.0.113.9"}, {"Host": "faces.example.org"}, {"Via": "1.1 proxy"}):
        problem(await running.tcp.get("/metrics", headers=headers), 401, "unauthenticated")
        assert (await running.tcp.get("/metrics", headers={**headers, "X-API-Key": KEY})).status_code == 200


async def test_the_access_log_holds_no_query_and_no_body(running: Running) -> None:
    with structlog.testing.capture_logs() as logs:
        await running.tcp.post("/v1/raw?token=sesame", content=b"secret-photo")
        await running.tcp.get("/v1/who", headers={"X-API-Key": KEY})
    assert [entry["route"] for entry in logs] == ["/v1/raw", "/v1/who"]
    assert [entry["status"] for entry in logs] == [200, 200]
    text = json.dumps(logs)
    for hidden in ("sesame", "secret-photo", KEY):
        assert hidden not in text
    assert logs[1]["key"] is not None


async def test_the_pages_ask_no_other_host(running: Running) -> None:
    for path in ("/docs", "/docs/page.js", "/docs/page.css"):
        answer = await running.tcp.get(path)
        assert answer.status_code == 200
        assert "//" not in answer.text.replace("// The API's pages", "")
    assert (await running.tcp.get("/", follow_redirects=True)).url.path == "/docs"


async def test_openapi_lists_the_problems_of_each_endpoint(running: Running) -> None:
    spec = (await running.tcp.get("/openapi.json")).json()
    answers = spec["paths"]["/v1/pets"]["post"]["responses"]
    assert {"200", "401", "403", "409", "413", "415", "422", "500", "503", "504"} <= answers.keys()
    assert "404" in spec["paths"]["/v1/missing/{name}"]["get"]["responses"]
    assert answers["422"]["content"].keys() == {"application/problem+json"}
    assert "HTTPValidationError" not in json.dumps(spec)
    assert spec["components"]["schemas"]["Problem"]["properties"]["code"]
    assert spec["paths"]["/v1/who"]["get"]["security"]


async def test_the_openapi_document_is_sound(running: Running) -> None:
    check_openapi((await running.tcp.get("/openapi.json")).json())


async def test_a_stop_finishes_what_is_in_hand(running: Running) -> None:
    waiting = asyncio.ensure_future(running.tcp.get("/v1/wait"))
    await running.held.entered.acquire()
    stopping = asyncio.ensure_future(running.listeners.stop())
    while True:
        try:
            _, writer = await asyncio.open_unix_connection(str(running.socket))
        except OSError:
            break
        writer.close()
        await asyncio.sleep(0)
    running.held.gate.set()
    assert (await waiting).json() == {"waited": "yes"}
    await asyncio.wait_for(stopping, 10)


def test_a_taken_port_says_what_to_do() -> None:
    with bind_tcp("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AddressTaken, match=f"--port {port + 1}"):
            bind_tcp("127.0.0.1", port)


def test_a_socket_that_is_bound_is_not_shared() -> None:
    with bind_tcp("127.0.0.1", 0) as listener:
        assert listener.family == socket.AF_INET
        assert not listener.getblocking()
