"""`mien calibrate`: a score <-> FMR table from labelled photos."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mien.kit.errors import BadInput
from mien.runtime.cli.frame import Shown, options
from mien.runtime.cli.labelled import ACCEPT

if TYPE_CHECKING:
    from mien.runtime.cli.labelled import Templates
    from mien.vision.allpairs import AllPairs, NotablePair
    from mien.vision.calibration import Calibration

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"})
_MOST_PHOTOS = 200_000
GALLERIES = (100, 1_000, 10_000, 100_000)
_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Labelled:
    """A folder of people: photo i belongs to person `person_of[i]`, whose name is `people[...]`."""

    paths: tuple[Path, ...]
    person_of: tuple[int, ...]
    people: tuple[str, ...]


@click.command(short_help="Make a calibration table from your photos.")
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False, exists=True))
@click.option("--pack", help="The recognition pack to calibrate (default: the one in use).")
@click.option(
    "--name", default="", help="Keep the table under this name beside the one in use, not instead of it."
)
@click.option(
    "--replace", is_flag=True, help="Use the table even if it reaches less far than the packaged one."
)
@click.option(
    "--same-people",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Pairs of names that are one person (or twins), a tab between: left out.",
)
@click.option(
    "--plots", type=click.Path(path_type=Path, file_okay=False), help="A folder for the table's plot (PNG)."
)
@click.option("--threads", type=click.IntRange(1, 256), help="Photos at a time (default: one per core).")
@ACCEPT
@options
def calibrate(
    shown: Shown,
    folder: Path,
    pack: str | None,
    name: str,
    replace: bool,
    same_people: Path | None,
    plots: Path | None,
    threads: int | None,
    accepted: tuple[str, ...],
) -> None:
    """Make a calibration table from FOLDER, which holds a folder of photos for each person.

    All pairs of photos are compared. The table says, for each score, how often two people reach it
    (FMR) and how many pairs of one person do (TAR), for exactly the pack's recipe. It is written to the
    data folder and used for this pack from then on (a running server takes it at the next search), unless
    the table in the package reaches lower rates.
    Look at the closest pairs of two people that are shown: they are mostly wrong labels, and a few of
    them spoil the low rates.
    """
    import numpy as np

    from mien.runtime.cli import labelled
    from mien.vision.allpairs import calibration, cautions, compare_all

    if name and not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", name):
        raise BadInput("A table's name is 1 to 64 letters, digits, '_' and '-'.", field="name")
    settings = shown.settings()
    photos = labelled_photos(folder)
    ignored = read_same_people(same_people, photos.people) if same_people else frozenset()
    chosen, *others = labelled.pack_names(pack, settings)
    if others:
        raise BadInput("A table is for one pack.", field="pack")
    many = threads or settings.pipeline_threads
    analyzer = labelled.open_pack(chosen, settings, many, accepted)
    with labelled.progress(shown.err, f"{chosen}: photos", len(photos.paths)) as done:
        found = labelled.templates(photos.paths, analyzer, many, done)
    rows = np.flatnonzero(found.found)
    who = np.array(photos.person_of, np.int64)[rows]
    with labelled.progress(shown.err, f"{chosen}: pairs", len(rows)) as done:
        pairs = compare_all(found.vectors[rows], who, ignored=ignored, progress=lambda at, _: done(at))
    names = f"{len(rows):,} photos of {len(set(who.tolist())):,} people"
    table = calibration(
        pairs,
        space=analyzer.space.key,
        name=name or "own",
        recipe=f"pack {chosen} on {found.runtime}",
        measured_on=f"all pairs of {names} ({folder.resolve().name})",
    )
    words = cautions(pairs, table)
    path, used = _destination(settings.data_dir / "calibration", table, name, replace=replace)
    write_table(path, table)
    if not used and not name:
        words = (
            *words,
            "The packaged table of this space reaches lower FMRs, so it stays in use and this one is kept "
            "beside it; --replace uses this one all the same.",
        )
    files = _plot(plots, table, chosen) if plots else []
    kept = [photos.paths[i] for i in rows]
    if shown.as_json:
        shown.json(_document(table, path, used, photos, found, pairs, kept, words, files, folder))
    else:
        _print(shown, table, path, found, pairs, kept, words, files, folder)


def labelled_photos(folder: Path) -> Labelled:
    """The photos of `folder`/PERSON/; BadInput if there are none, fewer than two people or too many."""
    paths: list[Path] = []
    person_of: list[int] = []
    people: list[str] = []
    for person in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        files = sorted(f for f in person.iterdir() if f.suffix.lower() in SUFFIXES and f.is_file())
        if files:
            paths += files
            person_of += [len(people)] * len(files)
            people.append(person.name)
    if len(people) < 2:
        raise BadInput(
            "Calibration needs a folder of photos for each person, two people or more: FOLDER/NAME/photo.jpg."
        )
    if len(paths) > _MOST_PHOTOS:
        raise BadInput(f"There are {len(paths)} photos; a table is made of at most {_MOST_PHOTOS}.")
    return Labelled(tuple(paths), tuple(person_of), tuple(people))


def read_same_people(path: Path, people: Sequence[str]) -> frozenset[tuple[int, int]]:
    """Pairs of people's numbers (smaller first); lines `NAME<tab>NAME`; BadInput naming a wrong line."""
    number = {name: i for i, name in enumerate(people)}
    out = set()
    for line_number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = [p.strip() for p in line.split("\t")]
        if len(parts) != 2 or parts[0] == parts[1]:
            raise BadInput(f"Line {line_number} of {path.name} is not two names with a tab between.")
        if all(p in number for p in parts):  # one list serves parts of a set
            low, high = sorted(number[p] for p in parts)
            out.add((low, high))
    return frozenset(out)


def _destination(folder: Path, table: Calibration, name: str, *, replace: bool) -> tuple[Path, bool]:
    """Where the table goes, and whether it is used from then on.

    One that reaches less far than the packaged one takes its place only with `replace`.
    """
    from mien.vision.calibration import Calibration as Tables

    packaged = Tables.for_space(table.space)
    better = packaged is None or table.lowest_fmr <= packaged.lowest_fmr * 1.001
    if not name and (better or replace):
        return folder / f"{table.space}.json", True
    return folder / f"{table.space}@{name or 'own'}.json", False


def write_table(path: Path, table: Calibration) -> None:
    """Write it whole or not at all: a server may read it at any time."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".table-", suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(table.to_json())
            file.flush()
            os.fsync(file.fileno())
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise


def _plot(folder: Path, table: Calibration, name: str) -> list[Path]:
    from mien.vision import plots

    return [plots.tables(folder / "calibration.png", [table], [name])]


def _suspects(found: Sequence[NotablePair], kept: Sequence[Path], folder: Path) -> list[dict[str, Any]]:
    return [
        {
            "score": round(p.score, 4),
            "first": kept[p.first].relative_to(folder).as_posix(),
            "second": kept[p.second].relative_to(folder).as_posix(),
        }
        for p in found
    ]


def _document(
    table: Calibration,
    path: Path,
    used: bool,
    photos: Labelled,
    found: Templates,
    pairs: AllPairs,
    kept: Sequence[Path],
    words: Sequence[str],
    files: Sequence[Path],
    folder: Path,
) -> dict[str, Any]:
    from mien.vision.calibration import MatchPolicy

    return {
        "space": table.space,
        "name": table.name,
        "path": str(path),
        "in_use": used,
        "digest": table.digest,
        "photos": len(photos.paths),
        "people": len(photos.people),
        "undetected": int((~found.found).sum()),
        "unreadable": [p.relative_to(folder).as_posix() for p in found.unreadable],
        "impostor_pairs": table.impostor_pairs,
        "genuine_pairs": table.genuine_pairs,
        "lowest_fmr": table.lowest_fmr,
        "rows": [list(r) for r in table.rows],
        "thresholds": {
            str(n): {"score": t.score, "fpir": t.fpir, "fnmr": t.fnmr, "extrapolated": t.extrapolated}
            for n in GALLERIES
            for t in (table.threshold(MatchPolicy(), n),)
        },
        "cautions": list(words),
        "lookalikes": _suspects(pairs.lookalikes, kept, folder),
        "strangers": _suspects(pairs.strangers, kept, folder),
        "plots": [str(f) for f in files],
    }


def _print(
    shown: Shown,
    table: Calibration,
    path: Path,
    found: Templates,
    pairs: AllPairs,
    kept: Sequence[Path],
    words: Sequence[str],
    files: Sequence[Path],
    folder: Path,
) -> None:
    from mien.vision.calibration import MatchPolicy

    shown.table(
        [">FMR", ">score", ">TAR", ">pairs of two"],
        [
            [f"{f:.2e}", f"{s:.4f}", f"{100 * t:.2f} %", f"{f * table.impostor_pairs:,.0f}"]
            for f, s, t in table.rows
        ],
        f"{table.space}: {table.measured_on}",
    )
    shown.table(
        [">search among", ">score", ">FPIR", ">missed"],
        [
            [
                f"{n:,} faces" + (" *" if t.extrapolated else ""),
                f"{t.score:.4f}",
                f"{100 * (t.fpir or 0):.3g} %",
                f"{100 * (t.fnmr or 0):.2f} %",
            ]
            for n in GALLERIES
            for t in (table.threshold(MatchPolicy(), n),)
        ],
        "The default, FPIR at most 1 % (* extrapolated)",
    )
    for title, listed in (
        ("The closest photos of two people: wrong labels, or one person under two names?", pairs.lookalikes),
        ("The farthest photos of one person: wrong labels, or the wrong face?", pairs.strangers),
    ):
        rows = [[s["score"], s["first"], s["second"]] for s in _suspects(listed[:_SHOWN], kept, folder)]
        shown.table([">score", "first", "second"], rows, title)
    missing = int((~found.found).sum())
    if missing:
        shown.notice(f"{missing:,} photos show no face or can't be read ({len(found.unreadable)}); left out.")
    for word in words:
        shown.notice(word)
    for file in (path, *files):
        shown.notice(f"written: {file}")
