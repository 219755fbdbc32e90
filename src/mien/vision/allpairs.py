"""All pairs of a labelled set of photos, streamed into counts, and the calibration table they give.

N photos have N (N - 1) / 2 pairs: 87 million for LFW. Scores go into fixed bins block by block, so
memory stays at two histograms and one block.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mien.kit.errors import BadInput
from mien.vision.calibration import Calibration

BINS_PER_UNIT = 10_000
"""Bins are 1e-4 of score wide; thresholds are read at bin edges, so they err by that, upwards."""

RULE_OF_30 = 30
"""With 30 errors or more the true rate is within 30 % of the measured one, 90 % sure (G. Doddington et
al., Speech Communication 31, 2000)."""

FMR_GRID = tuple(float(f"{10 ** (-k / 4):.3g}") for k in range(2, 33))
"""Quarter decades: 0.316, 0.178, 0.1, ... 1e-8."""


@dataclass(frozen=True, slots=True)
class NotablePair:
    """Two photos (row numbers) and their score."""

    score: float
    first: int
    second: int


@dataclass(frozen=True, slots=True, eq=False)
class AllPairs:
    """`genuine` and `impostor` are counts per bin, (2 * BINS_PER_UNIT,) int64, from score -1 to 1.

    `lookalikes`: the closest photos of two people, one pair of photos for each pair of people, the
    closest first: mostly labels that are wrong. `strangers`: the farthest photos of one person, one
    for each person, the farthest first: a wrong photo, or a hard one.
    """

    genuine: NDArray[np.int64]
    impostor: NDArray[np.int64]
    lookalikes: tuple[NotablePair, ...]
    strangers: tuple[NotablePair, ...]

    @property
    def genuine_pairs(self) -> int:
        return int(self.genuine.sum())

    @property
    def impostor_pairs(self) -> int:
        return int(self.impostor.sum())


class _Notable:
    """The best `keep` of a stream of candidates, one for each group; bounded."""

    def __init__(self, keep: int) -> None:
        self._keep = keep
        self._best: dict[tuple[int, int], tuple[float, int, int]] = {}
        self.floor = -math.inf

    def offer(self, rank: float, group: tuple[int, int], first: int, second: int) -> None:
        known = self._best.get(group)
        if known is None or known[0] < rank:
            self._best[group] = (rank, first, second)
        if len(self._best) > 8 * self._keep:
            self._cut()

    def _cut(self) -> None:
        kept = sorted(self._best.items(), key=lambda item: -item[1][0])[: self._keep]
        self._best = dict(kept)
        if len(kept) == self._keep:
            self.floor = kept[-1][1][0]

    def ranked(self) -> list[tuple[float, int, int]]:
        self._cut()
        return list(self._best.values())


def compare_all(
    vectors: NDArray[np.float32],
    people: NDArray[np.int64],
    *,
    ignored: frozenset[tuple[int, int]] = frozenset(),
    keep: int = 50,
    block_scores: int = 4_000_000,
    progress: Callable[[int, int], None] | None = None,
) -> AllPairs:
    """Every pair of rows, once.

    `vectors` (N, D) float32 of unit length, `people` (N,) int64 identities, from 0. `ignored`: pairs of
    identities (smaller first) that count neither way: known to be one person under two names, or twins.
    `progress(done, total)`
    is called after each block of rows; a block holds about `block_scores` scores (some 150 MB for the
    default). BadInput if the shapes differ or a vector isn't finite.
    """
    if vectors.ndim != 2 or people.shape != (len(vectors),):
        raise BadInput("There must be one identity for each vector.")
    if not np.isfinite(vectors).all():
        raise BadInput("An embedding holds numbers that are not finite (NaN or infinity).")
    bins = 2 * BINS_PER_UNIT
    block = max(1, block_scores // max(1, len(vectors)))
    genuine, impostor = np.zeros(bins, np.int64), np.zeros(bins, np.int64)
    close, far = _Notable(keep), _Notable(keep)
    count = int(people.max(initial=0)) + 1
    left_out = np.array(sorted(low * count + high for low, high in ignored), np.int64)
    for start in range(0, len(vectors), block):
        stop = min(start + block, len(vectors))
        scores = vectors[start:stop] @ vectors[start:].T
        rows, columns = np.arange(start, stop), np.arange(start, len(vectors))
        upper = columns[None, :] > rows[:, None]
        same = people[start:stop, None] == people[None, start:]
        other = upper & ~same
        if left_out.size:
            one, two = people[start:stop, None], people[None, start:]
            other &= ~np.isin(np.minimum(one, two) * count + np.maximum(one, two), left_out)
        slot = ((scores + 1.0) * BINS_PER_UNIT).astype(np.int64).clip(0, bins - 1)
        genuine += np.bincount(slot[upper & same], minlength=bins)
        impostor += np.bincount(slot[other], minlength=bins)
        _offer(close, np.where(other, scores, -np.inf), start, people, keep)
        _offer(far, np.where(upper & same, -scores, -np.inf), start, people, keep)
        if progress is not None:
            progress(stop, len(vectors))
    return AllPairs(
        genuine,
        impostor,
        tuple(NotablePair(rank, i, j) for rank, i, j in close.ranked()),
        tuple(NotablePair(-rank, i, j) for rank, i, j in far.ranked()),
    )


def _offer(
    into: _Notable, ranks: NDArray[np.float32], start: int, people: NDArray[np.int64], keep: int
) -> None:
    """Hand on the best of a block: enough that one busy group can't hide the others."""
    flat = ranks.ravel()
    many = min(20 * keep, flat.size)
    for at in np.argpartition(flat, flat.size - many)[-many:]:
        rank = float(flat[at])
        if rank <= into.floor or rank == -math.inf:
            continue
        i, j = divmod(int(at), ranks.shape[1])
        one, two = int(people[start + i]), int(people[start + j])
        into.offer(rank, (min(one, two), max(one, two)), start + i, start + j)


def table_rows(pairs: AllPairs) -> tuple[tuple[float, float, float], ...]:
    """(FMR, score, TAR) at quarter decades, down to the FMR that still has `RULE_OF_30` errors.

    Each score is the lowest bin edge whose measured FMR is at most the row's. BadInput with fewer
    than 300 impostor pairs or 30 genuine ones: no two rows would stand on 30 errors.
    """
    impostors, genuines = pairs.impostor_pairs, pairs.genuine_pairs
    if impostors < 10 * RULE_OF_30 or genuines < RULE_OF_30:
        raise BadInput(
            f"A table needs at least {10 * RULE_OF_30} pairs of two people and {RULE_OF_30} pairs "
            f"of one person; these photos give {impostors} and {genuines}. Add people, and photos of each."
        )
    over_i = np.concatenate([np.cumsum(pairs.impostor[::-1])[::-1], [0]])  # pairs at or over each edge
    over_g = np.concatenate([np.cumsum(pairs.genuine[::-1])[::-1], [0]])
    rows: list[tuple[float, float, float]] = []
    for fmr in FMR_GRID:
        # 1 in 1,000 of slack: 3.16e-7 stands for 10^-6.5.
        if fmr * impostors < RULE_OF_30 * 0.999:
            break
        edge = int(np.argmax(over_i <= fmr * impostors))
        score = round(edge / BINS_PER_UNIT - 1.0, 4)
        tar = float(f"{over_g[edge] / genuines:.6g}")
        if score < 1.0 and (not rows or score > rows[-1][1]):
            rows.append((fmr, score, tar))
    return tuple(rows)


def calibration(pairs: AllPairs, *, space: str, name: str, recipe: str, measured_on: str) -> Calibration:
    """The table of these pairs for a space; BadInput if there are too few."""
    rows = table_rows(pairs)
    if len(rows) < 2:
        raise BadInput("All scores lie in one bin: are the photos of one person only, or all the same?")
    return Calibration(space, name, recipe, measured_on, pairs.impostor_pairs, pairs.genuine_pairs, rows)


def cautions(pairs: AllPairs, table: Calibration) -> tuple[str, ...]:
    """What a reader of the table must know, in words; empty where it stands on enough."""
    out = []
    searchable = 0.01 / table.lowest_usable_fmr
    if table.lowest_fmr > 1.01e-6:
        out.append(
            f"{pairs.impostor_pairs:,} pairs of two people measure an FMR down to {table.lowest_fmr:.2g} "
            f"(rule of 30 errors); with one decade of extrapolation that keeps FPIR at 1 % up to "
            f"{searchable:,.0f} faces. 1e-6 needs {RULE_OF_30 * 1_000_000:,} such pairs, about 7,800 photos "
            "of as many people."
        )
    misses = (1.0 - table.rows[-1][2]) * pairs.genuine_pairs
    if misses < RULE_OF_30:
        worst = 3.0 / pairs.genuine_pairs
        out.append(
            f"{pairs.genuine_pairs:,} pairs of one person: fewer than 30 are missed even at the last row, "
            f"so FNMR is uncertain (with none missed it is under {worst:.2g}, 95 % sure, by the rule of 3)."
        )
    return tuple(out)
