"""The whole API: the slices' endpoints inside the shell."""

from __future__ import annotations

from fastapi import FastAPI
from starlette.types import ASGIApp

from mien.features.collections import endpoints as collections
from mien.features.jobs import endpoints as jobs
from mien.features.jobs.service import STATES
from mien.features.tenants import endpoints as tenants
from mien.runtime.container import Services
from mien.runtime.http.authentication import Authenticator
from mien.runtime.http.bounds import Bounds
from mien.runtime.http.idempotency import Idempotent
from mien.runtime.http.metrics import Metrics
from mien.runtime.http.shell import Shell, wrap

_MEGA = 1_000_000


def build_app(services: Services) -> FastAPI:
    """The app over these services; they stay the caller's to close."""
    limits = services.settings.limits
    authenticator = Authenticator(services.tenants.authenticate, services.tenant_id)
    metrics = Metrics()
    metrics.watch_pipelines(services.pipelines.stats, services.cache_stats)

    async def count() -> None:
        metrics.set_jobs(dict.fromkeys(STATES, 0) | await services.jobs.counts())

    def idempotent(app: ASGIApp) -> ASGIApp:
        return Idempotent(app, services.idempotency, authenticator)

    shell = Shell(
        bounds=Bounds(
            body=int(limits.body_mb * _MEGA),
            import_body=int(limits.import_mb * _MEGA),
            time_s=limits.request_s,
            import_time_s=limits.import_s,
            in_hand=limits.connections,
        ),
        metrics=metrics,
        authenticator=authenticator,
        missing=services.missing,
        metrics_open=services.settings.metrics_open,
        count=count,
        inner=(idempotent,),
    )
    return wrap(
        shell,
        [
            collections.router(services.collections, authenticate=authenticator),
            jobs.router(services.jobs, authenticator),
            tenants.router(services.tenants, authenticator),
        ],
    )
