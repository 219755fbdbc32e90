"""`mien serve`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mien.runtime.server import Announcement
    from mien.runtime.settings import Settings


@click.command()
@click.option("--host", help="The address to listen on (default: MIEN_HOST, 127.0.0.1).")
@click.option(
    "--port", type=click.IntRange(0, 65_535), help="The port; 0 picks a free one (MIEN_PORT, 8000)."
)
@click.option(
    "--data-dir", type=click.Path(path_type=Path, file_okay=False), help="The data folder (MIEN_DATA_DIR)."
)
@click.option("--reload", is_flag=True, help="Start again when the source changes (for developers).")
def serve(host: str | None, port: int | None, data_dir: Path | None, reload: bool) -> None:
    """Run the server until Ctrl-C or SIGTERM.

    The first start fetches the models and prints the administrator's API key once. If a command holds
    the data folder, its end is waited for.
    """
    from mien.runtime.settings import get_settings

    settings = get_settings(host=host, port=port, data_dir=data_dir)
    if reload:
        _reload([argument for argument in sys.argv[1:] if argument != "--reload"])
        return
    from mien.runtime.fetch import fetch_first
    from mien.runtime.server import serve as run

    run(settings, fetch_first, _announce)


def _reload(arguments: list[str]) -> None:
    """Run the same command below a watcher of the source folder."""
    import watchfiles

    source = Path(__file__).resolve().parents[2]
    watchfiles.run_process(
        source,
        target=" ".join([sys.executable, "-m", "mien", *arguments]),
        target_type="command",
        watch_filter=watchfiles.PythonFilter(extra_extensions=(".html", ".js", ".css", ".json")),
        callback=lambda changes: click.echo(f"mien: {len(changes)} files changed, starting again", err=True),
        sigint_timeout=25,
    )


def _announce(said: Announcement) -> None:
    from rich.console import Console
    from rich.panel import Panel

    settings: Settings = said.settings
    # stderr: stdout stays free for what other programs read.
    console = Console(stderr=True, highlight=False)
    if said.first_key is not None:
        console.print(
            Panel.fit(
                f"[bold]{said.first_key}[/bold]\n\n"
                "This is the administrator's API key. It is shown this once and kept only as a digest;\n"
                "`mien keys create` replaces a lost one.",
                title="API key",
                border_style="green",
                padding=(1, 2),
            )
        )
    exposed = settings.host not in ("127.0.0.1", "localhost", "::1")
    console.print(f"\n  Mien serves on [bold]{said.url}[/bold]  (stop it with Ctrl-C)")
    console.print(f"  The API's pages:  {said.url}/docs")
    console.print(f"  The data folder:  {settings.data_dir}", soft_wrap=True)
    console.print("  In another shell: mien detect photo.jpg · mien index friends photos/")
    if exposed:
        console.print("  [yellow]Others can reach it, without TLS: put a proxy with TLS before it.[/yellow]")
    console.print()
    if os.environ.get("MIEN_READY_FD"):
        # Whoever started us may wait for this instead of asking again and again.
        with os.fdopen(int(os.environ["MIEN_READY_FD"]), "w") as ready:
            ready.write(said.url + "\n")
