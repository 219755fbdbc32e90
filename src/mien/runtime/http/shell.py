"""The shell that every request passes, whatever the slices inside are."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, FastAPI
from fastapi.openapi.utils import get_openapi
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from mien import __version__
from mien.runtime.http import docs, operations, problems
from mien.runtime.http.addressed import Heads
from mien.runtime.http.authentication import SCHEMES, Authenticator
from mien.runtime.http.bounds import BodyBound, Bounds, InHand, TimeBound
from mien.runtime.http.idempotency import takes_key
from mien.runtime.http.metrics import Metrics
from mien.runtime.http.observed import Observed

_ABOUT = (
    "Faces in, names out, on your own machine. Every call under /v1 needs an API key"
    " (`Authorization: Bearer <key>`), save over the Unix socket. Errors are RFC 9457 problem documents;"
    " their `code` is stable. Scores are cosine similarities: higher is closer."
)


_IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "schema": {"type": "string", "minLength": 1, "maxLength": 128},
    "description": "A key of yours for this write: sent again with it, the first answer comes again and"
    " nothing is done twice.",
}


async def _nothing() -> None:
    return


@dataclass(frozen=True, slots=True)
class Shell:
    """What the shell needs; `inner` are further middlewares, outermost first, inside the bounds."""

    bounds: Bounds
    metrics: Metrics
    authenticator: Authenticator
    missing: operations.MissingParts
    metrics_open: bool = False
    count: Callable[[], Awaitable[None]] = _nothing
    inner: tuple[Callable[[ASGIApp], ASGIApp], ...] = ()


def _operation_id(route: APIRoute) -> str:
    """Short and stable for generated clients: the endpoint function's name."""
    return route.name


def wrap(shell: Shell, routers: Sequence[APIRouter]) -> FastAPI:
    """The app: the routers inside the shell."""
    app = FastAPI(
        title="Mien",
        version=__version__,
        description=_ABOUT,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=_operation_id,
        license_info={"name": "Apache-2.0", "identifier": "Apache-2.0"},
    )
    problems.install(app)
    for routes in routers:
        app.include_router(routes)
    app.include_router(docs.router())
    app.include_router(
        operations.router(
            shell.missing,
            shell.metrics,
            shell.authenticator,
            metrics_open=shell.metrics_open,
            count=shell.count,
        )
    )
    app.add_middleware(_layers(shell))
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    return app


def _layers(shell: Shell) -> Any:
    def build(app: ASGIApp) -> ASGIApp:
        app = Heads(app)
        for layer in reversed(shell.inner):
            app = layer(app)
        return Observed(
            InHand(TimeBound(BodyBound(app, shell.bounds), shell.bounds), shell.bounds), shell.metrics
        )

    return build


def _openapi(app: FastAPI) -> dict[str, Any]:
    """The document, with the problems that each operation may answer."""
    if app.openapi_schema is not None:
        return app.openapi_schema
    spec = get_openapi(
        title=app.title,
        version=app.version,
        description=app.description,
        routes=app.routes,
        license_info=app.license_info,
    )
    components = spec.setdefault("components", {})
    components["securitySchemes"] = SCHEMES
    schemas = components.setdefault("schemas", {})
    problem = problems.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(problem.pop("$defs", {}))
    schemas["Problem"] = problem
    schemas.pop("HTTPValidationError", None)
    schemas.pop("ValidationError", None)
    for path, operations_of in spec.get("paths", {}).items():
        if not path.startswith("/v1"):
            continue
        for verb, operation in operations_of.items():
            operation["security"] = [{name: []} for name in SCHEMES]
            if verb != "get" and takes_key(path):
                operation.setdefault("parameters", []).append(_IDEMPOTENCY_KEY)
            wanted = dict(problems.COMMON)
            if "{" in path:
                wanted |= problems.NAMED
            if verb != "get":
                wanted |= problems.WRITES
            if "requestBody" in operation:
                wanted |= problems.PHOTOS
            answers = operation.setdefault("responses", {})
            for status, described in wanted.items():
                # FastAPI's own 422 has another shape than what is sent here.
                if status == 422 or str(status) not in answers:
                    answers[str(status)] = described
    app.openapi_schema = spec
    return spec
