"""`mien detect` and `mien compare`: photos alone, nothing is stored."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mien.runtime.cli.frame import Shown, options, policy_options, read_photo

if TYPE_CHECKING:
    from mien.runtime.client import Client

_ATTRIBUTES = ("quality", "pose", "liveness", "eyes", "emotion", "objects")
_PHOTO = click.Path(path_type=Path, dir_okay=False)
FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP"}
"""What --annotate writes, by the file name's ending."""
_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})


def photos_in(paths: tuple[Path, ...]) -> Iterator[tuple[Path, str]]:
    """Each photo and its name: the path below the folder that was given, with its sub-folders."""
    for path in paths:
        if not path.is_dir():
            yield path, path.name
            continue
        for folder, inner, names in os.walk(path):
            inner.sort()
            for name in sorted(names):
                file = Path(folder) / name
                if file.suffix.lower() in _SUFFIXES and not name.startswith("."):
                    yield file, file.relative_to(path).as_posix()


async def called(client: Client, path: str, photo: Path, **sent: Any) -> dict[str, Any]:
    """POST about one photo; what is wrong with the photo is told with its name."""
    from mien.runtime.client import Answered

    try:
        reply: dict[str, Any] = await client.call("POST", path, **sent)
    except Answered as error:
        if not error.of_one_photo:
            raise
        raise error.named(str(photo)) from None
    return reply


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
        shown.line(f"{path}: no face found")
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
        shown.line(f"  objects: {seen}")


@click.command()
@click.argument("photos", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="PHOTO…")
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
    """Find the faces in photos, in all photos of folders, or in one from stdin (-).

    Exit code 3 if some photos could not be read, 1 if no photo has a face.
    """
    asked = (
        _ATTRIBUTES if attributes == "all" else tuple(a.strip() for a in attributes.split(",") if a.strip())
    )
    if unknown := sorted(set(asked) - set(_ATTRIBUTES)):
        raise click.UsageError(f"There is no attribute {unknown[0]!r}; there are {', '.join(_ATTRIBUTES)}.")
    found = list(photos_in(photos))
    if not found:
        raise click.ClickException("There is no photo (JPEG, PNG, WebP, BMP, TIFF) there.")
    alone = len(photos) == 1 and not photos[0].is_dir()
    if annotate is not None:
        check_target(annotate, several=not alone)
    fields = {
        "attributes": ",".join(asked),
        "thorough": str(thorough).lower(),
        "max_faces": str(max_faces),
        "min_confidence": str(min_confidence),
    }
    replies: list[tuple[Path, dict[str, Any]]] = []
    faults: list[dict[str, str]] = []

    async def one(client: Client, path: Path, name: str) -> None:
        data = read_photo(path)
        reply = await called(client, "/v1/detect", path, data=fields, files={"file": upload(data)})
        if annotate is not None:
            into = annotate_target(annotate, name, several=not alone)
            write_annotated(into, data, reply["faces"], [""] * len(reply["faces"]))
        replies.append((path, reply))

    async def work(client: Client) -> None:
        from mien.runtime.client import Answered

        for path, name in found:
            try:
                await one(client, path, name)
            except (Answered, click.ClickException) as error:
                photo_only = not isinstance(error, Answered) or error.of_one_photo
                if alone or not photo_only or isinstance(error, click.UsageError):
                    raise
                faults.append({"path": str(path), "error": error.message})

    shown.run(work, models=True)
    if shown.as_json:
        document: dict[str, Any] = {"photos": [{"path": str(p), **r} for p, r in replies]}
        shown.json({**document, "errors": faults} if not alone else document)
    else:
        for path, reply in replies:
            _show_faces(shown, path, reply, asked)
    for fault in faults:
        shown.fault(fault["error"])
    if faults:
        return 3
    return 0 if any(reply["faces"] for _, reply in replies) else 1


@click.command()
@click.argument("source", type=_PHOTO)
@click.argument("target", type=_PHOTO)
@policy_options("score", "distance", "fmr")
@options
def compare(shown: Shown, source: Path, target: Path, policy: dict[str, float] | None) -> int:
    """Compare all faces of two photos. Exit code 1 if none match.

    Without an option a match is one at a false match rate of 0.001.
    """
    first, second = read_photo(source), read_photo(target)

    async def work(client: Client) -> dict[str, Any]:
        from mien.runtime.client import Answered

        try:
            reply: dict[str, Any] = await client.call(
                "POST",
                "/v1/compare",
                data={"policy": json.dumps(policy)} if policy else {},
                files={"source": upload(first), "target": upload(second)},
            )
        except Answered as error:
            if not error.of_one_photo:
                raise
            # The answer does not say which of the two it is: the first is looked at alone.
            await called(client, "/v1/detect", source, files={"file": upload(first)})
            raise error.named(str(target)) from None
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
            shown.line(f"{path}: no face found")
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
        shown.line(f"  a match from score {limit['score']:.3f} on{rate}", "dim")


def check_target(target: Path, *, several: bool) -> None:
    """UsageError, before any work, for an --annotate that can't be written as the photos ask for."""
    if not target.parent.is_dir():
        raise click.UsageError(f"--annotate: there is no folder {target.parent}.")
    if several and (target.suffix.lower() in FORMATS or target.exists()) and not target.is_dir():
        raise click.UsageError(f"--annotate must be a folder for several photos; {target} is a file's name.")
    if not several and not target.is_dir() and target.suffix.lower() not in FORMATS:
        raise click.UsageError(
            f"--annotate writes {', '.join(FORMATS)}, not {target.suffix or 'a name without ending'}."
        )


def annotate_target(target: Path, name: str, *, several: bool) -> Path:
    """Where the marked photo goes; `name` is the photo's path below the folder that was given."""
    if not several and not target.is_dir():
        return target
    inner = Path("photo.jpg" if name == "-" else name)
    return target / (inner if inner.suffix.lower() in FORMATS else inner.with_name(inner.name + ".jpg"))


def write_annotated(target: Path, data: bytes, faces: list[dict[str, Any]], labels: list[str]) -> None:
    """Write the photo with a box and a label for each face."""
    from mien.runtime.cli.annotate import annotated

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(annotated(data, faces, labels, target.suffix))
    except OSError as error:
        raise click.ClickException(f"{target} can't be written ({error.strerror}).") from None
