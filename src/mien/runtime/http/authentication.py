"""Who asks: a key in a header, or the machine's own administrator over the Unix socket."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from mien.kit.errors import Unauthenticated
from mien.kit.tenant import Principal, TenantId
from mien.runtime.http.addressed import check_address
from mien.runtime.http.observed import route_of
from mien.runtime.http.permissions import require

SCHEMES = {
    "key": {"type": "http", "scheme": "bearer", "description": "An API key (`mien keys create`)."},
    "key-header": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same key in a header of its own.",
    },
}
"""The ways to send a key, as the OpenAPI document shows them."""

CheckKey = Callable[[str], Awaitable[Principal]]
Authenticate = Callable[..., Awaitable[Principal]]


class LocalApp:
    """Marks requests as the local administrator's. It wraps the app for the Unix socket and for
    commands in process only: the mark can't come from a client."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["mien.local"] = True
        await self._app(scope, receive, send)


def key_in(scope: Scope) -> str | None:
    """The key text of a request: `Authorization: Bearer` first, then `X-API-Key`."""
    found: dict[bytes, str] = {}
    for name, value in scope["headers"]:
        found.setdefault(name, value.decode("latin-1").strip())
    scheme, _, rest = found.get(b"authorization", "").partition(" ")
    if scheme.lower() == "bearer" and rest.strip():
        return rest.strip()
    return found.get(b"x-api-key") or None


class Authenticator:
    """Turns a request into its Principal, once (middlewares and endpoints share the answer)."""

    def __init__(self, check: CheckKey, default_tenant: TenantId) -> None:
        self._check = check
        self._local = Principal(default_tenant, "system_admin")

    async def principal(self, scope: Scope) -> Principal:
        """Raises Unauthenticated."""
        known: Principal | None = scope.get("mien.principal")
        if known is not None:
            return known
        if scope.get("mien.local"):
            principal = self._local
        else:
            text = key_in(scope)
            if text is None:
                raise Unauthenticated(
                    "Send an API key as `Authorization: Bearer <key>` or `X-API-Key: <key>`;"
                    " `mien keys create` makes one."
                )
            principal = await self._check(text)
        scope["mien.principal"] = principal
        scope["mien.key"] = principal.key_id
        return principal

    async def __call__(self, request: Request) -> Principal:
        """The dependency of endpoints. It has none of its own: they would be solved for each request.
        After who asks comes what is asked, so that the two checks of every endpoint are one dependency."""
        principal = await self.principal(request.scope)
        require(principal, request.method, route_of(request.scope))
        check_address(request)
        return principal
