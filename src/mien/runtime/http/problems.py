"""Errors as RFC 9457 problem documents: the one translator from `kit.errors` to HTTP."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Message, Send

from mien.kit.errors import Busy, MienError
from mien.runtime.http.addressed import methods_at
from mien.runtime.http.faults import faults_of, summary_of

log = structlog.get_logger("mien.http")

MEDIA_TYPE = "application/problem+json"

_CODES = {
    400: "bad-request",
    404: "not-found",
    405: "method-not-allowed",
    406: "not-acceptable",
    413: "too-large",
    415: "unsupported-media-type",
    422: "bad-input",
}


class FieldFault(BaseModel):
    """One place of a request that does not fit: in the body, or a parameter."""

    detail: str = Field(description="What does not fit, in words.")
    pointer: str | None = Field(None, description="JSON pointer into the body; empty for all of it.")
    parameter: str | None = Field(None, description="Name of the parameter in the path, query or header.")


class Problem(BaseModel):
    """What every error answers with (RFC 9457); some problems have further members."""

    model_config = ConfigDict(extra="allow")

    type: str = Field(description="`urn:mien:problem:` and the code.")
    title: str
    status: int
    code: str = Field(description="A stable word for programs.")
    detail: str = Field(description="What is wrong and what to do.")
    request_id: str = Field(description="Quote it when you ask about this answer.")
    errors: list[FieldFault] | None = Field(None, description="Which fields, when validation failed.")


def document(
    *,
    status: int,
    code: str,
    title: str,
    detail: str,
    request_id: str,
    facts: Mapping[str, object] | None = None,
) -> dict[str, object]:
    """The members of a problem; `facts` never overwrite the standard ones."""
    standard = {
        "type": f"urn:mien:problem:{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": detail,
        "request_id": request_id,
    }
    return {**(facts or {}), **standard}


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, default=str).encode("utf-8", "replace")


def answer(error: MienError, request_id: str) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    """Status, headers and body for an error of the family."""
    body = _json(
        document(
            status=error.status,
            code=error.code,
            title=error.title,
            detail=error.message,
            request_id=request_id,
            facts=error.facts,
        )
    )
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    if isinstance(error, Busy):
        headers.append((b"retry-after", str(max(1, math.ceil(error.retry_after_s))).encode()))
    if error.status == 401:
        headers.append((b"www-authenticate", b'Bearer realm="mien"'))
    return error.status, headers, body


async def send_problem(
    send: Send, error: MienError, request_id: str, extra: Sequence[tuple[bytes, bytes]] = ()
) -> None:
    """Answer from a middleware, outside of the framework."""
    status, headers, body = answer(error, request_id)
    start: Message = {"type": "http.response.start", "status": status, "headers": [*headers, *extra]}
    await send(start)
    await send({"type": "http.response.body", "body": body})


def _response(status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> Response:
    response = Response(body, status)
    response.raw_headers = headers
    return response


def request_id_of(scope: Mapping[str, Any]) -> str:
    return str(scope.get("mien.request_id", ""))


async def _mien_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, MienError)
    if error.status >= 500 and not isinstance(error, Busy):
        log.error("request failed", code=error.code, detail=error.message)
    return _response(*answer(error, request_id_of(request.scope)))


async def _validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    # The input itself is left out of the answer: it may hold a photo or a key.
    faults = faults_of(error, request)
    body = document(
        status=422,
        code="bad-input",
        title="The request can't be used as it is",
        detail=summary_of(faults),
        request_id=request_id_of(request.scope),
        facts={"errors": faults},
    )
    return Response(_json(body), 422, media_type=MEDIA_TYPE)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    title = HTTPStatus(error.status_code).phrase
    detail = {
        404: "There is nothing at this address; see /docs for what there is.",
        405: f"This address does not take {request.method}; see /docs for what it takes.",
    }.get(error.status_code, str(error.detail))
    body = document(
        status=error.status_code,
        code=_CODES.get(error.status_code, "http-error"),
        title=title,
        detail=detail,
        request_id=request_id_of(request.scope),
    )
    headers = dict(error.headers or {})
    if error.status_code == 405:
        # The framework names those of the first route that fits, not of all.
        headers = {name: value for name, value in headers.items() if name.lower() != "allow"}
        headers["allow"] = methods_at(request)
    return Response(_json(body), error.status_code, headers=headers, media_type=MEDIA_TYPE)


def install(app: FastAPI) -> None:
    """Register the translator."""
    app.add_exception_handler(MienError, _mien_error)
    app.add_exception_handler(RequestValidationError, _validation)
    app.add_exception_handler(HTTPException, _http)


def _described(text: str) -> dict[str, Any]:
    return {
        "description": text,
        "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }


COMMON: dict[int, dict[str, Any]] = {
    401: _described("No key, or one that does not hold."),
    403: _described("The key may not do this."),
    413: _described("A body or a photo over its limit."),
    422: _described("The request can't be used as it is; `errors` names the fields."),
    500: _described("Something broke here; the request id finds it in the log."),
    503: _described("Busy or not ready; come again after Retry-After seconds."),
    504: _described("It took longer than its limit."),
}
NAMED: dict[int, dict[str, Any]] = {404: _described("What the address names is not there.")}
WRITES: dict[int, dict[str, Any]] = {409: _described("The change contradicts what is stored.")}
PHOTOS: dict[int, dict[str, Any]] = {415: _described("The photo's format is not supported.")}
