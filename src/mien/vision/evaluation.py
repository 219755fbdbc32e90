"""What an evaluation says of scores: error rates, curves, cross-validated accuracy. NumPy only.

`genuine` are the scores of pairs of one person, `impostor` those of two people: (N,) floats, higher is
closer. NaN stands for a pair that couldn't be compared because a photo had no face. Following
ISO/IEC 19795-1 such a genuine pair counts as missed at every threshold (TAR is "generalised"), while an
impostor pair that was never compared can't match falsely and is left out of FMR. Accuracies are
stricter: there an uncompared pair is an error, whichever it is.

A pair matches when score >= threshold.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mien.kit.errors import BadInput

Floats = NDArray[np.float64]

FMR_TARGETS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

CUSTOMARY_FMR = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """Error rates over all thresholds, from the strictest to the laxest.

    `thresholds`, `fmr` and `tar` are (K,) float64; thresholds fall, both rates rise. The first
    point is (inf, 0, 0).
    """

    thresholds: Floats
    fmr: Floats
    tar: Floats

    @property
    def fnmr(self) -> Floats:
        return 1.0 - self.tar


def curve(genuine: ArrayLike, impostor: ArrayLike) -> Curve:
    """The ROC (and DET) points, one for each distinct score; BadInput if either side is empty."""
    good, bad, total, others = _sides(genuine, impostor)
    thresholds = np.unique(np.concatenate([good, bad]))[::-1]
    tar = (good.size - np.searchsorted(good, thresholds, "left")) / total
    fmr = (bad.size - np.searchsorted(bad, thresholds, "left")) / others
    return Curve(
        np.concatenate([[np.inf], thresholds]),
        np.concatenate([[0.0], fmr]),
        np.concatenate([[0.0], tar]),
    )


def threshold_at_fmr(impostor: ArrayLike, fmr: float) -> float:
    """The lowest score at which at most `fmr` of the impostor pairs match.

    It lies just over the first impostor that must not match, so it needs no interpolation. BadInput
    without impostors.
    """
    bad = np.sort(_compared(impostor))
    if not bad.size:
        raise BadInput("An FMR needs at least one pair of two people.")
    allowed = math.floor(fmr * bad.size + 1e-9)
    if allowed >= bad.size:
        return float(bad[0])
    return float(np.nextafter(bad[bad.size - allowed - 1], np.inf))


def tar_at(genuine: ArrayLike, threshold: float) -> float:
    """The share of the genuine pairs (uncompared ones included) with score >= threshold."""
    pairs = np.asarray(genuine, np.float64)
    if not pairs.size:
        raise BadInput("A TAR needs at least one pair of one person.")
    return float(np.count_nonzero(pairs >= threshold) / pairs.size)


def tar_at_fmr(genuine: ArrayLike, impostor: ArrayLike, fmr: float) -> float:
    """TAR at the lowest threshold whose measured FMR is at most `fmr`."""
    return tar_at(genuine, threshold_at_fmr(impostor, fmr))


def equal_error_rate(genuine: ArrayLike, impostor: ArrayLike) -> tuple[float, float]:
    """(EER, threshold): where FMR and FNMR cross, linear between the two points around it."""
    points = curve(genuine, impostor)
    gap = points.fmr - points.fnmr  # rises from -1 (or so) to the last point
    i = int(np.argmax(gap >= 0.0))
    if gap[i] < 0.0:  # uncompared genuine pairs: FNMR never falls to FMR
        return float(points.fnmr[-1]), float(points.thresholds[-1])
    if i == 0 or not np.isfinite(points.thresholds[i - 1]):
        return float((points.fmr[i] + points.fnmr[i]) / 2), float(points.thresholds[i])
    share = -gap[i - 1] / (gap[i] - gap[i - 1])
    rate = points.fmr[i - 1] + share * (points.fmr[i] - points.fmr[i - 1])
    threshold = points.thresholds[i - 1] + share * (points.thresholds[i] - points.thresholds[i - 1])
    return float(rate), float(threshold)


# --- accuracy -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class FoldAccuracy:
    """Cross-validated accuracy.

    `accuracy` is the mean over the folds, `std` their sample standard deviation (n - 1);
    `thresholds` (F,) float64, one chosen for each fold on the others; `correct` (N,) bool per pair,
    in the pairs' order; `fold_of` (N,) int.
    """

    accuracy: float
    std: float
    thresholds: Floats
    per_fold: Floats
    correct: NDArray[np.bool_]
    fold_of: NDArray[np.int64]

    @property
    def standard_error(self) -> float:
        """Of the mean, as the LFW site reports it: std / sqrt(folds)."""
        return self.std / math.sqrt(len(self.per_fold))


def stratified_folds(same: ArrayLike, folds: int, seed: int) -> NDArray[np.int64]:
    """(N,) fold numbers 0..folds-1: both kinds of pairs dealt evenly, in an order drawn from `seed`."""
    labels = np.asarray(same, bool)
    if folds < 2 or labels.size < folds:
        raise BadInput(
            f"{labels.size} pairs can't be divided into {folds} folds (two or more, one pair each)."
        )
    out = np.empty(labels.size, np.int64)
    draw = np.random.default_rng(seed)
    start = 0
    for kind in (True, False):
        rows = draw.permutation(np.flatnonzero(labels == kind))
        out[rows] = (start + np.arange(rows.size)) % folds
        start = (start + rows.size) % folds
    return out


def best_threshold(scores: ArrayLike, same: ArrayLike) -> float:
    """The threshold with the most correct pairs; the middle of the best ones where several tie.

    Candidates are the mid-points between neighbouring scores. Uncompared pairs (NaN) have no say.
    """
    values, labels = np.asarray(scores, np.float64), np.asarray(same, bool)
    known = ~np.isnan(values)
    values, labels = values[known], labels[known]
    if not values.size:
        raise BadInput("No pair could be compared, so there is no threshold to choose.")
    order = np.argsort(values, kind="stable")
    values, labels = values[order], labels[order]
    # Cut k: the k lowest pairs don't match.
    correct = np.concatenate([[0], np.cumsum(~labels)]) + (
        labels.sum() - np.concatenate([[0], np.cumsum(labels)])
    )
    cuts = np.concatenate([[values[0] - 1e-6], (values[:-1] + values[1:]) / 2, [values[-1] + 1e-6]])
    possible = np.concatenate([[True], values[1:] > values[:-1], [True]])  # no cut through equal scores
    best = np.flatnonzero(possible & (correct == correct[possible].max()))
    return float(cuts[best[best.size // 2]])


def cross_validated(
    scores: ArrayLike,
    same: ArrayLike,
    *,
    folds: int = 10,
    seed: int = 0,
    fold_of: ArrayLike | None = None,
) -> FoldAccuracy:
    """Accuracy with the threshold chosen on all folds but one and tested on that one.

    `scores` (N,), NaN for uncompared; `same` (N,) bool. Folds are stratified and drawn from `seed`
    unless `fold_of` gives them (as LFW's view 2 does). Uncompared pairs count as errors.
    """
    values, labels = np.asarray(scores, np.float64), np.asarray(same, bool)
    if values.shape != labels.shape or values.ndim != 1:
        raise BadInput("There must be one label for each score.")
    where = stratified_folds(labels, folds, seed) if fold_of is None else np.asarray(fold_of, np.int64)
    names = np.unique(where)
    correct = np.zeros(values.size, bool)
    thresholds = np.empty(names.size)
    for i, name in enumerate(names):
        test = where == name
        thresholds[i] = best_threshold(values[~test], labels[~test])
        correct[test] = ((values[test] >= thresholds[i]) == labels[test]) & ~np.isnan(values[test])
    per_fold = np.array([correct[where == name].mean() for name in names])
    return FoldAccuracy(
        accuracy=float(per_fold.mean()),
        std=float(per_fold.std(ddof=1)),
        thresholds=thresholds,
        per_fold=per_fold,
        correct=correct,
        fold_of=where,
    )


# --- how sure -----------------------------------------------------------------------------------


def wilson_interval(hits: int, trials: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (JASA 22, 1927); (0, 1) without trials."""
    if trials == 0:
        return 0.0, 1.0
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    p, n = hits / trials, trials
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    return max(0.0, middle - half), min(1.0, middle + half)


def bootstrap_interval(
    genuine: ArrayLike,
    impostor: ArrayLike,
    statistic: Callable[[Floats, Floats], float],
    *,
    rounds: int = 500,
    confidence: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """The percentile bootstrap interval of `statistic(genuine, impostor)`, both sides resampled.

    Pairs are drawn as if independent; where people come in many pairs it is too narrow.
    """
    good, bad = np.asarray(genuine, np.float64), np.asarray(impostor, np.float64)
    draw = np.random.default_rng(seed)
    values = [statistic(draw.choice(good, good.size), draw.choice(bad, bad.size)) for _ in range(rounds)]
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


@dataclass(frozen=True, slots=True)
class McNemar:
    """Two systems on the same pairs: how many only one of them got right, and the exact p-value."""

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first_correct: ArrayLike, second_correct: ArrayLike) -> McNemar:
    """McNemar's exact two-sided test (binomial over the pairs on which the two differ).

    Q. McNemar, Psychometrika 12, 1947. Both (N,) bool, the same pairs in the same order.
    """
    one, two = np.asarray(first_correct, bool), np.asarray(second_correct, bool)
    if one.shape != two.shape:
        raise BadInput("Two systems can be compared only on the same pairs.")
    b, c = int(np.count_nonzero(one & ~two)), int(np.count_nonzero(two & ~one))
    n = b + c
    if n == 0:
        return McNemar(0, 0, 1.0)
    tail = sum(math.comb(n, k) for k in range(min(b, c) + 1))
    return McNemar(b, c, min(1.0, 2 * tail / 2**n))


# --- a summary ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False)
class Verification:
    """One system on one list of pairs. `undetected` pairs had a photo without a face."""

    pairs: int
    undetected: int
    folds: FoldAccuracy
    eer: float
    eer_threshold: float
    tar: Mapping[float, tuple[float, float, float]]
    """FMR -> (TAR, low, high): the 95 % bootstrap interval, which also sees that the threshold is a
    measured one, widened to Wilson's, as no resample of a flawless result holds a miss."""
    auc: float


def verification(
    scores: ArrayLike,
    same: ArrayLike,
    *,
    fold_of: ArrayLike | None = None,
    folds: int = 10,
    seed: int = 0,
    targets: Sequence[float] = FMR_TARGETS,
    rounds: int = 200,
) -> Verification:
    """Everything that `mien evaluate` says about one list of pairs.

    FMRs under one in the number of impostor pairs can't be shown. Of these 1e-3 is kept, as everybody
    quotes it: TAR where not one impostor pair matches. The others are left out.
    """
    values, labels = np.asarray(scores, np.float64), np.asarray(same, bool)
    genuine, impostor = values[labels], values[~labels]
    eer, eer_threshold = equal_error_rate(genuine, impostor)
    compared = np.count_nonzero(~np.isnan(impostor))
    shown = [t for t in targets if t >= CUSTOMARY_FMR or t * compared >= 1 - 1e-9]
    tar = {}
    for target in shown:

        def at(good: Floats, bad: Floats, fmr: float = target) -> float:
            return tar_at_fmr(good, bad, fmr)

        low, high = bootstrap_interval(genuine, impostor, at, rounds=rounds, seed=seed)
        value = at(genuine, impostor)
        least, most = wilson_interval(round(value * genuine.size), genuine.size)
        tar[target] = (value, min(low, least), max(high, most))
    return Verification(
        pairs=values.size,
        undetected=int(np.count_nonzero(np.isnan(values))),
        folds=cross_validated(values, labels, folds=folds, seed=seed, fold_of=fold_of),
        eer=eer,
        eer_threshold=eer_threshold,
        tar=tar,
        auc=area_under_curve(genuine, impostor),
    )


def area_under_curve(genuine: ArrayLike, impostor: ArrayLike) -> float:
    """The chance that a genuine pair scores higher than an impostor pair, ties counted half.

    The Mann-Whitney form. An uncompared genuine pair is under every impostor.
    """
    good, bad, total, others = _sides(genuine, impostor)
    wins = np.searchsorted(bad, good, "left").sum() + np.searchsorted(bad, good, "right").sum()
    return float(wins / 2.0 / (total * others))


def _compared(scores: ArrayLike) -> Floats:
    values = np.asarray(scores, np.float64)
    return values[~np.isnan(values)]


def _sides(genuine: ArrayLike, impostor: ArrayLike) -> tuple[Floats, Floats, int, int]:
    """Sorted compared scores of both sides, all genuine pairs, compared impostor pairs."""
    good, bad = np.sort(_compared(genuine)), np.sort(_compared(impostor))
    total = np.asarray(genuine).size
    if not total or not bad.size:
        raise BadInput("Error rates need pairs of one person and pairs of two people.")
    return good, bad, total, bad.size
