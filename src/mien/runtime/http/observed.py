"""The outermost middleware: request id, security headers, access log, metrics, and the last net."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from uuid import uuid4

import structlog
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mien.kit.errors import MienError
from mien.runtime.http.metrics import Metrics
from mien.runtime.http.problems import send_problem

log = structlog.get_logger("mien.http")

_VALID_ID = re.compile(rb"[A-Za-z0-9._~+/=:-]{1,128}")

_HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
]
_PAGE_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';"
    b" img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class _Internal(MienError):
    """A fault of ours, told without its text."""


def route_of(scope: Scope) -> str:
    """The template of the matched route ("/v1/collections/{name}"), or "none": bounded in number."""
    # The route itself knows its path within its router only.
    within = scope.get("fastapi", {}).get("effective_route_context") or scope.get("route")
    return str(getattr(within, "path", "none"))


def request_id_from(scope: Scope) -> str:
    """The caller's X-Request-ID if it is harmless, else a fresh one."""
    for name, value in scope["headers"]:
        if name == b"x-request-id" and _VALID_ID.fullmatch(value):
            return str(value.decode("ascii"))
    return uuid4().hex


class Observed:
    def __init__(
        self, app: ASGIApp, metrics: Metrics, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._app = app
        self._metrics = metrics
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_from(scope)
        scope["mien.request_id"] = request_id
        started = self._clock()
        status = 0
        sent = 0

        async def observed_send(message: Message) -> None:
            nonlocal status, sent
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = [*message.get("headers", ()), *_HEADERS, (b"x-request-id", request_id.encode())]
                names = {name.lower() for name, _ in headers}
                if b"content-security-policy" not in names:
                    headers.append((b"content-security-policy", _PAGE_POLICY))
                if b"cache-control" not in names:
                    headers.append((b"cache-control", b"no-store"))
                message = {**message, "headers": headers}
            elif message["type"] == "http.response.body":
                sent += len(message.get("body", b""))
            await send(message)

        structlog.contextvars.bind_contextvars(request_id=request_id)
        self._metrics.in_hand.inc()
        try:
            await self._app(scope, receive, observed_send)
        except MienError as error:
            if status != 0:
                raise
            await send_problem(observed_send, error, request_id)
        except Exception:
            log.exception("a request broke")
            if status == 0:
                broken = _Internal("Something broke here; quote the request id to whoever runs the server.")
                await send_problem(observed_send, broken, request_id)
            else:
                raise  # the answer is half sent: only closing the connection tells the client
        finally:
            self._metrics.in_hand.dec()
            seconds = self._clock() - started
            route = route_of(scope)
            self._metrics.observe(scope["method"], route, status, seconds)
            client = scope.get("client")
            # The path, never the query: it may hold a key or a name.
            log.info(
                "request",
                method=scope["method"],
                path=scope["path"],
                route=route,
                status=status or "gone",
                ms=round(seconds * 1000, 1),
                bytes_out=sent,
                client="local" if scope.get("mien.local") else (client[0] if client else ""),
                key=str(scope["mien.key"]) if scope.get("mien.key") else None,
            )
            structlog.contextvars.unbind_contextvars("request_id")
