"""`mien keys`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import click

from mien.runtime.cli.collections import take
from mien.runtime.cli.frame import Shown, confirm, options, quoted

_ADMINISTRATORS = ("system_admin", "tenant_admin")


def _state(key: dict[str, Any]) -> str:
    """Why the key does not hold; empty for one that does."""
    if key.get("revoked_at"):
        return "revoked"
    expires = key.get("expires_at")
    return "expired" if expires and datetime.fromisoformat(expires) <= datetime.now(UTC) else ""


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
                _state(key),
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
@click.option("--expires-in-days", type=click.FloatRange(0, 36_500, min_open=True), help="Default: never.")
@options
def create_key(shown: Shown, name: str, kind: str, expires_in_days: float | None) -> None:
    """Make a key; its text is shown this once."""
    body = {"name": name, "kind": kind}
    if expires_in_days is not None:
        body["expires_at"] = (datetime.now(UTC) + timedelta(days=expires_in_days)).isoformat()
    made = shown.run(lambda client: client.call("POST", "/v1/keys", json=body))
    if shown.as_json:
        shown.json(made)
    else:
        shown.line(made["key"])
        shown.notice("Keep it now: it is shown this once and stored only as a digest.")


@keys.command("revoke")
@click.argument("key_id", metavar="KEY")
@click.option("--yes", is_flag=True, help="Do not ask, also for the last administrator's key.")
@options
def revoke_key(shown: Shown, key_id: str, yes: bool) -> None:
    """Revoke a key, by its id."""
    if not yes:
        found = shown.run(lambda client: take(client, "/v1/keys", "keys", 10_000))
        working = [key["id"] for key in found if key["role"] in _ADMINISTRATORS and not _state(key)]
        if working == [key_id]:
            confirm(
                "This is the last administrator's key: without it only commands on this machine administer"
                " Mien (`mien keys create` makes a new one). Revoke it?"
            )
    revoked = shown.run(lambda client: client.call("POST", f"/v1/keys/{quoted(key_id)}/revoke"))
    if shown.as_json:
        shown.json(revoked)
    else:
        shown.line(f"Revoked {key_id}.")
