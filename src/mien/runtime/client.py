"""The API's client that every command uses: over the owner's socket, or in process as the owner."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from mien.kit.errors import MienError, Unavailable
from mien.runtime.owner import FolderTaken, Owner, OwnerInfo, find_owner
from mien.runtime.settings import Settings

Notice = Callable[[str], None]

# An upload of an import may be long; each photo's time is bounded by the server itself.
_TIMEOUT = httpx.Timeout(600.0, connect=5.0)
# How long a command waits for another command that owns the folder and serves nobody.
_WAIT_S = 30.0
_LOOK_S = 0.1


class Answered(MienError):
    """The server's problem document, as an error of this side. `problem` is the whole document."""

    def __init__(self, problem: Mapping[str, Any]) -> None:
        super().__init__(str(problem.get("detail", "The server gave no reason.")))
        self.problem = dict(problem)
        self.status = int(problem.get("status", 500))  # type: ignore[misc]
        self.code = str(problem.get("code", "internal-error"))  # type: ignore[misc]

    @property
    def of_one_photo(self) -> bool:
        """Whether the fault is that of the photo that was sent, so that others may still do."""
        return self.status in (413, 415, 504) or self.code == "bad-photo"

    def named(self, name: str) -> Answered:
        """The same fault, with the photo's name before its message."""
        return Answered({**self.problem, "detail": f"{name}: {self.message}"})


class Client:
    """Calls that return the answer's JSON (None for an empty one), or raise Answered, Unavailable."""

    def __init__(self, http: httpx.AsyncClient, *, served_by: OwnerInfo | None) -> None:
        self._http = http
        self.served_by = served_by
        """The running server; None when this process is the owner itself."""

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: Any = None,
        data: Mapping[str, Any] | None = None,
        files: Any = None,
        idempotency_key: str | None = None,
    ) -> Any:
        """One request; `path` begins with a slash and is already quoted (`quoted`)."""
        headers = {"Idempotency-Key": idempotency_key} if idempotency_key else {}
        sent = {name: value for name, value in (params or {}).items() if value is not None}
        try:
            answer = await self._http.request(
                method, path, params=sent, json=json, data=data, files=files, headers=headers
            )
        except httpx.TimeoutException:
            raise Unavailable("The server did not answer in time; see `mien status`.") from None
        except httpx.TransportError:
            raise Unavailable("The connection to the server broke; is it still running?") from None
        if answer.status_code >= 400:
            try:
                problem = answer.json()
            except ValueError:
                problem = {"status": answer.status_code, "detail": f"The answer was {answer.status_code}."}
            raise Answered(problem)
        if not answer.content:
            return None
        return answer.json() if "json" in answer.headers.get("content-type", "") else answer.text

    async def pages(self, path: str, items: str, **params: Any) -> AsyncIterator[Any]:
        """The entries of a list under `items`, page by page."""
        cursor: str | None = None
        while True:
            page = await self.call("GET", path, params={**params, "cursor": cursor})
            for entry in page[items]:
                yield entry
            cursor = page.get("next_cursor")
            if cursor is None:
                return


@asynccontextmanager
async def connect(
    settings: Settings,
    notice: Notice = lambda _: None,
    prepare: Callable[[Settings], None] | None = None,
) -> AsyncIterator[Client]:
    """A client of the data folder's owner; `prepare` runs first if that is this process.

    Raises FolderTaken when another process owns the folder, serves nobody, and does not end within
    half a minute.
    """
    deadline = time.monotonic() + _WAIT_S
    told = False
    while True:
        info = find_owner(settings.data_dir)
        if info is not None and info.socket is not None:
            transport = httpx.AsyncHTTPTransport(uds=str(info.socket))
            async with _http(transport) as http:
                yield Client(http, served_by=info)
            return
        if info is None:
            try:
                owner = Owner(settings.data_dir)
            except FolderTaken:
                info = find_owner(settings.data_dir) or OwnerInfo(0)
            else:
                try:
                    if prepare is not None:
                        prepare(settings)
                    async with _in_process(settings) as client:
                        yield client
                finally:
                    owner.release()
                return
        if time.monotonic() > deadline:
            raise FolderTaken(
                f"Process {info.pid} owns the data folder and does not serve others; wait until it ends,"
                " or run `mien serve` and let commands share it.",
                pid=info.pid,
            )
        if not told:
            notice(f"Waiting for process {info.pid}, which owns the data folder.")
            told = True
        await asyncio.sleep(_LOOK_S)


def _http(transport: httpx.AsyncBaseTransport) -> httpx.AsyncClient:
    # trust_env off: a proxy variable must not lead these calls out of the machine.
    return httpx.AsyncClient(
        transport=transport, base_url="http://localhost", timeout=_TIMEOUT, trust_env=False
    )


@asynccontextmanager
async def _in_process(settings: Settings) -> AsyncIterator[Client]:
    from mien.runtime.container import build
    from mien.runtime.http.app import build_app
    from mien.runtime.http.authentication import LocalApp

    services = await build(settings, preload=False, first_key=False)
    try:
        transport = httpx.ASGITransport(LocalApp(build_app(services)))
        async with _http(transport) as http:
            yield Client(http, served_by=None)
    finally:
        await services.close()
