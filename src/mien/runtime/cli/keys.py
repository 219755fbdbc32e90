"""`mien keys`."""

from __future__ import annotations

import click

from mien.runtime.cli.collections import take
from mien.runtime.cli.frame import Shown, options, quoted


@click.group()
def keys() -> None:
    """API keys. A lost key can't be shown again: make a new one and revoke the old."""


@keys.command("list")
@options
def list_keys(shown: Shown) -> int:
    """List the keys (never their secrets). Exit code 1 if there is none."""
    found = shown.run(lambda client: take(client, "/v1/keys", "keys", 10_000))
    if shown.as_json:
        shown.json({"keys": found})
    elif found:
        rows = [
            (
                key["id"],
                key["name"],
                f"mien_{key['prefix']}_",
                key["role"],
                key["created_at"][:19],
                (key.get("last_used_at") or "")[:19],
                "revoked" if key.get("revoked_at") else "",
            )
            for key in found
        ]
        shown.table(["key", "name", "begins with", "role", "created", "last used", ""], rows)
    else:
        shown.out.print("No key; `mien keys create` makes one.")
    return 0 if found else 1


@keys.command("create")
@click.option("--name", default="made by a command", show_default=True, help="What it is for.")
@click.option(
    "--kind",
    type=click.Choice(["admin", "service"]),
    default="admin",
    show_default=True,
    help="admin may do everything, service recognises and reads.",
)
@options
def create_key(shown: Shown, name: str, kind: str) -> None:
    """Make a key; its text is shown this once."""
    body = {"name": name, "kind": kind}
    made = shown.run(lambda client: client.call("POST", "/v1/keys", json=body))
    if shown.as_json:
        shown.json(made)
    else:
        shown.line(made["key"])
        shown.notice("Keep it now: it is shown this once and stored only as a digest.")


@keys.command("revoke")
@click.argument("key_id", metavar="KEY")
@options
def revoke_key(shown: Shown, key_id: str) -> None:
    """Revoke a key, by its id."""
    revoked = shown.run(lambda client: client.call("POST", f"/v1/keys/{quoted(key_id)}/revoke"))
    if shown.as_json:
        shown.json(revoked)
    else:
        shown.line(f"Revoked {key_id}.")
