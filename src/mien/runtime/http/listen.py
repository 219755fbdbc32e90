"""uvicorn on two listeners: TCP for clients with keys, the Unix socket for this machine's administrator."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from mien.kit.errors import SetupError
from mien.runtime.http.authentication import LocalApp


class AddressTaken(SetupError):
    """Another program listens there."""

    code = "address-taken"
    title = "The address is taken"


def bind_tcp(host: str, port: int) -> socket.socket:
    """A bound, not yet listening TCP socket. Raises AddressTaken, SetupError."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        raise SetupError(f"{host} is no address of this machine; use 127.0.0.1 or 0.0.0.0.") from None
    listener = socket.socket(family, kind, protocol)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except PermissionError:
        listener.close()
        raise SetupError(f"Port {port} needs more rights; use one from 1024 on (--port 8000).") from None
    except OSError:
        listener.close()
        raise AddressTaken(
            f"Port {port} of {host} is taken by another program; try another: mien serve --port {port + 1}"
        ) from None
    listener.setblocking(False)
    return listener


class _Quiet(uvicorn.Server):
    """uvicorn without its own signal handlers: one stop serves both listeners."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Listeners:
    """Serves one app on both sockets until `stop` is called."""

    def __init__(
        self, app: ASGIApp, *, tcp: socket.socket | None, local: socket.socket, shutdown_s: float
    ) -> None:
        self._servers = [(self._server(LocalApp(app), shutdown_s), local)]
        if tcp is not None:
            self._servers.append((self._server(app, shutdown_s), tcp))
        self._tasks: list[asyncio.Task[None]] = []

    @staticmethod
    def _server(app: ASGIApp, shutdown_s: float) -> uvicorn.Server:
        # Forwarded headers are not believed: who may set them is the operator's proxy's affair.
        config = uvicorn.Config(
            app,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            ws="none",
            timeout_graceful_shutdown=max(1, round(shutdown_s)),
        )
        return _Quiet(config)

    async def start(self) -> None:
        """Returns once both accept connections."""
        self._tasks = [asyncio.create_task(server.serve([sock])) for server, sock in self._servers]
        while not all(server.started for server, _ in self._servers):
            for task in self._tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0.005)

    async def wait(self) -> None:
        """Until every listener has ended; an error of one is raised."""
        await asyncio.gather(*self._tasks)

    async def stop(self) -> None:
        """Accept nothing more, finish what is in hand within `shutdown_s`."""
        for server, _ in self._servers:
            server.should_exit = True
        await self.wait()

    def hurry(self) -> None:
        """End without waiting (the second Ctrl-C)."""
        for server, _ in self._servers:
            server.should_exit = True
            server.force_exit = True
