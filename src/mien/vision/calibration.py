"""What a score means: score <-> false match rate, and the threshold for a wanted rate.

A table is measured on labelled photos for one exact recipe and is bound to the key of its space;
another recipe needs another table (`mien calibrate`). Words: FMR, false match rate of one comparison
of two people; FNMR = 1 - TAR, the share of true pairs that a threshold misses; FPIR, the rate at which
a person who is not in a gallery of N templates is named (ISO/IEC 19795-1). FPIR = FMR * N is the union
bound, so what it promises is never exceeded by independent comparisons.

Between two rows the score is linear in log10(FMR): an impostor tail is close to exponential. Below the
lowest measured FMR the line of the last decade is followed for one decade more, and no further.
"""

import hashlib
import json
import math
import os
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

from mien.kit.errors import BadInput, SetupError

FORMAT = 1
DEFAULT_FPIR = 0.01
EXTRAPOLATE_DECADES = 1.0
_LARGEST_TABLE_BYTES = 1_000_000

SIMILARITY_ANCHORS: tuple[tuple[float, float], ...] = (
    (0.0, 0.0),
    (-1.0, 20.0),
    (-2.0, 40.0),
    (-3.0, 60.0),
    (-4.0, 80.0),
    (-5.0, 90.0),
    (-6.0, 99.0),
)
"""(log10 FMR, similarity). Who comes from Amazon Rekognition keeps the numbers that they know: 80, its
default, is one false match in 10,000 comparisons (FPIR 1 % among 100 faces); 99, its advice where a
mistake is dear, is one in a million (FPIR 1 % among 10,000). From 99 on it is linear in the score, and
a score of 1 is 100. As an ordering it says nothing that the score doesn't say."""

_ANCHOR_POINTS = [(-log, similarity) for log, similarity in SIMILARITY_ANCHORS]


@dataclass(frozen=True, slots=True)
class MatchPolicy:
    """When two faces count as one person: exactly one of four, or none for "FPIR at most 1 %".

    `score`: cosine, -1..1. `distance`: Euclidean distance of unit vectors, 0..2 (d^2 = 2 - 2 score).
    `fmr`: false match rate of one comparison, over 0, at most 1. `fpir`: rate at which a search names
    a stranger at the gallery's size, over 0, at most 1. BadInput for several, or out of range.
    """

    score: float | None = None
    distance: float | None = None
    fmr: float | None = None
    fpir: float | None = None

    def __post_init__(self) -> None:
        given = [n for n in ("score", "distance", "fmr", "fpir") if getattr(self, n) is not None]
        if not given:
            object.__setattr__(self, "fpir", DEFAULT_FPIR)
            given = ["fpir"]
        if len(given) > 1:
            raise BadInput(f"Give one of score, distance, fmr and fpir, not {' and '.join(given)}.")
        name = given[0]
        value = float(getattr(self, name))
        low, high = {"score": (-1.0, 1.0), "distance": (0.0, 2.0)}.get(name, (0.0, 1.0))
        if not low <= value <= high or (name in ("fmr", "fpir") and value == 0.0):
            start = "over 0 and" if name in ("fmr", "fpir") else f"at least {low:g} and"
            raise BadInput(f"{name} must be {start} at most {high:g}.", field=name)
        object.__setattr__(self, name, value)

    @property
    def needs_table(self) -> bool:
        """Whether it can be met only with a calibration table."""
        return self.fmr is not None or self.fpir is not None

    @property
    def fixed_score(self) -> float | None:
        """The score that a `score` or `distance` policy stands for; None for the others."""
        return self.score if self.distance is None else score_of_distance(self.distance)


@dataclass(frozen=True, slots=True)
class Threshold:
    """The score from which a match is reported, and what it costs.

    `fmr`, `fpir` and `fnmr` are what this score gives by the table (None without one); `fpir` is for
    `gallery_size`, a power of two. `extrapolated`: the score lies outside of the measured rows.
    `note` says in words what a caller should know (None mostly).
    """

    score: float
    policy: MatchPolicy
    gallery_size: int
    fmr: float | None = None
    fpir: float | None = None
    fnmr: float | None = None
    extrapolated: bool = False
    note: str | None = None

    @property
    def distance(self) -> float:
        """The same threshold as Euclidean distance of unit vectors."""
        return distance_of_score(self.score)


@dataclass(frozen=True, slots=True)
class Calibration:
    """One table. `rows` are (FMR, score, TAR), FMR strictly falling and score strictly rising.

    `space` is the key of the space (`Space.key`) that it was measured for.
    """

    space: str
    name: str
    recipe: str
    measured_on: str
    impostor_pairs: int
    genuine_pairs: int
    rows: tuple[tuple[float, float, float], ...]
    _logs: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _scores: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _top: tuple[float, float] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        rows = tuple((float(f), float(s), float(t)) for f, s, t in self.rows)
        if len(rows) < 2:
            raise SetupError(f"The calibration table of {self.space} needs two rows or more.")
        good = all(0.0 < f <= 1.0 and -1.0 <= s < 1.0 and 0.0 <= t <= 1.0 for f, s, t in rows)
        for (f0, s0, t0), (f1, s1, t1) in pairwise(rows):
            good = good and f1 < f0 and s1 > s0 and t1 <= t0
        if not good:
            raise SetupError(
                f"The calibration table of {self.space} is damaged: from row to row FMR must fall, "
                "score rise and TAR not rise. Make it again with `mien calibrate`."
            )
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "_logs", tuple(math.log10(f) for f, _, _ in rows))
        object.__setattr__(self, "_scores", tuple(s for _, s, _ in rows))
        object.__setattr__(self, "_top", self._find_top())

    @classmethod
    def for_space(cls, space_key: str, folder: Path | None = None) -> "Calibration | None":
        """The table of a space: the customer's in `folder` if there is one, else the packaged one.

        SetupError if the table is there but damaged.
        """
        if not _safe(space_key):
            return None
        if folder is not None:
            path = f"{folder}/{space_key}.json"  # this is asked for in every search
            try:
                stat = os.stat(path)
            except OSError:
                pass
            else:
                return _from_file(Path(path), stat.st_mtime_ns, stat.st_size)
        return _packaged(space_key)

    @classmethod
    def from_json(cls, text: str, *, origin: str) -> "Calibration":
        """A table from its JSON; `origin` names it in errors. SetupError if it is damaged."""
        try:
            raw: dict[str, Any] = json.loads(text)
            if raw["format"] != FORMAT or raw["columns"] != ["fmr", "score", "tar"]:
                raise SetupError(
                    f"The calibration table {origin} is of a format that this version can't read."
                )
            return cls(
                space=str(raw["space"]),
                name=str(raw["name"]),
                recipe=str(raw["recipe"]),
                measured_on=str(raw["measured_on"]),
                impostor_pairs=int(raw["impostor_pairs"]),
                genuine_pairs=int(raw["genuine_pairs"]),
                rows=tuple((float(f), float(s), float(t)) for f, s, t in raw["rows"]),
            )
        except (ValueError, KeyError, TypeError) as error:
            raise SetupError(f"The calibration table {origin} is damaged: {error}.") from error

    def to_json(self) -> str:
        """The table as a file's text, one row a line."""
        head = {
            "format": FORMAT,
            "space": self.space,
            "name": self.name,
            "recipe": self.recipe,
            "measured_on": self.measured_on,
            "impostor_pairs": self.impostor_pairs,
            "genuine_pairs": self.genuine_pairs,
            "columns": ["fmr", "score", "tar"],
        }
        rows = ",\n".join("  " + json.dumps(list(r)) for r in self.rows)
        return json.dumps(head, indent=1, ensure_ascii=False)[:-2] + f',\n "rows": [\n{rows}\n ]\n}}\n'

    @property
    def digest(self) -> str:
        """Twelve hex digits that name this table's content, to be kept beside what was decided by it."""
        return hashlib.sha256(self.to_json().encode()).hexdigest()[:12]

    @property
    def lowest_fmr(self) -> float:
        """The lowest measured FMR."""
        return self.rows[-1][0]

    @property
    def lowest_usable_fmr(self) -> float:
        """The lowest FMR that a threshold is given for: one decade under the measured ones."""
        return self.rows[-1][0] * math.pow(10.0, -EXTRAPOLATE_DECADES)

    # --- score <-> FMR ---------------------------------------------------------------------------

    def _tail(self) -> tuple[float, float, float]:
        """(score, log10 FMR) of the last row and the slope (scores per decade, over 0) behind it."""
        logs, scores = self._logs, self._scores
        start = 0
        for i in range(len(logs) - 2, -1, -1):  # the last decade: single rows down there are noisy
            start = i
            if logs[i] - logs[-1] >= 0.99:
                break
        return scores[-1], logs[-1], (scores[-1] - scores[start]) / (logs[start] - logs[-1])

    def _log_fmr(self, score: float, decades: float) -> float:
        logs, scores = self._logs, self._scores
        if score > scores[-1]:
            s, log, slope = self._tail()
            return max(log - (score - s) / slope, log - decades)
        i = min(max(bisect_right(scores, score), 1), len(scores) - 1)
        share = (score - scores[i - 1]) / (scores[i] - scores[i - 1])
        return min(0.0, logs[i - 1] + share * (logs[i] - logs[i - 1]))

    def _score_at(self, log: float, decades: float) -> float:
        logs, scores = self._logs, self._scores
        if log < logs[-1]:
            s, last, slope = self._tail()
            return s + slope * min(last - log, decades)
        # bisect wants rising numbers, and the logs fall
        i = min(max(bisect_left([-x for x in logs], -log), 1), len(logs) - 1)
        share = (log - logs[i - 1]) / (logs[i] - logs[i - 1])
        return scores[i - 1] + share * (scores[i] - scores[i - 1])

    def score_at_fmr(self, fmr: float) -> float:
        """The score for a false match rate (over 0, at most 1), held at `lowest_usable_fmr`."""
        if not 0.0 < fmr <= 1.0:
            raise BadInput("An FMR is over 0 and at most 1.", field="fmr")
        return min(1.0, max(-1.0, self._score_at(math.log10(fmr), EXTRAPOLATE_DECADES)))

    def fmr(self, score: float) -> float:
        """The false match rate of one comparison at `score` (-1..1); never under `lowest_usable_fmr`.

        So for high scores it reads "at most". Below the table's scores it rises to 1. Monotone.
        BadInput if the score is not finite.
        """
        return math.pow(10.0, self._log_fmr(_finite(score), EXTRAPOLATE_DECADES))

    def fnmr(self, score: float) -> float:
        """The share of true pairs under `score`, 0..1; linear between rows. Monotone.

        Above the table it runs linearly to 1 at score 1, which is no kinder than the measured tails;
        below it stays at the first row's (an upper bound).
        """
        score = _finite(score)
        points = [(s, 1.0 - t) for _, s, t in self.rows]
        if score < points[-1][0]:
            return _linear(score, points)
        return _linear(score, [points[-1], (1.0, 1.0)])

    def measured(self, score: float) -> bool:
        """Whether `score` lies within the measured rows."""
        return self._scores[0] <= score <= self._scores[-1]

    # --- thresholds ------------------------------------------------------------------------------

    def threshold(self, policy: MatchPolicy, gallery_size: int) -> Threshold:
        """The threshold that meets `policy` for a gallery of `gallery_size` searchable templates.

        The size is rounded up to a power of two (0 counts as 1), so that a threshold moves rarely
        and errs to the safe side. A rate under `lowest_usable_fmr` is not promised: the threshold
        stays at that edge, and `fpir` and `note` say what it gives.
        """
        size = gallery_step(gallery_size)
        fixed = policy.fixed_score
        if fixed is not None:
            score, note = fixed, None
            if fixed > self._scores[-1]:
                note = f"The table ends at score {self._scores[-1]:.4f}; FMR and FPIR are upper bounds."
        else:
            wanted = policy.fmr if policy.fmr is not None else (policy.fpir or DEFAULT_FPIR) / size
            score = self.score_at_fmr(wanted)
            note = self._note(wanted, size, policy)
        fmr = self.fmr(score)
        return Threshold(
            score=score,
            policy=policy,
            gallery_size=size,
            fmr=_tidy(fmr),
            fpir=_tidy(min(1.0, fmr * size)),
            fnmr=_tidy(self.fnmr(score)),
            extrapolated=not self._scores[0] - 1e-12 <= score <= self._scores[-1] + 1e-12,
            note=note,
        )

    def _note(self, wanted: float, size: int, policy: MatchPolicy) -> str | None:
        if wanted < self.lowest_usable_fmr * (1 - 1e-9):
            gives = f"{self.lowest_usable_fmr:.2g}"
            if policy.fpir is not None:
                gives += f", an FPIR of {min(1.0, self.lowest_usable_fmr * size):.2g} at {size} faces"
            return (
                f"An FMR of {wanted:.2g} is more than a decade under the lowest measured one "
                f"({self.lowest_fmr:.2g}); the threshold stays at the edge, FMR {gives}."
            )
        if wanted < self.lowest_fmr * (1 - 1e-9):
            return (
                f"An FMR of {wanted:.2g} is under the lowest measured one ({self.lowest_fmr:.2g}); "
                "the threshold is extrapolated."
            )
        if wanted > self.rows[0][0] * (1 + 1e-9):
            return f"An FMR of {wanted:.2g} is over the highest measured one ({self.rows[0][0]:.2g})."
        return None

    # --- similarity ------------------------------------------------------------------------------

    def similarity(self, score: float) -> float:
        """The score as 0..100 by `SIMILARITY_ANCHORS`: monotone, 1.0 gives 100, strangers about 0..30.

        For showing only: to reach the anchor at FMR 1e-6 it follows the table's line as far as it
        must, where `fmr` stops after one decade.
        """
        score = min(1.0, _finite(score))
        top, top_similarity = self._top
        if score >= top:
            return _linear(score, [(top, top_similarity), (1.0, 100.0)])
        return _linear(-self._log_fmr(score, math.inf), _ANCHOR_POINTS)

    def score_of_similarity(self, similarity: float) -> float:
        """The lowest score with at least that `similarity` (0..100); BadInput outside of 0..100."""
        if not 0.0 <= similarity <= 100.0:
            raise BadInput("A similarity is a number from 0 to 100.", field="similarity")
        if similarity == 0.0:
            return -1.0
        top, top_similarity = self._top
        if similarity >= top_similarity:
            return _linear(similarity, [(top_similarity, top), (100.0, 1.0)])
        log = -_linear(similarity, [(s, -log) for log, s in SIMILARITY_ANCHORS])
        return max(-1.0, self._score_at(log, math.inf))

    def _find_top(self) -> tuple[float, float]:
        """Where the anchors end and the straight line to (1, 100) begins."""
        log, similarity = SIMILARITY_ANCHORS[-1]
        score = self._score_at(log, math.inf)
        if score < 0.95:
            return score, similarity
        # A table whose line reaches 1e-6 only near or over score 1: leave the anchors at 0.95.
        return 0.95, _linear(-self._log_fmr(0.95, math.inf), _ANCHOR_POINTS)


class Calibrations:
    """The tables of one installation: the packaged ones and those of a customer's folder."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder

    def for_space(self, space_key: str) -> Calibration | None:
        """The table of a space, or None; a file that changed is read again. SetupError if damaged."""
        return Calibration.for_space(space_key, self._folder)

    def threshold(self, space_key: str, policy: MatchPolicy, gallery_size: int) -> Threshold:
        """The threshold with the space's table, or without one for a `score` or `distance` policy.

        BadInput if the policy needs a table and the space has none.
        """
        table = self.for_space(space_key)
        return (
            table.threshold(policy, gallery_size) if table else uncalibrated(policy, gallery_size, space_key)
        )


def uncalibrated(policy: MatchPolicy, gallery_size: int, space_key: str) -> Threshold:
    """A threshold for a space that has no table; BadInput if the policy needs one."""
    score = policy.fixed_score
    if score is None:
        raise BadInput(
            f"There is no calibration table for the space {space_key}: give a score, "
            "or make a table with `mien calibrate`.",
            space=space_key,
        )
    return Threshold(score=score, policy=policy, gallery_size=gallery_step(gallery_size))


def gallery_step(templates: int) -> int:
    """`templates` rounded up to a power of two; 1 for an empty gallery. BadInput if negative."""
    if templates < 0:
        raise BadInput("A gallery's size can't be negative.")
    return 1 << max(0, templates - 1).bit_length()


def score_of_distance(distance: float) -> float:
    """The cosine of two unit vectors at a Euclidean distance (0..2)."""
    return 1.0 - distance * distance / 2.0


def distance_of_score(score: float) -> float:
    """The Euclidean distance of two unit vectors with a cosine (-1..1)."""
    return math.sqrt(max(0.0, 2.0 - 2.0 * score))


def _finite(score: float) -> float:
    if not math.isfinite(score):
        raise BadInput("A score must be a finite number.", field="score")
    return float(score)


def _tidy(rate: float) -> float:
    """Without the last digits of floating-point arithmetic: replies show 0.01, not 0.010000000000000002."""
    return float(f"{rate:.9g}")


def _linear(x: float, points: Sequence[tuple[float, float]]) -> float:
    """Piecewise linear through `points` (x rising), held at the ends."""
    if x <= points[0][0]:
        return points[0][1]
    for (x0, y0), (x1, y1) in pairwise(points):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[-1][1]


def _safe(space_key: str) -> bool:
    """Whether a key may be part of a file's name (keys come from requests, too)."""
    return 0 < len(space_key) <= 200 and all(c.isascii() and (c.isalnum() or c in "._-") for c in space_key)


@lru_cache(maxsize=64)
def _packaged(space_key: str) -> Calibration | None:
    file = resources.files("mien.vision") / "data" / "calibration" / f"{space_key}.json"
    if not file.is_file():
        return None
    return Calibration.from_json(file.read_text(encoding="utf-8"), origin=f"{space_key}.json")


_file_lock = threading.Lock()
_files: dict[Path, tuple[int, int, Calibration]] = {}


def _from_file(path: Path, mtime_ns: int, size: int) -> Calibration:
    with _file_lock:
        known = _files.get(path)
        if known is not None and known[:2] == (mtime_ns, size):
            return known[2]
    if size > _LARGEST_TABLE_BYTES:
        raise SetupError(f"The calibration table {path.name} is over {_LARGEST_TABLE_BYTES} bytes.")
    try:
        table = Calibration.from_json(path.read_text(encoding="utf-8"), origin=path.name)
    except OSError as error:
        raise SetupError(f"The calibration table {path.name} can't be read: {error.strerror}.") from error
    if table.space != path.stem:
        raise SetupError(f"The calibration table {path.name} is for the space {table.space}.")
    with _file_lock:
        if len(_files) >= 64:
            _files.clear()
        _files[path] = (mtime_ns, size, table)
    return table
