"""What all commands share: the common options, the client, and how results are shown."""

from __future__ import annotations

import asyncio
import functools
import json
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import click

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from mien.runtime.client import Client
    from mien.runtime.settings import Settings

T = TypeVar("T")


def quoted(text: str) -> str:
    """A name as one segment of a path."""
    return quote(text, safe="")


def readable(text: str) -> str:
    """Text that is valid UTF-8: names of files need not be, what is not is shown as U+FFFD."""
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    except UnicodeEncodeError:  # a lone surrogate that stands for no byte
        return text.encode("utf-8", "replace").decode("utf-8")


def counted(count: int, noun: str) -> str:
    """'1 photo', '2 photos'."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class Shown:
    """Where a command's results go: tables for people, or one JSON document on stdout."""

    def __init__(self, *, as_json: bool, data_dir: Path | None) -> None:
        self.as_json = as_json
        self._data_dir = data_dir

    def settings(self) -> Settings:
        """This command's settings. Raises SetupError."""
        from mien.runtime.settings import get_settings

        return get_settings(data_dir=self._data_dir)

    def json(self, value: object) -> None:
        click.echo(readable(json.dumps(value, ensure_ascii=False, indent=2, default=str)))

    def line(self, text: str, style: str = "") -> None:
        """A line on stdout; names of files in it may hold anything."""
        self.out.print(_plain(text), style=style or None, soft_wrap=True)

    @functools.cached_property
    def out(self) -> Console:
        """Stdout: colour and the terminal's width on a terminal, plain and wide lines in a pipe."""
        from rich.console import Console

        return Console(highlight=False, width=None if sys.stdout.isatty() else 200, soft_wrap=False)

    @functools.cached_property
    def err(self) -> Console:
        """Stderr, for progress and notices."""
        from rich.console import Console

        return Console(stderr=True, highlight=False)

    def notice(self, message: str) -> None:
        self.err.print(f"[dim]{_plain(message)}[/dim]")

    def fault(self, message: str) -> None:
        """One of several faults, on stderr; the command goes on."""
        click.echo(f"{click.style('mien:', fg='red', bold=True)} {readable(message)}", err=True)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> None:
        """A table; a column whose name begins with '>' is aligned right."""
        table = new_table(columns, _plain(title))
        for row in rows:
            table.add_row(*(_plain(str(cell)) if cell is not None else "" for cell in row))
        self.out.print(table)

    def run(self, work: Callable[[Client], Awaitable[T]], *, models: bool = False) -> T:
        """Run `work` with a client of the data folder's owner. `models`: it analyses photos, so the
        recognition pack is fetched first if this process is the owner and lacks it."""
        from mien.runtime import logs
        from mien.runtime.client import connect
        from mien.runtime.fetch import fetch_first

        settings = self.settings()
        # What goes wrong is told by the command itself, once.
        logs.configure("debug" if settings.log_level == "debug" else "off", "console")

        async def inside() -> T:
            async with connect(settings, self.notice, fetch_first if models else None) as client:
                return await work(client)

        return asyncio.run(inside())


def new_table(columns: Sequence[str], title: str = "") -> Table:
    from rich import box
    from rich.table import Table

    table = Table(
        box=box.SIMPLE_HEAD,
        title=title or None,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        show_header=any(column.strip(">") for column in columns),
    )
    for column in columns:
        right = column.startswith(">")
        table.add_column(column.removeprefix(">"), justify="right" if right else "left", overflow="fold")
    return table


def _plain(text: str) -> str:
    """Text that rich shows as it is: names may hold brackets and control characters."""
    from rich.markup import escape

    return escape("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in readable(text)))


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """--json and --data-dir; the command gets a `Shown` as its first argument."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
    @click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        help="The data folder (default: MIEN_DATA_DIR).",
    )
    @functools.wraps(command)
    def wrapped(*args: Any, as_json: bool, data_dir: Path | None, **kwargs: Any) -> Any:
        return command(Shown(as_json=as_json, data_dir=data_dir), *args, **kwargs)

    return wrapped


def policy_options(*names: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--score, --distance, --fmr and --fpir (those named); the command gets `policy` or None."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            given = {name: kwargs.pop(name) for name in names}
            policy = {name: value for name, value in given.items() if value is not None}
            if len(policy) > 1:
                raise click.UsageError(f"Give only one of {', '.join('--' + name for name in names)}.")
            return command(*args, policy=policy or None, **kwargs)

        for name in reversed(names):
            kind, about = _POLICIES[name]
            wrapped = click.option(f"--{name}", type=kind, help=about)(wrapped)
        return wrapped

    return decorate


_RATE = click.FloatRange(0, 1, min_open=True, max_open=True)
_POLICIES = {
    "score": (click.FloatRange(-1, 1), "Match from this cosine similarity on."),
    "distance": (
        click.FloatRange(0, 2),
        "Match up to this Euclidean distance of unit vectors (0 is the same, 2 the opposite).",
    ),
    "fmr": (_RATE, "Match at this false match rate."),
    "fpir": (_RATE, "Match at this rate of naming a stranger (default 0.01)."),
}


def confirm(question: str) -> None:
    """Ask on a terminal; elsewhere nobody can answer, so --yes is asked for (exit code 2)."""
    if not sys.stdin.isatty():
        raise click.UsageError(f"{question} Nobody can be asked here: give --yes.")
    click.confirm(question, abort=True, err=True)


def read_photo(path: Path) -> bytes:
    """The file's bytes, or stdin's for '-'; a click error (exit code 3) that names what is wrong."""
    try:
        return sys.stdin.buffer.read() if str(path) == "-" else path.read_bytes()
    except OSError as error:
        raise click.ClickException(f"{path} can't be read ({error.strerror}).") from None
