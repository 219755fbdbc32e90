"""/docs: the API's pages, self-contained (no other host is asked for anything)."""

from __future__ import annotations

from functools import cache
from importlib import resources

from fastapi import APIRouter
from starlette.responses import RedirectResponse, Response

_TYPES = {"html": "text/html; charset=utf-8", "js": "text/javascript; charset=utf-8", "css": "text/css"}


@cache
def _page(kind: str) -> bytes:
    return resources.files("mien.runtime.http").joinpath(f"page/docs.{kind}").read_bytes()


def _answer(kind: str) -> Response:
    return Response(_page(kind), media_type=_TYPES[kind], headers={"cache-control": "no-cache"})


def router() -> APIRouter:
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def root() -> Response:
        return RedirectResponse("/docs")

    @routes.get("/docs")
    async def page() -> Response:
        return _answer("html")

    @routes.get("/docs/page.js")
    async def script() -> Response:
        return _answer("js")

    @routes.get("/docs/page.css")
    async def style() -> Response:
        return _answer("css")

    return routes
