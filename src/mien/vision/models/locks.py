"""A lock between processes, on a file."""

import fcntl
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mien.kit.errors import ModelError

_POLL_S = 0.1


@contextmanager
def locked(
    path: Path, what: str, *, wait_s: float, cancelled: threading.Event | None = None
) -> Iterator[None]:
    """Hold `path` (made if need be) exclusively; the kernel frees it when the process ends, however.

    Waits `wait_s` seconds at most. ModelError naming `what` after that, or when cancelled.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + wait_s
        stop = cancelled or threading.Event()
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ModelError(
                        f"Another process has been busy with {what} for {wait_s:.0f} s."
                    ) from None
                if stop.wait(_POLL_S):
                    raise ModelError(f"Fetching {what} was cancelled.") from None
        yield
    finally:
        os.close(handle)
