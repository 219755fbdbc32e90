"""Middlewares that bound a request: how many at once, how many bytes, how long."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Callable
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mien.kit.errors import BadInput, Busy, MienError, TimedOut, TooLarge
from mien.runtime.http.problems import request_id_of, send_problem

IMPORT_PATH = re.compile(r"/v1/collections/[^/]+/imports/?")
_OPEN_PATHS = frozenset({"/healthz", "/readyz", "/metrics"})

# What is read and thrown away after a 413, so that a client that is still sending gets to read it.
_DRAIN_BYTES = 16 << 20
_DRAIN_S = 3.0


@dataclass(frozen=True, slots=True)
class Bounds:
    """Sizes in bytes, times in seconds; imports have their own."""

    body: int
    import_body: int
    time_s: float
    import_time_s: float
    in_hand: int


class InHand:
    """At most `bounds.in_hand` requests at once; probes always pass."""

    def __init__(self, app: ASGIApp, bounds: Bounds) -> None:
        self._app = app
        self._most = bounds.in_hand
        self._now = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in _OPEN_PATHS:
            await self._app(scope, receive, send)
            return
        if self._now >= self._most:
            raise Busy("The server has all the requests in hand that it takes; ask again soon.")
        self._now += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._now -= 1


class TimeBound:
    """Answers 504 when a request, its upload included, takes too long."""

    def __init__(self, app: ASGIApp, bounds: Bounds) -> None:
        self._app = app
        self._bounds = bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        importing = IMPORT_PATH.fullmatch(scope["path"]) is not None
        limit = self._bounds.import_time_s if importing else self._bounds.time_s
        try:
            async with asyncio.timeout(limit) as bound:
                await self._app(scope, receive, send)
        except TimeoutError:
            if not bound.expired():
                raise
            raise TimedOut(f"The request took longer than {limit:g} s.") from None


class BodyBound:
    """Counts the body as it streams; over the limit the answer is 413 whatever the app made of it."""

    def __init__(self, app: ASGIApp, bounds: Bounds) -> None:
        self._app = app
        self._bounds = bounds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        importing = IMPORT_PATH.fullmatch(scope["path"]) is not None
        limit = self._bounds.import_body if importing else self._bounds.body
        refusal = TooLarge(
            f"The body is over the limit of {limit / 1_000_000:g} MB; send a smaller photo or file.",
            limit_bytes=limit,
        )
        declared = next((value for name, value in scope["headers"] if name == b"content-length"), None)
        if declared is not None and not declared.isdigit():
            raise BadInput("Content-Length is no number.")
        if declared is not None and int(declared) > limit:
            await _refuse(send, receive, refusal, scope)
            return

        read = 0
        over = False
        began = False

        async def counted_receive() -> Message:
            nonlocal read, over
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > limit:
                    over = True
                    raise refusal
            return message

        async def checked_send(message: Message) -> None:
            nonlocal began
            # A framework may turn the refusal above into an answer of its own: it is not sent.
            if over and not began:
                return
            began = began or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, counted_receive, checked_send)
        except Exception:
            if not over or began:
                raise
        if over and not began:
            await _refuse(send, receive, refusal, scope)


async def _refuse(send: Send, receive: Receive, error: MienError, scope: Scope) -> None:
    """Answer at once, then read a bounded rest: a connection that is closed while the client still
    sends is reset, and the client would never see the answer."""

    async def keep_open(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "more_body": True}
        await send(message)

    await send_problem(keep_open, error, request_id_of(scope), extra=[(b"connection", b"close")])
    await _drain(receive, time.monotonic)
    await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _drain(receive: Receive, clock: Callable[[], float]) -> None:
    left = _DRAIN_BYTES
    end = clock() + _DRAIN_S
    while left > 0:
        try:
            message = await asyncio.wait_for(receive(), max(0.01, end - clock()))
        except TimeoutError:
            return
        if message["type"] != "http.request" or not message.get("more_body", False):
            return
        left -= len(message.get("body", b""))
