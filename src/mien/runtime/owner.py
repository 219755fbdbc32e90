"""One owner process of a data folder: a file lock says who, a Unix socket speaks to it.

`owner.lock` is held with flock(2) as long as the process lives (the kernel drops it on kill -9);
`owner.json` beside it tells the pid, the socket and the address; it is only believed while the lock
is held. The socket has mode 0600: who may read the folder may use it, without a key.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import socket
import stat
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from mien.kit.errors import SetupError

# sun_path holds 108 bytes on Linux and 104 on macOS, with its final zero.
_SOCKET_PATH_BYTES = 100

# Looking whether a lock is held takes it for some microseconds; a start in just that moment tries again.
_TRIES = 10
_TRY_S = 0.05


class FolderTaken(SetupError):
    """Another process owns the data folder; `facts["pid"]` is it, where known."""

    code = "folder-taken"
    title = "The data folder has an owner"


@dataclass(frozen=True, slots=True)
class OwnerInfo:
    """Who owns the folder. `socket` and `url` are None for an owner that serves nobody (a command)."""

    pid: int
    socket: Path | None = None
    url: str | None = None


def socket_path(data_dir: Path) -> Path:
    """Where the owner listens: in the folder, or in a private folder of the system's temporary one when
    that path is too long for a socket. Raises SetupError if the private folder is not ours."""
    path = data_dir / "mien.sock"
    if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
        return path
    folder = Path(tempfile.gettempdir()) / f"mien-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid() or status.st_mode & 0o077:
        raise SetupError(f"{folder} is not a private folder of this user; remove it, or use a shorter path.")
    return folder / (hashlib.sha256(os.fsencode(data_dir.resolve())).hexdigest()[:24] + ".sock")


def _read_info(data_dir: Path) -> OwnerInfo | None:
    try:
        value = json.loads((data_dir / "owner.json").read_text("utf-8"))
        path = value.get("socket")
        return OwnerInfo(int(value["pid"]), Path(path) if path else None, value.get("url"))
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        return None


def _unusable(data_dir: Path, error: OSError) -> SetupError:
    return SetupError(
        f"The data folder {data_dir} can't be used ({error.strerror}); set MIEN_DATA_DIR to one that this"
        " user may write."
    )


def find_owner(data_dir: Path) -> OwnerInfo | None:
    """Who owns the folder now; None if nobody does. A pid of 0 is an owner that is just starting.

    SetupError for a folder that can't be one (a file, another user's).
    """
    try:
        handle = os.open(data_dir / "owner.lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(data_dir, error) from None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_info(data_dir) or OwnerInfo(0)
    finally:
        os.close(handle)
    return None


class Owner:
    """The lock of a data folder, held until `release`."""

    def __init__(self, data_dir: Path) -> None:
        """Take the folder, which is made if need be (0700). Raises FolderTaken, SetupError."""
        self.data_dir = data_dir
        self._bound: Path | None = None
        try:
            data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._handle = os.open(data_dir / "owner.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise _unusable(data_dir, error) from None
        for attempt in range(_TRIES):
            try:
                fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == _TRIES - 1:
                    os.close(self._handle)
                    raise self._taken() from None
                time.sleep(_TRY_S)
        # What a killed owner left behind.
        (data_dir / "owner.json").unlink(missing_ok=True)
        self.announce()

    def _taken(self) -> FolderTaken:
        info = _read_info(self.data_dir)
        who = f"process {info.pid}" if info else "another process"
        where = f" ({info.url})" if info and info.url else ""
        return FolderTaken(
            f"The data folder {self.data_dir} is owned by {who}{where}; stop it, or give this one another"
            " folder with MIEN_DATA_DIR.",
            pid=info.pid if info else None,
        )

    def announce(self, url: str | None = None) -> None:
        """Write who owns the folder and where it listens (atomic)."""
        value = {"pid": os.getpid(), "socket": str(self._bound) if self._bound else None, "url": url}
        handle, part = tempfile.mkstemp(dir=self.data_dir, prefix="owner.json.")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(value, file)
        Path(part).replace(self.data_dir / "owner.json")

    def listen(self, backlog: int = 128) -> socket.socket:
        """The bound and listening Unix socket, mode 0600 from its first moment. Non-blocking."""
        path = socket_path(self.data_dir)
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            listener.bind(str(path))
        except OSError as error:
            listener.close()
            raise SetupError(f"The socket {path} can't be made ({error.strerror}).") from None
        finally:
            os.umask(before)
        listener.listen(backlog)
        listener.setblocking(False)
        self._bound = path
        return listener

    def release(self) -> None:
        """Give the folder up. The lock file stays: removing it would let two processes each hold one."""
        with contextlib.suppress(OSError):
            (self.data_dir / "owner.json").unlink(missing_ok=True)
            if self._bound is not None:
                self._bound.unlink(missing_ok=True)
        os.close(self._handle)
