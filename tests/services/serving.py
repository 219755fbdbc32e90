"""Real `mien serve` processes for tests, each on its own folder and port."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType

import httpx

START_S = 90.0
"""Loaded machines start slowly; a start takes 2 to 4 s on an idle one."""


class Serving:
    """One server process. `kill` ends it at once (SIGKILL), `stop` in order (SIGTERM)."""

    def __init__(self, data_dir: Path, *, port: int = 0, **variables: str) -> None:
        self.data_dir = data_dir
        reader, writer = os.pipe()
        environment = {
            **os.environ,
            "MIEN_OFFLINE": "true",
            "MIEN_LOG_FORMAT": "json",
            "MIEN_LOG_LEVEL": "warning",
            **variables,
            "MIEN_READY_FD": str(writer),
        }
        data_dir.parent.mkdir(parents=True, exist_ok=True)
        self.log = data_dir.with_name(data_dir.name + ".log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mien", "serve", "--port", str(port), "--data-dir", str(data_dir)],
                env=environment,
                pass_fds=[writer],
                stdout=log,
                stderr=log,
            )
        os.close(writer)
        try:
            with os.fdopen(reader) as pipe:
                ready, _, _ = select.select([pipe], [], [], START_S)
                self.url = pipe.readline().strip() if ready else ""
            if not self.url:
                raise AssertionError(f"the server did not start:\n{self.log.read_text()[-4000:]}")
        except BaseException:
            self.kill()
            raise

    @property
    def socket(self) -> Path:
        return self.data_dir / "mien.sock"

    def local(self) -> httpx.Client:
        """A client over the Unix socket: the machine's administrator."""
        transport = httpx.HTTPTransport(uds=str(self.socket))
        return httpx.Client(transport=transport, base_url="http://localhost", timeout=60)

    def tcp(self, key: str | None = None) -> httpx.Client:
        """A client over TCP, with a key or without."""
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def new_key(self) -> str:
        """A fresh administrator's key."""
        with self.local() as client:
            answer = client.post("/v1/keys", json={"name": "test", "kind": "admin"})
            assert answer.status_code == 201, answer.text
            return str(answer.json()["key"])

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(30)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)

    def __enter__(self) -> Serving:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()
