"""One serving process: take the folder, fetch what is missing, listen, and end in order."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import structlog

from mien.runtime import logs
from mien.runtime.container import Services, build
from mien.runtime.http.app import build_app
from mien.runtime.http.listen import Listeners, bind_tcp
from mien.runtime.owner import FolderTaken, Owner, find_owner
from mien.runtime.settings import Settings, unknown_variables

log = structlog.get_logger("mien.server")

# How long a start waits for a command that holds the folder; each try takes half a second (`Owner`).
_WAIT_S = 30.0


class Announcement:
    """What the operator is told when the server is up."""

    def __init__(self, url: str, first_key: str | None, settings: Settings) -> None:
        self.url = url
        self.first_key = first_key
        self.settings = settings


Announce = Callable[[Announcement], None]


def _url(listener: socket.socket, host: str) -> str:
    port = listener.getsockname()[1]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104 - only shown
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


async def _serve(settings: Settings, owner: Owner, tcp: socket.socket, announce: Announce) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    listeners: Listeners | None = None

    def stop() -> None:
        if stopping.is_set() and listeners is not None:
            log.warning("ending without waiting")
            listeners.hurry()
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)

    services: Services = await build(settings)
    try:
        local = owner.listen()
        url = _url(tcp, settings.host)
        listeners = Listeners(build_app(services), tcp=tcp, local=local, shutdown_s=settings.shutdown_s)
        await listeners.start()
        owner.announce(url)
        announce(Announcement(url, services.first_key, settings))
        ended = asyncio.ensure_future(listeners.wait())
        asked = asyncio.ensure_future(stopping.wait())
        await asyncio.wait({ended, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        log.info("stopping", at_most_s=settings.shutdown_s)
        await listeners.stop()
        await ended
    finally:
        await services.close()
    log.info("stopped")


def take(data_dir: Path) -> Owner:
    """The folder; a command that holds it is waited for (and that is said), a server is not."""
    deadline = time.monotonic() + _WAIT_S
    told = False
    while True:
        try:
            return Owner(data_dir)
        except FolderTaken as error:
            info = find_owner(data_dir)
            if (info is not None and info.socket is not None) or time.monotonic() > deadline:
                raise
            if not told:
                log.warning(
                    "waiting for a process that owns the data folder",
                    pid=error.facts.get("pid"),
                    at_most_s=_WAIT_S,
                )
                told = True


def serve(settings: Settings, prepare: Callable[[Settings], None], announce: Announce) -> None:
    """Run until SIGTERM or SIGINT. `prepare` runs once the folder and the port are ours, before
    anything is opened (it fetches missing models). Raises SetupError (FolderTaken, AddressTaken)."""
    logs.configure(settings.log_level, settings.log_format)
    for name in unknown_variables():
        log.warning("a variable looks like a setting and is none", name=name)
    with contextlib.ExitStack() as stack:
        owner = take(settings.data_dir)
        stack.callback(owner.release)
        tcp = stack.enter_context(bind_tcp(settings.host, settings.port))
        prepare(settings)
        try:
            import uvloop
        except ImportError:  # not on every platform
            asyncio.run(_serve(settings, owner, tcp, announce))
        else:
            with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
                runner.run(_serve(settings, owner, tcp, announce))
