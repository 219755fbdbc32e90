"""`mien search`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mien.runtime.cli.frame import Shown, options, policy_options, quoted, read_photo
from mien.runtime.cli.photos import (
    annotate_target,
    called,
    check_target,
    place,
    upload,
    write_annotated,
)

if TYPE_CHECKING:
    from mien.runtime.client import Client


@click.command()
@click.argument("collection")
@click.argument("photo", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--max-matches", "-n", type=click.IntRange(1, 1000), default=5, show_default=True)
@policy_options("score", "distance", "fmr", "fpir")
@click.option("--persons", is_flag=True, help="Search for persons instead of faces.")
@click.option(
    "--annotate", type=click.Path(path_type=Path, dir_okay=False), help="Write the photo with names."
)
@click.option("--thorough", is_flag=True, help="Look for tiny faces in big photos, too (slower).")
@options
def search(
    shown: Shown,
    collection: str,
    photo: Path,
    max_matches: int,
    policy: dict[str, float] | None,
    persons: bool,
    annotate: Path | None,
    thorough: bool,
) -> int:
    """Search COLLECTION for every face of PHOTO. Exit code 1 if nobody is found."""
    if annotate is not None:
        check_target(annotate, several=False)
    data = read_photo(photo)
    fields = {"max_matches": str(max_matches), "thorough": str(thorough).lower()}
    if policy:
        fields["policy"] = json.dumps(policy)
    what = "persons/search" if persons else "search"

    async def work(client: Client) -> tuple[dict[str, Any], dict[str, str]]:
        path = f"/v1/collections/{quoted(collection)}"
        reply = await called(client, f"{path}/{what}", photo, data=fields, files={"file": upload(data)})
        names: dict[str, str] = {}
        if not persons:
            # Matches carry persons' ids: their names are asked for, each once.
            ids = {m["person_id"] for face in reply["faces"] for m in face["matches"] if m["person_id"]}
            for person_id in sorted(ids):
                person = await client.call("GET", f"{path}/persons/{person_id}")
                names[person_id] = person["name"] or person["external_id"] or person_id
        return reply, names

    reply, names = shown.run(work, models=True)
    faces = reply["faces"]
    if annotate is not None:
        target = annotate_target(annotate, photo.name, several=False)
        write_annotated(target, data, faces, [_label(face, names) for face in faces])
    if shown.as_json:
        shown.json(reply)
    else:
        _show(shown, reply, names, persons=persons)
    return 0 if any(face.get("matches") or face.get("persons") for face in faces) else 1


def _who(match: dict[str, Any], names: dict[str, str]) -> str:
    if match["person_id"]:
        return names.get(match["person_id"], str(match["person_id"]))
    return str(match["external_image_id"] or match["face_id"])


def _label(face: dict[str, Any], names: dict[str, str]) -> str:
    if face.get("persons"):
        best = face["persons"][0]
        return f"{best['person']['name'] or best['person']['external_id']} {best['best_score']:.2f}"
    if face.get("matches"):
        return f"{_who(face['matches'][0], names)} {face['matches'][0]['score']:.2f}"
    return "unknown"


def _show(shown: Shown, reply: dict[str, Any], names: dict[str, str], *, persons: bool) -> None:
    rows: list[list[object]] = []
    for number, face in enumerate(reply["faces"], 1):
        first: list[object] = [number, place(face)]
        if persons:
            found = [
                [
                    m["person"]["name"] or m["person"]["external_id"] or m["person"]["person_id"],
                    m["best_face_id"],
                    f"{m['best_score']:.3f}",
                    _similarity(m),
                ]
                for m in face["persons"]
            ]
        else:
            found = [
                [_who(m, names), m["face_id"], f"{m['score']:.3f}", _similarity(m)] for m in face["matches"]
            ]
        for row in found or [["unknown", "", "", ""]]:
            rows.append([*first, *row])
            first = ["", ""]
    if rows:
        shown.table([">#", "box (px)", "who", "face", ">score", ">similarity"], rows)
    if reply.get("note"):
        shown.line(f"  {reply['note']}")
    for left in reply["unsearched"]:
        shown.line(f"  not searched: {place(left)} ({', '.join(left['reasons'])})")
    limit = reply["threshold"]
    facts = [f"a match from score {limit['score']:.3f} on"]
    if limit.get("fpir") is not None:
        facts.append(f"names a stranger in {limit['fpir']:.2%} of searches")
    if limit.get("fnmr") is not None:
        facts.append(f"misses {limit['fnmr']:.1%} of true matches")
    shown.line(f"  {', '.join(facts)} (gallery of {limit['gallery_size']})", "dim")


def _similarity(match: dict[str, Any]) -> str:
    return "" if match["similarity"] is None else f"{match['similarity']:.1f}"
