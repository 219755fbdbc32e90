"""`mien collections`, `mien faces` and `mien persons`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from mien.runtime.cli.frame import Shown, confirm, counted, options, policy_options, quoted

if TYPE_CHECKING:
    from mien.runtime.client import Client

_LIMIT = click.option("--limit", type=click.IntRange(1, 1_000_000), default=100, show_default=True)


async def take(client: Client, path: str, items: str, limit: int) -> list[dict[str, Any]]:
    """The first `limit` entries of a list."""
    taken: list[dict[str, Any]] = []
    async for entry in client.pages(path, items, limit=min(limit, 1000)):
        taken.append(entry)
        if len(taken) == limit:
            break
    return taken


def _when(text: str) -> str:
    return text[:19].replace("T", " ")


def _policy(policy: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:g}" for name, value in policy.items())


@click.group()
def collections() -> None:
    """Collections: named galleries of faces."""


@collections.command("list")
@_LIMIT
@options
def list_collections(shown: Shown, limit: int) -> int:
    """List the collections. Exit code 1 if there is none."""
    found = shown.run(lambda client: take(client, "/v1/collections", "collections", limit))
    if shown.as_json:
        shown.json({"collections": found})
    elif found:
        rows = [
            (c["name"], c["face_count"], _policy(c["policy"]), c["space"]["key"], _when(c["created_at"]))
            for c in found
        ]
        shown.table(["name", ">faces", "policy", "space", "created"], rows)
    else:
        shown.out.print("No collection yet; `mien collections create NAME` makes one.")
    return 0 if found else 1


@collections.command("create")
@click.argument("name")
@click.option("--description", default="")
@policy_options("score", "distance", "fmr", "fpir")
@options
def create_collection(shown: Shown, name: str, description: str, policy: dict[str, float] | None) -> None:
    """Make a collection in the space of the models in use."""
    body = {"name": name, "description": description, **({"policy": policy} if policy else {})}
    made = shown.run(lambda client: client.call("POST", "/v1/collections", json=body))
    if shown.as_json:
        shown.json(made)
    else:
        shown.line(f"Made {made['name']} in the space {made['space']['key']}.")


@collections.command("describe")
@click.argument("name")
@options
def describe_collection(shown: Shown, name: str) -> None:
    """Show a collection with its counts, threshold and index."""
    found = shown.run(lambda client: client.call("GET", f"/v1/collections/{quoted(name)}"))
    if shown.as_json:
        shown.json(found)
        return
    limit = found["threshold"]
    rows: list[tuple[str, object]] = [
        ("name", found["name"]),
        ("description", found["description"]),
        ("faces", found["face_count"]),
        ("persons", found["person_count"]),
        ("space", found["space"]["key"]),
        ("policy", _policy(found["policy"])),
        ("match from score", f"{limit['score']:.3f}"),
    ]
    if limit.get("fnmr") is not None:
        rows.append(("misses", f"{limit['fnmr']:.2%} of true matches"))
    if found.get("index"):
        index = found["index"]
        size = f"{index['memory_bytes'] / 1e6:.1f} MB"
        rows.append(("index", f"{index['kind']}, {index['live']} faces, {size}, {index['behind']} behind"))
    rows.append(("created", _when(found["created_at"])))
    shown.table(["", ""], rows)


@collections.command("delete")
@click.argument("name")
@click.option("--yes", is_flag=True, help="Do not ask.")
@options
def delete_collection(shown: Shown, name: str, yes: bool) -> None:
    """Delete a collection with all its faces and persons."""
    path = f"/v1/collections/{quoted(name)}"
    if not yes:
        # Not one that is not there; and the folder is not held while somebody thinks.
        found = shown.run(lambda client: client.call("GET", path))
        confirm(f"Delete the collection {name} with its {counted(found['face_count'], 'face')}?")
    shown.run(lambda client: client.call("DELETE", path))
    if shown.as_json:
        shown.json({"deleted": [name]})
    else:
        shown.line(f"Deleted {name}.")


@click.group()
def faces() -> None:
    """Faces of a collection."""


@faces.command("list")
@click.argument("collection")
@_LIMIT
@options
def list_faces(shown: Shown, collection: str, limit: int) -> int:
    """List the faces of COLLECTION. Exit code 1 if there is none."""
    path = f"/v1/collections/{quoted(collection)}/faces"
    found = shown.run(lambda client: take(client, path, "faces", limit))
    if shown.as_json:
        shown.json({"faces": found})
        return 0 if found else 1
    rows = []
    for face in found:
        quality = face["quality_score"]
        shown_quality = f"{quality:.2f}" if quality is not None else ""
        rows.append(
            (
                face["face_id"],
                face["external_image_id"],
                face["person_id"],
                shown_quality,
                _when(face["created_at"]),
            )
        )
    if rows:
        shown.table(["face", "photo", "person", ">quality", "created"], rows)
    else:
        shown.out.print("No face yet; `mien index` adds some.")
    return 0 if found else 1


@faces.command("delete")
@click.argument("collection")
@click.argument("face_ids", nargs=-1, required=True, metavar="FACE…")
@options
def delete_faces(shown: Shown, collection: str, face_ids: tuple[str, ...]) -> int:
    """Delete faces. Exit code 1 if one of them is not there."""
    path = f"/v1/collections/{quoted(collection)}/faces/delete"
    gone = shown.run(lambda client: client.call("POST", path, json={"face_ids": list(face_ids)}))
    if shown.as_json:
        shown.json(gone)
    else:
        shown.out.print(f"Deleted {len(gone['deleted'])}.")
        for face_id in gone["not_found"]:
            shown.line(f"Not there: {face_id}")
    return 1 if gone["not_found"] else 0


@click.group()
def persons() -> None:
    """Persons of a collection: identities with several faces."""


@persons.command("list")
@click.argument("collection")
@_LIMIT
@options
def list_persons(shown: Shown, collection: str, limit: int) -> int:
    """List the persons of COLLECTION. Exit code 1 if there is none."""
    path = f"/v1/collections/{quoted(collection)}/persons"
    found = shown.run(lambda client: take(client, path, "persons", limit))
    if shown.as_json:
        shown.json({"persons": found})
    elif found:
        rows = [(p["person_id"], p["name"], p["kind"], p["external_id"], p["face_count"]) for p in found]
        shown.table(["person", "name", "kind", "external id", ">faces"], rows)
    else:
        shown.out.print("No person yet; `mien persons create` makes one.")
    return 0 if found else 1


async def _require_faces(client: Client, collection: str, face_ids: tuple[str, ...]) -> None:
    """ClickException (exit code 3) naming those that are not there, before anything is made."""
    from mien.runtime.client import Answered

    absent = []
    for face_id in face_ids:
        try:
            await client.call("GET", f"/v1/collections/{quoted(collection)}/faces/{quoted(face_id)}")
        except Answered as error:
            if error.status not in (404, 422):
                raise
            absent.append(face_id)
    if absent:
        # Asked for once more, so that a missing collection is told as what it is.
        await client.call("GET", f"/v1/collections/{quoted(collection)}")
        raise click.ClickException(f"{collection} has no face {', '.join(absent)}; no person was made.")


@persons.command("create")
@click.argument("collection")
@click.argument("name")
@click.option("--kind", default="", help="A word of yours, such as staff.")
@click.option("--external-id", help="Your own id; unique in the collection.")
@click.option("--face", "face_ids", multiple=True, help="A face of theirs (may be given several times).")
@options
def create_person(
    shown: Shown,
    collection: str,
    name: str,
    kind: str,
    external_id: str | None,
    face_ids: tuple[str, ...],
) -> None:
    """Make a person, with faces that are in the collection."""
    path = f"/v1/collections/{quoted(collection)}/persons"

    async def work(client: Client) -> dict[str, Any]:
        body = {"name": name, "kind": kind, "external_id": external_id}
        await _require_faces(client, collection, face_ids)
        person: dict[str, Any] = await client.call("POST", path, json=body)
        if face_ids:
            at = f"{path}/{person['person_id']}"
            await client.call("POST", f"{at}/faces", json={"face_ids": list(face_ids)})
            person = await client.call("GET", at)
        return person

    made = shown.run(work)
    if shown.as_json:
        shown.json(made)
    else:
        shown.line(f"Made {made['name']} ({made['person_id']}), {counted(made['face_count'], 'face')}.")


@persons.command("delete")
@click.argument("collection")
@click.argument("person_id", metavar="PERSON")
@options
def delete_person(shown: Shown, collection: str, person_id: str) -> None:
    """Delete a person; their faces stay in the collection."""
    path = f"/v1/collections/{quoted(collection)}/persons/{quoted(person_id)}"
    shown.run(lambda client: client.call("DELETE", path))
    if shown.as_json:
        shown.json({"deleted": [person_id]})
    else:
        shown.line(f"Deleted {person_id}.")
