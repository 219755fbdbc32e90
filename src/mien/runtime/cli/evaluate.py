"""`mien evaluate`: accuracy on a list of labelled pairs (the format of LFW)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mien.runtime.cli.frame import Shown, options
from mien.runtime.cli.labelled import ACCEPT

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from mien.runtime.cli.labelled import Templates
    from mien.vision.calibration import Threshold
    from mien.vision.evaluation import Verification
    from mien.vision.lfw_pairs import PairList

GALLERIES = (100, 1_000, 10_000, 100_000)


@dataclass(frozen=True, slots=True, eq=False)
class Advice:
    """A threshold and what it did on these pairs. `fnmr_here` and `fmr_here` are measured on them."""

    purpose: str
    threshold: Threshold
    similarity: float | None
    fnmr_here: float
    fmr_here: float


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """One pack on the list. `scores` (N,), NaN where a photo had no face."""

    pack: str
    space: str
    scores: NDArray[np.float64]
    templates: Templates
    result: Verification
    best: float
    advice: tuple[Advice, ...]


@click.command(short_help="Measure the accuracy on labelled pairs.")
@click.argument("pairs", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--images",
    required=True,
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="The folder of photos: NAME/NAME_0001.jpg.",
)
@click.option("--packs", help="Recognition packs to compare, separated by commas (default: the one in use).")
@click.option(
    "--folds",
    default=10,
    show_default=True,
    type=click.IntRange(2, 1000),
    help="Folds, if the list has none.",
)
@click.option("--seed", default=0, show_default=True, type=int, help="Seed of the folds.")
@click.option(
    "--plots",
    type=click.Path(path_type=Path, file_okay=False),
    help="A folder for ROC, DET and score plots (PNG).",
)
@click.option("--threads", type=click.IntRange(1, 256), help="Photos at a time (default: one per core).")
@ACCEPT
@options
def evaluate(
    shown: Shown,
    pairs: Path,
    images: Path,
    packs: str | None,
    folds: int,
    seed: int,
    plots: Path | None,
    threads: int | None,
    accepted: tuple[str, ...],
) -> None:
    """Measure verification on the labelled PAIRS of two photos each.

    PAIRS is in the format of LFW's pairs.txt: a header (the number of pairs of a kind, or folds and
    number), then lines `name i j` and `name1 i name2 j`. Accuracy is ten-fold: the threshold is chosen
    on nine folds and tested on the tenth. In each photo the largest, most central face counts. A photo
    without a face makes its pairs errors in the accuracy, and misses in TAR; it can't match falsely.
    """
    from mien.runtime.cli import labelled
    from mien.vision.lfw_pairs import read_pairs

    settings = shown.settings()
    listed = read_pairs(pairs)
    names = labelled.pack_names(packs, settings)
    paths = _paths(listed, images)
    many = threads or settings.pipeline_threads
    measured = []
    for name in names:
        analyzer = labelled.open_pack(name, settings, many, accepted)
        with labelled.progress(shown.err, f"{name}: photos", len(paths)) as done:
            found = labelled.templates(list(paths.values()), analyzer, many, done)
        measured.append(
            _measure(name, analyzer.space.key, listed, list(paths), found, settings.data_dir, folds, seed)
        )
    files = _plot(plots, listed, measured) if plots is not None else []
    compared = [_compare(a, b) for a, b in combinations(measured, 2)]
    if shown.as_json:
        shown.json(_document(measured, compared, files))
        return
    _print(shown, listed, measured, compared, files)


def _paths(listed: PairList, images: Path) -> dict[Any, Path]:
    """Where each photo is; NotFound naming the first of those that are missing, before any work."""
    from mien.kit.errors import NotFound

    paths, missing = {}, []
    for photo in listed.photos():
        try:
            paths[photo] = photo.path(images)
        except NotFound as error:
            missing.append(error)
    if missing:
        more = f" {len(missing)} photos of the list are missing." if len(missing) > 1 else ""
        raise NotFound(missing[0].message + more, missing=len(missing))
    return paths


def _measure(
    name: str,
    space: str,
    listed: PairList,
    photos: Sequence[Any],
    found: Templates,
    data_dir: Path,
    folds: int,
    seed: int,
) -> Measured:
    import numpy as np

    from mien.vision.evaluation import best_threshold, verification

    row = {photo: i for i, photo in enumerate(photos)}
    first = np.array([row[p.first] for p in listed.pairs])
    second = np.array([row[p.second] for p in listed.pairs])
    same = np.array([p.same for p in listed.pairs])
    scores = np.einsum("nd,nd->n", found.vectors[first], found.vectors[second], dtype=np.float64)
    scores[~(found.found[first] & found.found[second])] = np.nan
    result = verification(scores, same, fold_of=listed.fold_of, folds=folds, seed=seed)
    advice = _advice(space, scores, same, data_dir)
    return Measured(name, space, scores, found, result, best_threshold(scores, same), advice)


def _advice(
    space: str, scores: NDArray[np.float64], same: NDArray[np.bool_], data_dir: Path
) -> tuple[Advice, ...]:
    """Thresholds by the space's table, for one comparison and for searches; none without a table."""
    import numpy as np

    from mien.vision.calibration import Calibrations, MatchPolicy
    from mien.vision.evaluation import tar_at

    table = Calibrations(data_dir / "calibration").for_space(space)
    if table is None:
        return ()
    impostor = scores[~same]
    impostor = impostor[~np.isnan(impostor)]
    cases = [("compare two, FMR 0.1 %", MatchPolicy(fmr=1e-3), 1)]
    cases += [(f"search {n:,} faces, FPIR 1 %", MatchPolicy(fpir=0.01), n) for n in GALLERIES]
    out = []
    for purpose, policy, size in cases:
        at = table.threshold(policy, size)
        false = float(np.mean(impostor >= at.score)) if impostor.size else 0.0
        out.append(Advice(purpose, at, table.similarity(at.score), 1 - tar_at(scores[same], at.score), false))
    return tuple(out)


@dataclass(frozen=True, slots=True)
class Compared:
    """Two packs pair by pair (McNemar's exact test on the cross-validated decisions)."""

    first: str
    second: str
    only_first: int
    only_second: int
    p_value: float


def _compare(a: Measured, b: Measured) -> Compared:
    from mien.vision.evaluation import mcnemar

    got = mcnemar(a.result.folds.correct, b.result.folds.correct)
    return Compared(a.pack, b.pack, got.only_first, got.only_second, got.p_value)


def _plot(folder: Path, listed: PairList, measured: Sequence[Measured]) -> list[Path]:
    import numpy as np

    from mien.vision import plots
    from mien.vision.evaluation import curve

    same = np.array([p.same for p in listed.pairs])
    curves = {m.pack: curve(m.scores[same], m.scores[~same]) for m in measured}
    genuines, impostors = int(same.sum()), int((~same).sum())
    files = [
        plots.roc(folder / "roc.png", curves, impostors),
        plots.det(folder / "det.png", curves, impostors, genuines),
    ]
    for m in measured:
        marks = {"best accuracy": m.best}
        if m.advice:
            marks[m.advice[0].purpose] = m.advice[0].threshold.score
        path = folder / f"scores-{m.pack}.png"
        files.append(plots.scores(path, m.scores[same], m.scores[~same], marks, m.pack))
    return files


def _rate(fmr: float) -> str:
    return f"{fmr:.0e}" if fmr < 1e-3 else f"{fmr:g}"


def _one(m: Measured) -> dict[str, Any]:
    result, photos = m.result, len(m.templates.found)
    return {
        "pack": m.pack,
        "space": m.space,
        "accuracy": round(result.folds.accuracy, 6),
        "accuracy_std": round(result.folds.std, 6),
        "tar_at_fmr": {_rate(f): round(tar, 6) for f, (tar, _, _) in result.tar.items()},
        "tar_at_fmr_95": {_rate(f): [round(a, 6), round(b, 6)] for f, (_, a, b) in result.tar.items()},
        "undetected": int((~m.templates.found).sum()),
        "undetected_pairs": result.undetected,
        "unreadable": [p.name for p in m.templates.unreadable],
        "pairs": result.pairs,
        "photos": photos,
        "eer": round(result.eer, 6),
        "auc": round(result.auc, 6),
        "best_threshold": round(m.best, 6),
        "fold_thresholds": [round(float(t), 6) for t in result.folds.thresholds],
        "thresholds": [
            {
                "purpose": a.purpose,
                "score": round(a.threshold.score, 6),
                "similarity": a.similarity,
                "fmr": a.threshold.fmr,
                "fpir": a.threshold.fpir,
                "fnmr": a.threshold.fnmr,
                "gallery_size": a.threshold.gallery_size,
                "extrapolated": a.threshold.extrapolated,
                "note": a.threshold.note,
                "fnmr_here": round(a.fnmr_here, 6),
                "fmr_here": round(a.fmr_here, 6),
            }
            for a in m.advice
        ],
        "seconds": round(m.templates.seconds, 3),
        "threads": m.templates.threads,
        "runtime": m.templates.runtime,
        "photos_per_second": round(photos / m.templates.seconds, 2) if m.templates.seconds else None,
    }


def _document(
    measured: Sequence[Measured], compared: Sequence[Compared], files: Sequence[Path]
) -> dict[str, Any]:
    """The first pack's figures at the top; with several packs all of them under `packs`."""
    document = _one(measured[0])
    if len(measured) > 1:
        document["packs"] = {m.pack: _one(m) for m in measured}
        document["compared"] = [
            {
                "first": c.first,
                "second": c.second,
                "only_first_right": c.only_first,
                "only_second_right": c.only_second,
                "p_value": c.p_value,
            }
            for c in compared
        ]
    if files:
        document["plots"] = [str(f) for f in files]
    return document


def _percent(rate: float | None, digits: int = 2) -> str:
    return "" if rate is None else f"{100 * rate:.{digits}f} %"


def _print(
    shown: Shown,
    listed: PairList,
    measured: Sequence[Measured],
    compared: Sequence[Compared],
    files: Sequence[Path],
) -> None:
    same = sum(p.same for p in listed.pairs)
    photos = len(measured[0].templates.found)
    folds = len(measured[0].result.folds.per_fold)
    rates = sorted(measured[0].result.tar, reverse=True)
    heads = [">accuracy", ">± std", *(f">TAR at {_rate(f)}" for f in rates), ">EER", ">no face", ">photos/s"]
    rows = []
    for m in measured:
        tars = [_percent(m.result.tar[f][0]) if f in m.result.tar else "" for f in rates]
        speed = photos / m.templates.seconds if m.templates.seconds else 0.0
        rows.append(
            [
                m.pack,
                _percent(m.result.folds.accuracy),
                _percent(m.result.folds.std),
                *tars,
                _percent(m.result.eer),
                int((~m.templates.found).sum()),
                f"{speed:.1f}",
            ]
        )
    title = (
        f"{same:,} pairs of one person, {len(listed.pairs) - same:,} of two; {photos:,} photos; {folds} folds"
    )
    shown.table(["pack", *heads], rows, title)
    least = 1 / max(1, len(listed.pairs) - same)
    if min(rates) < least:
        shown.notice(f"TAR at {_rate(min(rates))}: where not one of the pairs of two people matches.")
    for m in measured:
        low, high = (_percent(rate) for rate in m.result.tar[min(rates)][1:])
        shown.notice(f"{m.pack}: TAR at {_rate(min(rates))} is {low} to {high} with 95 % confidence.")
        if m.templates.unreadable:
            shown.notice(
                f"{m.pack}: {len(m.templates.unreadable)} photos can't be read and count as without a face."
            )
    for c in compared:
        shown.notice(
            f"{c.first} and {c.second} differ on {c.only_first + c.only_second} pairs: {c.only_first} only "
            f"{c.first} gets right, {c.only_second} only {c.second} (McNemar p = {c.p_value:.2g})."
        )
    for m in measured:
        _print_advice(shown, m)
    for file in files:
        shown.notice(f"written: {file}")


def _print_advice(shown: Shown, m: Measured) -> None:
    if not m.advice:
        shown.notice(
            f"{m.pack}: there is no calibration table for {m.space}. The best threshold on these pairs is "
            f"{m.best:.4f}; `mien calibrate` makes a table from labelled photos."
        )
        return
    shown.table(
        ["use", ">score", ">similarity", ">FMR", ">missed (table)", ">missed (here)", ">false (here)"],
        [
            [
                a.purpose + (" *" if a.threshold.extrapolated else ""),
                f"{a.threshold.score:.4f}",
                f"{a.similarity:.1f}",
                f"{a.threshold.fmr:.1e}",
                _percent(a.threshold.fnmr),
                _percent(a.fnmr_here),
                _percent(a.fmr_here),
            ]
            for a in m.advice
        ],
        f"Thresholds for {m.pack}",
    )
    for note in dict.fromkeys(a.threshold.note for a in m.advice if a.threshold.note):
        shown.notice(f"* {note}")
