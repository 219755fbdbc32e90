"""Error rates, against closed forms and numbers computed by hand."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.kit.errors import BadInput
from mien.vision.evaluation import (
    area_under_curve,
    best_threshold,
    bootstrap_interval,
    cross_validated,
    curve,
    equal_error_rate,
    mcnemar,
    stratified_folds,
    tar_at_fmr,
    threshold_at_fmr,
    verification,
    wilson_interval,
)

NAN = math.nan
score_lists = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=40)


def gaussians(n: int = 200_000) -> tuple[np.ndarray, np.ndarray]:
    """Impostors N(0, 0.1), genuines N(0.5, 0.1), at evenly spaced quantiles: no chance in it."""
    quantiles = (np.arange(n) + 0.5) / n
    normal = np.array([NormalDist().inv_cdf(q) for q in quantiles])
    return 0.5 + 0.1 * normal, 0.1 * normal


def test_against_the_closed_form_of_two_gaussians() -> None:
    genuine, impostor = gaussians()
    eer, at = equal_error_rate(genuine, impostor)
    # They cross half-way, 2.5 deviations from both means.
    assert at == pytest.approx(0.25, abs=1e-4)
    assert eer == pytest.approx(NormalDist().cdf(-2.5), rel=2e-3)
    for fmr in (1e-1, 1e-2, 1e-3):
        threshold = 0.1 * NormalDist().inv_cdf(1 - fmr)
        assert threshold_at_fmr(impostor, fmr) == pytest.approx(threshold, abs=1e-3)
        expected = 1 - NormalDist(0.5, 0.1).cdf(threshold)
        assert tar_at_fmr(genuine, impostor, fmr) == pytest.approx(expected, abs=2e-4)
    # AUC = Phi(d' / sqrt 2), d' = 5.
    assert area_under_curve(genuine, impostor) == pytest.approx(NormalDist().cdf(5 / math.sqrt(2)), abs=1e-6)


def test_by_hand() -> None:
    genuine, impostor = [0.9, 0.8, 0.4, 0.3], [0.5, 0.35, 0.2, 0.1]
    points = curve(genuine, impostor)
    assert points.thresholds.tolist() == [math.inf, 0.9, 0.8, 0.5, 0.4, 0.35, 0.3, 0.2, 0.1]
    assert points.tar.tolist() == [0, 0.25, 0.5, 0.5, 0.75, 0.75, 1, 1, 1]
    assert points.fmr.tolist() == [0, 0, 0, 0.25, 0.25, 0.5, 0.5, 0.75, 1]
    assert tar_at_fmr(genuine, impostor, 0.0) == 0.5
    assert tar_at_fmr(genuine, impostor, 0.25) == 0.75
    assert equal_error_rate(genuine, impostor)[0] == 0.25
    # 16 pairs of scores: 0.9 and 0.8 win 4 each, 0.4 wins 3, 0.3 wins 2.
    assert area_under_curve(genuine, impostor) == 13 / 16
    assert area_under_curve([0.5], [0.5]) == 0.5


def test_what_could_not_be_compared() -> None:
    # A missed genuine photo is a miss at every threshold; an impostor that wasn't compared says nothing.
    assert tar_at_fmr([0.9, 0.8, 0.7, NAN], [0.1, 0.2, NAN], 0.0) == 0.75
    assert curve([0.9, NAN], [0.1, 0.2, NAN]).tar[-1] == 0.5
    assert curve([0.9, NAN], [0.1, 0.2, NAN]).fmr[-1] == 1.0
    assert equal_error_rate([0.9, NAN], [0.1, 0.2])[0] == 0.5
    assert area_under_curve([0.9, NAN], [0.1, 0.2]) == 0.5
    # For accuracy both kinds are errors: 8 pairs, separable but for the two.
    got = cross_validated([0.9, 0.9, 0.9, NAN, 0.1, 0.1, 0.1, NAN], [True] * 4 + [False] * 4, folds=2)
    assert got.correct.tolist() == [True, True, True, False] * 2
    assert got.accuracy == pytest.approx(0.75)


def test_nothing_to_compare() -> None:
    for genuine, impostor in (([], [0.1]), ([0.1], []), ([0.1], [NAN])):
        with pytest.raises(BadInput):
            curve(genuine, impostor)
    with pytest.raises(BadInput):
        best_threshold([NAN, NAN], [True, False])


@given(genuine=score_lists, impostor=score_lists, fmr=st.floats(0, 1))
def test_the_threshold_keeps_its_fmr_and_is_the_lowest(
    genuine: list[float], impostor: list[float], fmr: float
) -> None:
    threshold = threshold_at_fmr(impostor, fmr)
    bad = np.array(impostor)
    assert np.count_nonzero(bad >= threshold) <= fmr * bad.size + 1e-6
    lower = np.nextafter(threshold, -np.inf)
    if threshold > bad.min():
        assert np.count_nonzero(bad >= lower) > fmr * bad.size - 1e-6
    assert 0 <= tar_at_fmr(genuine, impostor, fmr) <= 1


@given(genuine=score_lists, impostor=score_lists)
def test_rates_rise_along_the_curve(genuine: list[float], impostor: list[float]) -> None:
    points = curve(genuine, impostor)
    assert (np.diff(points.fmr) >= 0).all()
    assert (np.diff(points.tar) >= 0).all()
    assert points.fmr[-1] == points.tar[-1] == 1.0
    # The trapezoid area under the curve is the Mann-Whitney statistic.
    area = float(np.sum(np.diff(points.fmr) * (points.tar[1:] + points.tar[:-1]) / 2))
    assert area == pytest.approx(area_under_curve(genuine, impostor), abs=1e-9)


def test_best_threshold_takes_the_middle_of_a_plateau() -> None:
    assert best_threshold([0.1, 0.2, 0.6, 0.8], [False, False, True, True]) == pytest.approx(0.4)
    # No cut goes through equal scores: of 0.5, 0.5 (one each) and 0.9 (same) the best are 2 of 3.
    at = best_threshold([0.5, 0.5, 0.9], [False, True, True])
    assert at < 0.5 or 0.5 < at < 0.9


@given(
    scores=st.lists(
        st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.4, 0.5]), st.booleans()), min_size=1, max_size=12
    )
)
def test_best_threshold_is_the_best(scores: list[tuple[float, bool]]) -> None:
    values, labels = np.array([s for s, _ in scores]), np.array([same for _, same in scores])
    tried = [np.count_nonzero((values >= t) == labels) for t in np.linspace(0, 1, 101) + 0.005]
    assert np.count_nonzero((values >= best_threshold(values, labels)) == labels) == max(tried)


def test_folds_are_stratified_and_seeded() -> None:
    same = np.arange(1000) < 500
    one, again, other = (stratified_folds(same, 10, seed) for seed in (7, 7, 8))
    assert (one == again).all()
    assert (one != other).any()
    for fold in range(10):
        assert np.count_nonzero((one == fold) & same) == 50
        assert np.count_nonzero((one == fold) & ~same) == 50
    uneven = stratified_folds(np.arange(23) < 11, 4, 0)
    assert sorted(np.bincount(uneven)) == [5, 6, 6, 6]
    with pytest.raises(BadInput):
        stratified_folds([True, False], 10, 0)


def test_cross_validation_by_hand() -> None:
    # Fold 0 learns on fold 1 (cut between 0.32 and 0.7) and the other way (between 0.2 and 0.4).
    scores = [0.4, 0.6, 0.2, 0.1, 0.7, 0.9, 0.32, 0.32]
    same = [True, True, False, False, True, True, False, False]
    got = cross_validated(scores, same, fold_of=[0, 0, 0, 0, 1, 1, 1, 1])
    assert got.thresholds.tolist() == pytest.approx([0.51, 0.3])
    assert got.per_fold.tolist() == [0.75, 0.5]  # 0.4 missed; both 0.32 match at 0.3
    assert got.accuracy == 0.625
    assert got.std == pytest.approx(math.sqrt(2 * 0.125**2))
    assert got.standard_error == pytest.approx(got.std / math.sqrt(2))


def test_an_accuracy_never_sees_its_test_fold() -> None:
    # Scores without information: a threshold chosen on the test pairs too would beat a half.
    draw = np.random.default_rng(1)
    got = [cross_validated(draw.random(200), np.arange(200) < 100, seed=s).accuracy for s in range(30)]
    assert abs(float(np.mean(got)) - 0.5) < 0.02


def test_wilson_interval_is_the_published_one() -> None:
    # Newcombe, Statistics in Medicine 17, 1998, table I: 81/263 and 0/20.
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson_interval(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_mcnemar_is_the_exact_binomial() -> None:
    one = np.array([True] * 8 + [False] * 2 + [True] * 90)
    two = np.array([False] * 8 + [True] * 2 + [True] * 90)
    got = mcnemar(one, two)
    assert (got.only_first, got.only_second) == (8, 2)
    assert got.p_value == pytest.approx(2 * (1 + 10 + 45) / 1024)
    assert mcnemar(one, one).p_value == 1.0
    with pytest.raises(BadInput):
        mcnemar(one, two[:5])


def test_bootstrap_covers_the_truth_about_as_often_as_it_says() -> None:
    draw = np.random.default_rng(3)
    truth = 1 - NormalDist(0.5, 0.2).cdf(0.25)
    hits = 0
    for seed in range(40):
        genuine = draw.normal(0.5, 0.2, 300)
        low, high = bootstrap_interval(
            genuine, [0.0], lambda g, _: float(np.mean(g >= 0.25)), rounds=200, seed=seed
        )
        hits += low <= truth <= high
    assert hits >= 34  # 38 expected


def test_verification_shows_only_rates_that_the_pairs_can_show() -> None:
    genuine, impostor = gaussians(500)
    scores, same = np.concatenate([genuine, impostor]), np.arange(1000) < 500
    scores[3] = NAN
    got = verification(scores, same, rounds=50)
    assert (got.pairs, got.undetected) == (1000, 1)
    assert sorted(got.tar) == [0.001, 0.01, 0.1]  # 500 impostors show no 1e-4
    assert got.tar[0.001][0] == np.mean(scores[:500] > impostor.max())
    tar, low, high = got.tar[0.01]
    assert low <= tar <= high
    assert got.folds.accuracy == pytest.approx(1 - NormalDist().cdf(-2.5), abs=5e-3)
