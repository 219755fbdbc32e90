"""`Idempotency-Key` (draft-ietf-httpapi-idempotency-key-header): a write that is sent again gets the
first answer again instead of being done twice.

The key belongs to the tenant. With another body, method or address it is refused (422), and while
the first request runs the second gets 409. Answers that invite another try (5xx, 429) are not kept.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mien.features.jobs.idempotency import IdempotencyService, StoredAnswer
from mien.kit.errors import BadInput, Unauthenticated
from mien.kit.tenant import Principal, TenantId
from mien.runtime.http.authentication import Authenticator
from mien.runtime.http.bounds import IMPORT_PATH

_METHODS = frozenset({"POST", "PUT", "PATCH", "DELETE"})
_KEY = re.compile(rb"[\x21-\x7e]{1,128}")
# An answer over this is not kept; the largest one of a write (a photo of 1000 faces) is near it.
_MAX_ANSWER_BYTES = 1 << 20
_KEPT_HEADERS = frozenset({b"content-type", b"location"})


def takes_key(path: str) -> bool:
    """Whether a write on this path may carry an `Idempotency-Key`: its answer is kept, so that one with
    the text of an API key must not."""
    return IMPORT_PATH.fullmatch(path) is None and path.rstrip("/") != "/v1/keys"


class Idempotent:
    """Holds the body of requests with a key (they are within the body's limit) to take its digest."""

    def __init__(self, app: ASGIApp, keys: IdempotencyService, authenticator: Authenticator) -> None:
        self._app = app
        self._keys = keys
        self._authenticator = authenticator

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        raw = (
            next((value for name, value in scope["headers"] if name == b"idempotency-key"), None)
            if scope["type"] == "http" and scope["method"] in _METHODS
            else None
        )
        if raw is None:
            await self._app(scope, receive, send)
            return
        if not _KEY.fullmatch(raw):
            raise BadInput("An Idempotency-Key is 1 to 128 visible ASCII characters.")
        if not takes_key(scope["path"]):
            raise BadInput(
                "Imports and new API keys take no Idempotency-Key: an import is a job, look at /v1/jobs;"
                " the text of an API key is kept nowhere."
            )
        try:
            principal = await self._authenticator.principal(scope)
        except Unauthenticated:
            await self._app(scope, receive, send)
            return
        body = await _whole(receive)
        if body is None:
            return  # the client has gone
        key = raw.decode("ascii")
        fingerprint = _fingerprint(scope, body, principal)
        known = await self._keys.begin(principal.tenant_id, key, fingerprint)
        if known is not None:
            await _replay(send, known)
            return
        await self._first(scope, _again(body, receive), send, principal.tenant_id, key)

    async def _first(self, scope: Scope, receive: Receive, send: Send, tenant: TenantId, key: str) -> None:
        """Run the request; the answer is kept before its first byte goes out, so that whoever read an
        answer gets the same one again."""
        start: Message = {}
        answer = bytearray()
        given_up = False

        async def hold(message: Message) -> None:
            nonlocal start, given_up
            if given_up:
                await send(message)
                return
            if message["type"] == "http.response.start":
                start = message
                return
            answer.extend(message.get("body", b""))
            more = message.get("more_body", False)
            if len(answer) > _MAX_ANSWER_BYTES:
                given_up = True
                await self._keys.abandon(tenant, key)
                await send(start)
                await send({"type": "http.response.body", "body": bytes(answer), "more_body": more})
                return
            if not more:
                status = start["status"]
                if status >= 500 or status in (401, 403, 429):
                    await self._keys.abandon(tenant, key)
                else:
                    kept = {
                        name.decode("latin-1"): value.decode("latin-1")
                        for name, value in start.get("headers", ())
                        if name.lower() in _KEPT_HEADERS
                    }
                    await self._keys.finish(tenant, key, StoredAnswer(status, kept, bytes(answer)))
                given_up = True
                await send(start)
                await send({"type": "http.response.body", "body": bytes(answer)})

        try:
            await self._app(scope, receive, hold)
        except BaseException:
            if not given_up:
                await self._keys.abandon(tenant, key)
            raise


async def _whole(receive: Receive) -> bytes | None:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        body += message.get("body", b"")
        if not message.get("more_body", False):
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Callable[[], Awaitable[Message]]:
    given = False

    async def replayed() -> Message:
        nonlocal given
        if not given:
            given = True
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replayed


def _fingerprint(scope: Scope, body: bytes, principal: Principal) -> bytes:
    """SHA-256 of who asked and what: no key is given another key's answer. Clients make a new
    multipart boundary each time: it is left out."""
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    main, _, options = kind.partition(b";")
    if main.strip().lower().startswith(b"multipart/"):
        match = re.search(rb'boundary="?([^";]+)"?', options)
        if match:
            body = body.replace(b"--" + match.group(1), b"--")
    digest = hashlib.sha256()
    who = str(principal.key_id).encode()
    for part in (who, scope["method"].encode(), scope["path"].encode(), scope["query_string"], main.strip()):
        digest.update(len(part).to_bytes(4, "big") + part)
    digest.update(body)
    return digest.digest()


async def _replay(send: Send, known: StoredAnswer) -> None:
    headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in known.headers.items()]
    headers += [(b"content-length", str(len(known.body)).encode()), (b"idempotency-replayed", b"true")]
    if known.status in (204, 304):
        headers = [header for header in headers if header[0] != b"content-length"]
    await send({"type": "http.response.start", "status": known.status, "headers": headers})
    await send({"type": "http.response.body", "body": known.body})
