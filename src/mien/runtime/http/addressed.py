"""What holds for every endpoint under /v1, checked against the matched route: no unknown query parameter
(a filter that is misspelt would otherwise give everything), and JSON said to be JSON; HEAD for each GET;
and which methods an address takes."""

from __future__ import annotations

from fastapi import Request
from fastapi.routing import iter_route_contexts
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mien.kit.errors import BadInput, MienError


class NotJson(MienError):
    """The body is not said to be JSON."""

    code = "unsupported-media-type"
    status = 415
    title = "The body's type is not supported"


def check_address(request: Request) -> None:
    """BadInput for a query parameter that the matched route does not know; NotJson for a body of
    another type where JSON is read."""
    route = request.scope.get("fastapi", {}).get("effective_route_context") or request.scope.get("route")
    dependant = getattr(route, "dependant", None)
    if dependant is None:
        return
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # A bare image has its options in the query; the endpoint itself reads and checks them.
    if request.scope["query_string"] and not (kind.startswith("image/") and _takes_images(route)):
        known = [parameter.alias for parameter in dependant.query_params]
        unknown = [name for name in request.query_params if name not in known]
        if unknown:
            takes = f"known are {', '.join(known)}" if known else "this address takes none"
            named = ", ".join(repr(name[:64]) for name in unknown[:5])
            raise BadInput(
                f"There is no query parameter {named}; {takes}.",
                errors=[{"detail": "is not known here", "parameter": name[:64]} for name in unknown[:100]],
            )
    json = kind == "application/json" or kind.endswith("+json")
    if dependant.body_params and not json and _has_body(request):
        raise NotJson("Send application/json: a JSON body, with the header Content-Type: application/json.")


def _takes_images(route: object) -> bool:
    extra = getattr(route, "openapi_extra", None) or {}
    return "image/*" in extra.get("requestBody", {}).get("content", {})


def _has_body(request: Request) -> bool:
    """Without a length and without chunks there is none, and what is missing is said elsewhere."""
    return request.headers.get("content-length", "0") != "0" or "transfer-encoding" in request.headers


def methods_at(request: Request) -> str:
    """The methods that this address takes, as `Allow` names them."""
    found: set[str] = set()
    for route in iter_route_contexts(request.app.routes):
        pattern = getattr(route, "path_regex", None)
        if pattern is not None and pattern.match(request.scope["path"]):
            found |= route.methods or set()
    if "GET" in found:
        found.add("HEAD")
    return ", ".join(sorted(found))


class Heads:
    """HEAD is GET without the body (RFC 9110, 9.3.2)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self._app(scope, receive, send)
            return

        async def without_body(message: Message) -> None:
            if message["type"] == "http.response.body":
                message = {**message, "body": b""}
            await send(message)

        # The same scope, not a copy: what is noted in it (the route, the key) is read outside.
        scope["method"] = "GET"
        try:
            await self._app(scope, receive, without_body)
        finally:
            scope["method"] = "HEAD"
