"""One owner process of a data folder, and what a killed one leaves behind."""

import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from mien.kit.errors import SetupError
from mien.runtime import server
from mien.runtime.owner import FolderTaken, Owner, find_owner, socket_path

_HOLD = """
import sys
from pathlib import Path
from mien.runtime.owner import Owner
owner = Owner(Path(sys.argv[1]))
listener = owner.listen()
owner.announce("http://127.0.0.1:1")
print("held", flush=True)
sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(10)
    for stream in (process.stdin, process.stdout):
        assert stream is not None
        stream.close()


def test_nobody_owns_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert find_owner(tmp_path / "none") is None
    assert not (tmp_path / "none").exists()


def test_another_process_is_refused_and_told_who(tmp_path: Path) -> None:
    process = holder(tmp_path)
    try:
        info = find_owner(tmp_path)
        assert info is not None
        assert (info.pid, info.url) == (process.pid, "http://127.0.0.1:1")
        assert info.socket == tmp_path / "mien.sock"
        with pytest.raises(FolderTaken, match=f"process {process.pid}") as refused:
            Owner(tmp_path)
        assert refused.value.facts["pid"] == process.pid
    finally:
        end(process)


def test_what_a_killed_owner_left_is_cleared(tmp_path: Path) -> None:
    process = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    end(process)
    assert (tmp_path / "owner.json").exists()
    assert (tmp_path / "mien.sock").exists()
    assert find_owner(tmp_path) is None
    owner = Owner(tmp_path)
    info = find_owner(tmp_path)
    assert info is not None
    assert (info.pid, info.socket) == (os.getpid(), None)
    with owner.listen() as listener, socket.socket(socket.AF_UNIX) as caller:
        caller.connect(listener.getsockname())
    owner.release()
    assert find_owner(tmp_path) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["owner.lock"]


def test_a_damaged_note_does_not_stop_anybody(tmp_path: Path) -> None:
    owner = Owner(tmp_path)
    (tmp_path / "owner.json").write_bytes(b"\xff{")
    info = find_owner(tmp_path)
    assert info is not None
    assert info.pid == 0
    with pytest.raises(FolderTaken, match="another process"):
        Owner(tmp_path)
    owner.release()


def test_folder_and_socket_are_private(tmp_path: Path) -> None:
    owner = Owner(tmp_path / "data")
    with owner.listen():
        assert stat.S_IMODE((tmp_path / "data").stat().st_mode) == 0o700
        assert stat.S_IMODE((tmp_path / "data" / "mien.sock").stat().st_mode) == 0o600
    owner.release()


def test_a_long_path_gets_a_socket_elsewhere(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    path = socket_path(deep)
    assert len(os.fsencode(path)) <= 100
    assert path != socket_path(tmp_path / ("d" * 60) / ("f" * 60))
    owner = Owner(deep)
    with owner.listen() as listener:
        assert listener.getsockname() == str(path)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    owner.release()
    assert not path.exists()


def test_a_foreign_private_folder_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / f"mien-{os.getuid()}").mkdir(mode=0o755)
    with pytest.raises(SetupError, match="private folder"):
        socket_path(tmp_path / ("d" * 120))


def test_a_folder_that_cannot_be_made_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SetupError, match="MIEN_DATA_DIR"):
        Owner(tmp_path / "file" / "data")


def test_a_server_says_that_it_waits_for_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = Owner(tmp_path)
    said: list[str] = []

    class Log:
        def warning(self, words: str, **facts: object) -> None:
            said.append(f"{words} {facts['pid']}")
            command.release()

    monkeypatch.setattr(server, "log", Log())
    server.take(tmp_path).release()
    assert said == [f"waiting for a process that owns the data folder {os.getpid()}"]


def test_a_server_does_not_wait_for_another(tmp_path: Path) -> None:
    other = Owner(tmp_path)
    listener = other.listen()
    other.announce("http://127.0.0.1:1")
    with pytest.raises(FolderTaken, match=r"127\.0\.0\.1:1"):
        server.take(tmp_path)
    listener.close()
    other.release()
