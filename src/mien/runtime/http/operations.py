"""Probes and metrics."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from typing import Literal

import structlog
from fastapi import APIRouter, Request
from pydantic import BaseModel, Field
from starlette.responses import Response
from starlette.types import Scope

from mien.kit.errors import MienError, Unavailable
from mien.runtime.http.authentication import Authenticator
from mien.runtime.http.metrics import CONTENT_TYPE, Metrics
from mien.runtime.http.problems import COMMON

log = structlog.get_logger("mien.http")

MissingParts = Callable[[], Awaitable[dict[str, str]]]
"""What is not ready: a part's name to what is the matter with it, in words for operators."""


class Alive(BaseModel):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(BaseModel):
    """Everything that requests need is there."""

    status: Literal["ready"] = Field(
        default="ready", description="Otherwise the answer is a 503 with `missing`."
    )


def from_this_machine(scope: Scope) -> bool:
    """Over the socket, or straight from the loopback address. A proxy on this machine is not: it leaves
    its mark (Forwarded, Via, X-Forwarded-For) or the outside's Host."""
    if scope.get("mien.local"):
        return True
    client = scope.get("client")
    try:
        if not client or not ipaddress.ip_address(client[0]).is_loopback:
            return False
    except ValueError:
        return False
    headers: dict[bytes, bytes] = dict(scope["headers"])
    if headers.keys() & {b"forwarded", b"x-forwarded-for", b"via"}:
        return False
    host = headers.get(b"host", b"").decode("latin-1").rsplit(":", 1)[0].strip("[]")
    return host in {"localhost", "127.0.0.1", "::1"}


def router(
    missing: MissingParts,
    metrics: Metrics,
    authenticator: Authenticator,
    *,
    metrics_open: bool,
    count: Callable[[], Awaitable[None]],
) -> APIRouter:
    """`count` brings figures up to date that cost a query; it runs before each scrape."""
    routes = APIRouter(tags=["operations"])

    @routes.get("/healthz", summary="Is the process alive?")
    async def healthz() -> Alive:
        """200 while the process answers, whatever else is missing: for a restart by whoever runs it."""
        return Alive()

    @routes.get("/readyz", summary="Can it take work?", responses={503: COMMON[503]})
    async def readyz() -> Ready:
        """200 once models, database and index are there; else 503, and `missing` names what is not."""
        parts = await missing()
        if parts:
            named = "; ".join(f"{part}: {what}" for part, what in sorted(parts.items()))
            raise Unavailable(f"Not ready. {named}.", retry_after_s=5, missing=parts)
        return Ready()

    @routes.get(
        "/metrics",
        summary="Figures for Prometheus",
        description="Open over the socket and from this machine's loopback address; others need a key, or"
        " the setting MIEN_METRICS_OPEN.",
        response_class=Response,
        responses={200: {"content": {"text/plain": {}}}, 401: COMMON[401]},
    )
    async def metrics_page(request: Request) -> Response:
        if not metrics_open and not from_this_machine(request.scope):
            await authenticator.principal(request.scope)
        try:
            await count()
        except MienError as error:
            # The other figures matter most when the database is in trouble.
            log.warning("jobs could not be counted", reason=error.message)
        return Response(metrics.render(), media_type=CONTENT_TYPE)

    return routes
