"""`mien detect` and `mien compare`: photos alone, nothing is stored."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mien.runtime.cli.frame import Shown, options, read_photo

if TYPE_CHECKING:
    from mien.runtime.client import Client

_ATTRIBUTES = ("quality", "pose", "liveness", "eyes", "emotion", "objects")
_PHOTO = click.Path(path_type=Path, dir_okay=False)


def upload(data: bytes) -> tuple[str, bytes, str]:
    """A photo as a file of a form. The file's own name stays on this side."""
    return ("photo", data, "application/octet-stream")


def place(face: dict[str, Any]) -> str:
    """A face's box for people: its middle and size in px."""
    box = face["bounding_box"]
    return f"{box['x']:.0f},{box['y']:.0f} {box['width']:.0f}x{box['height']:.0f}"


def _mood(face: dict[str, Any]) -> str:
    emotion = face.get("emotion")
    return f"{emotion['label']} {emotion['confidence']:.0%}" if emotion else ""


def _head(face: dict[str, Any]) -> str:
    pose = (face.get("quality") or {}).get("pose") or face.get("pose")
    return f"{pose['yaw']:+.0f}° {pose['pitch']:+.0f}° {pose['roll']:+.0f}°" if pose else ""


def _show_faces(shown: Shown, path: Path, reply: dict[str, Any], asked: tuple[str, ...]) -> None:
    faces = reply["faces"]
    size = reply["image"]
    title = f"{path}  {size['width']}x{size['height']}"
    if not faces:
        shown.out.print(f"{path}: no face found", markup=False)
    else:
        columns = [">#", "box (px)", ">confidence", ">quality", "lowered by"]
        if "pose" in asked or "quality" in asked:
            columns.append("yaw pitch roll")
        extra = [name for name in ("liveness", "eyes", "emotion") if name in asked]
        columns += [">live" if name == "liveness" else name for name in extra]
        rows = []
        for number, face in enumerate(faces, 1):
            quality = face.get("quality") or {}
            row: list[object] = [
                number,
                place(face),
                f"{face['confidence']:.2f}",
                f"{quality['overall']:.2f}" if quality else "",
                ", ".join(quality.get("reasons", ())),
            ]
            if "pose" in asked or "quality" in asked:
                row.append(_head(face))
            for name in extra:
                value = face.get(name) or {}
                row.append(
                    {
                        "liveness": f"{value.get('real', 0):.0%}",
                        "eyes": f"{value.get('left_open', 0):.0%} {value.get('right_open', 0):.0%}",
                        "emotion": _mood(face),
                    }[name]
                )
            rows.append(row)
        shown.table(columns, rows, title)
    if reply.get("objects"):
        seen = ", ".join(f"{o['label']} {o['confidence']:.0%}" for o in reply["objects"])
        shown.out.print(f"  objects: {seen}", markup=False)


@click.command()
@click.argument("photos", nargs=-1, required=True, type=_PHOTO, metavar="PHOTO…")
@click.option(
    "--attributes", "-a", default="quality", help=f"What to tell, of {','.join(_ATTRIBUTES)} (or all)."
)
@click.option(
    "--annotate",
    type=click.Path(path_type=Path),
    help="Write the photo with boxes here (a folder for several photos).",
)
@click.option("--thorough", is_flag=True, help="Look for tiny faces in big photos, too (slower).")
@click.option("--max-faces", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--min-confidence", type=click.FloatRange(0, 1), default=0.6, show_default=True)
@options
def detect(
    shown: Shown,
    photos: tuple[Path, ...],
    attributes: str,
    annotate: Path | None,
    thorough: bool,
    max_faces: int,
    min_confidence: float,
) -> int:
    """Find the faces in photos. Exit code 1 if no photo has one."""
    asked = (
        _ATTRIBUTES if attributes == "all" else tuple(a.strip() for a in attributes.split(",") if a.strip())
    )
    if unknown := sorted(set(asked) - set(_ATTRIBUTES)):
        raise click.UsageError(f"There is no attribute {unknown[0]!r}; there are {', '.join(_ATTRIBUTES)}.")
    if annotate is not None and len(photos) > 1 and annotate.exists() and not annotate.is_dir():
        raise click.UsageError("--annotate must be a folder for several photos.")
    contents = [read_photo(path) for path in photos]
    fields = {
        "attributes": ",".join(asked),
        "thorough": str(thorough).lower(),
        "max_faces": str(max_faces),
        "min_confidence": str(min_confidence),
    }

    async def work(client: Client) -> list[dict[str, Any]]:
        return [
            await client.call("POST", "/v1/detect", data=fields, files={"file": upload(data)})
            for data in contents
        ]

    replies = shown.run(work, models=True)
    for path, data, reply in zip(photos, contents, replies, strict=True):
        if annotate is not None:
            target = annotate / path.name if len(photos) > 1 else annotate
            write_annotated(target, data, reply["faces"], [""] * len(reply["faces"]))
    if shown.as_json:
        shown.json({"photos": [{"path": str(p), **r} for p, r in zip(photos, replies, strict=True)]})
    else:
        for path, reply in zip(photos, replies, strict=True):
            _show_faces(shown, path, reply, asked)
    return 0 if any(reply["faces"] for reply in replies) else 1


@click.command()
@click.argument("source", type=_PHOTO)
@click.argument("target", type=_PHOTO)
@click.option("--score", type=float, help="Match from this cosine similarity on.")
@click.option("--fmr", type=float, help="Match at this false match rate (default 0.001).")
@options
def compare(shown: Shown, source: Path, target: Path, score: float | None, fmr: float | None) -> int:
    """Compare all faces of two photos. Exit code 1 if none match."""
    if score is not None and fmr is not None:
        raise click.UsageError("Give --score or --fmr, not both.")
    first, second = read_photo(source), read_photo(target)
    policy = {"score": score} if score is not None else {"fmr": fmr} if fmr is not None else None

    async def work(client: Client) -> dict[str, Any]:
        import json

        reply: dict[str, Any] = await client.call(
            "POST",
            "/v1/compare",
            data={"policy": json.dumps(policy)} if policy else {},
            files={"source": upload(first), "target": upload(second)},
        )
        return reply

    reply = shown.run(work, models=True)
    if shown.as_json:
        shown.json(reply)
    else:
        _show_pairs(shown, source, target, reply)
    return 0 if reply["matches"] else 1


def _show_pairs(shown: Shown, source: Path, target: Path, reply: dict[str, Any]) -> None:
    left, right = reply["source"]["faces"], reply["target"]["faces"]
    for path, faces in ((source, left), (target, right)):
        if not faces:
            shown.out.print(f"{path}: no face found", markup=False)
    matched = {(pair["source"], pair["target"]): pair for pair in reply["matches"]}
    rows = []
    for i, scores in enumerate(reply["scores"]):
        for j, score in enumerate(scores):
            pair = matched.get((i, j))
            # Everything that matches, and each face's nearest for those that have none.
            if pair is None and (any((i, k) in matched for k in range(len(scores))) or score < max(scores)):
                continue
            rows.append(
                (
                    i + 1,
                    place(left[i]),
                    j + 1,
                    place(right[j]),
                    f"{score:.3f}",
                    f"{pair['similarity']:.1f}" if pair and pair["similarity"] is not None else "",
                    "same person" if pair else "no match",
                )
            )
    if rows:
        columns = [
            ">#",
            f"face in {source.name}",
            ">#",
            f"face in {target.name}",
            ">score",
            ">similarity",
            "",
        ]
        shown.table(columns, rows)
        limit = reply["threshold"]
        cost = f", misses {limit['fnmr']:.1%} of true matches" if limit.get("fnmr") is not None else ""
        rate = f" (false match rate {limit['fmr']:.2g}{cost})" if limit.get("fmr") is not None else ""
        shown.out.print(f"  a match from score {limit['score']:.3f} on{rate}", style="dim", markup=False)


def write_annotated(target: Path, data: bytes, faces: list[dict[str, Any]], labels: list[str]) -> None:
    """Write the photo with a box and a label for each face."""
    from mien.runtime.cli.annotate import annotated

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(annotated(data, faces, labels, target.suffix))
    except OSError as error:
        raise click.ClickException(f"{target} can't be written ({error.strerror}).") from None
