"""`mien status`, `mien settings`, `mien openapi` and `mien completion`."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mien.runtime.cli.frame import Shown, options

if TYPE_CHECKING:
    from mien.runtime.owner import OwnerInfo
    from mien.runtime.settings import Settings


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


async def _ready(info: OwnerInfo) -> dict[str, Any]:
    import httpx

    transport = httpx.AsyncHTTPTransport(uds=str(info.socket))
    async with httpx.AsyncClient(transport=transport, timeout=10, trust_env=False) as http:
        try:
            answer = await http.get("http://localhost/readyz")
        except httpx.HTTPError as error:
            return {"ready": False, "missing": {"server": f"does not answer ({type(error).__name__})"}}
    body = answer.json()
    return {"ready": answer.status_code == 200, "missing": body.get("missing", {})}


def _models(settings: Settings) -> tuple[str, dict[str, str]]:
    from mien.runtime.fetch import pack_in_use, pack_states

    return pack_in_use(settings).name, pack_states(settings)


@click.command()
@options
def status(shown: Shown) -> int:
    """Show what runs on the data folder, and what is missing. Exit code 4 if a server is not ready."""
    from mien import __version__
    from mien.runtime.owner import find_owner

    settings = shown.settings()
    info = find_owner(settings.data_dir)
    state: dict[str, Any] = {"ready": False, "missing": {}}
    if info is not None and info.socket is not None:
        state = asyncio.run(_ready(info))
    pack, packs = _models(settings)
    data_bytes = _size(settings.data_dir)
    value = {
        "version": __version__,
        "data_dir": str(settings.data_dir),
        "data_bytes": data_bytes,
        "models_dir": str(settings.models_dir),
        "pack": pack,
        "packs": packs,
        "server": None
        if info is None
        else {"pid": info.pid, "url": info.url, "socket": str(info.socket) if info.socket else None, **state},
    }
    if shown.as_json:
        shown.json(value)
    else:
        rows: list[tuple[str, object]] = [("version", __version__)]
        if info is None:
            rows.append(("server", "none runs on this folder; `mien serve` starts one"))
        elif info.socket is None:
            rows.append(("owner", f"process {info.pid}, a command or a server that is starting"))
        else:
            word = "ready" if state["ready"] else "not ready"
            rows.append(("server", f"{word}, process {info.pid}, {info.url}"))
            rows += [(f"  {part}", what) for part, what in sorted(state["missing"].items())]
        rows.append(("data", f"{settings.data_dir} ({data_bytes / 1e6:.1f} MB)"))
        rows.append(("models", settings.models_dir))
        rows += [(f"  {name}", ("in use, " if name == pack else "") + word) for name, word in packs.items()]
        shown.table(["", ""], rows)
    return 4 if info is not None and info.socket is not None and not state["ready"] else 0


@click.command()
@click.option("--markdown", is_flag=True, help="Print docs/settings.md.")
@options
def settings(shown: Shown, markdown: bool) -> None:
    """Show every setting and its value here."""
    from mien.runtime.settings import settings_markdown, unknown_variables

    if markdown:
        click.echo(settings_markdown(), nl=False)
        return
    value = shown.settings().model_dump(mode="json")
    if shown.as_json:
        shown.json(value)
        return
    rows: list[tuple[str, object]] = []
    for name, inner in value.items():
        if isinstance(inner, dict):
            rows += [(f"MIEN_{name}__{part}".upper(), text) for part, text in inner.items()]
        else:
            shown_value = ", ".join(inner) if isinstance(inner, list) else inner
            rows.append((f"MIEN_{name}".upper(), shown_value))
    shown.table(["setting", "value"], rows)
    for name in unknown_variables():
        shown.notice(f"{name} is set and is no setting of Mien.")


@click.command()
@options
def openapi(shown: Shown) -> None:
    """Print the API's OpenAPI document. It does not depend on your data."""
    from mien.runtime.client import connect
    from mien.runtime.settings import get_settings

    async def work() -> Any:
        with tempfile.TemporaryDirectory(prefix="mien-") as folder:
            async with connect(get_settings(data_dir=Path(folder))) as client:
                return await client.call("GET", "/openapi.json")

    from mien.runtime import logs

    logs.configure("error", "console")
    shown.json(asyncio.run(work()))


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    bash: eval "$(mien completion bash)" in ~/.bashrc; zsh: the same in ~/.zshrc; fish: mien completion
    fish > ~/.config/fish/completions/mien.fish
    """
    from click.shell_completion import get_completion_class

    from mien.runtime.cli import cli

    kind = get_completion_class(shell)
    assert kind is not None
    click.echo(kind(cli, {}, "mien", "_MIEN_COMPLETE").source())
