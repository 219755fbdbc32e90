"""All pairs of labelled photos, and the table that they give."""

import numpy as np
import pytest

from mien.kit.errors import BadInput
from mien.vision.allpairs import FMR_GRID, calibration, cautions, compare_all, table_rows
from mien.vision.calibration import Calibration, MatchPolicy


def people(count: int, each: int, spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around `count` centres: (N, 32) float32 and identities (N,)."""
    draw = np.random.default_rng(seed)
    centres = draw.normal(size=(count, 1, 32))
    vectors = (centres + spread * draw.normal(size=(count, each, 32))).reshape(-1, 32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors.astype(np.float32), np.repeat(np.arange(count), each)


def brute(vectors: np.ndarray, who: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    i, j = np.triu_indices(len(vectors), 1)
    scores = np.einsum("nd,nd->n", vectors[i].astype(np.float64), vectors[j].astype(np.float64))
    same = who[i] == who[j]
    return scores[same], scores[~same]


@pytest.mark.parametrize("block_scores", [200, 30_000, 4_000_000])
def test_counts_are_those_of_all_pairs(block_scores: int) -> None:
    vectors, who = people(60, 5, 0.5)
    order = np.random.default_rng(1).permutation(len(who))
    vectors, who = vectors[order], who[order]
    got = compare_all(vectors, who, block_scores=block_scores)
    genuine, impostor = brute(vectors, who)
    assert (got.genuine_pairs, got.impostor_pairs) == (genuine.size, impostor.size) == (600, 44_250)
    for edge in (-0.3, 0.0, 0.2, 0.41):
        at = round((edge + 1) * 10_000)
        # A score within a rounding step of the edge may fall on either side.
        assert abs(got.impostor[at:].sum() - np.count_nonzero(impostor >= edge)) <= 1
        assert abs(got.genuine[at:].sum() - np.count_nonzero(genuine >= edge)) <= 1
    assert got.lookalikes[0].score == pytest.approx(impostor.max(), abs=1e-6)
    assert got.strangers[0].score == pytest.approx(genuine.min(), abs=1e-6)


def test_wrong_labels_come_first() -> None:
    vectors, who = people(40, 6, 0.3)
    who = who.copy()
    who[7 * 6 + 2] = 31  # one photo of person 7 in the folder of 31
    got = compare_all(vectors, who, keep=5)
    first = got.lookalikes[0]
    assert {int(who[first.first]), int(who[first.second])} == {7, 31}
    assert 7 * 6 + 2 in (first.first, first.second)
    assert 7 * 6 + 2 in (got.strangers[0].first, got.strangers[0].second)
    groups = [frozenset((int(who[p.first]), int(who[p.second]))) for p in got.lookalikes]
    assert len(set(groups)) == len(groups) == 5


def test_ignored_people_count_neither_way() -> None:
    vectors, who = people(20, 3, 0.3)
    whole, less = compare_all(vectors, who), compare_all(vectors, who, ignored=frozenset({(2, 5), (0, 19)}))
    assert less.impostor_pairs == whole.impostor_pairs - 18
    assert less.genuine_pairs == whole.genuine_pairs
    scores = vectors @ vectors.T
    left_out = np.concatenate([scores[np.ix_(who == a, who == b)].ravel() for a, b in ((2, 5), (0, 19))])
    slots = ((left_out + 1) * 10_000).astype(int)
    assert (whole.impostor - less.impostor == np.bincount(slots, minlength=20_000)).mean() > 0.999
    assert not {(2, 5), (0, 19)} & {(int(who[p.first]), int(who[p.second])) for p in less.lookalikes}


def test_the_table_holds_for_what_it_was_made_of() -> None:
    vectors, who = people(300, 4, 0.5)
    found = compare_all(vectors, who)
    genuine, impostor = brute(vectors, who)
    rows = table_rows(found)
    assert rows[0][0] == FMR_GRID[0] == 0.316
    # 717,600 impostor pairs: 30 errors are 4.2e-5, so the last quarter decade is 5.62e-5.
    assert found.impostor_pairs == impostor.size == 717_600
    assert rows[-1][0] == 5.62e-5
    for fmr, score, tar in rows:
        assert np.mean(impostor >= score + 1e-6) <= fmr
        assert np.mean(impostor >= score - 1.1e-4) > fmr  # the lowest such edge
        assert tar == pytest.approx(np.mean(genuine >= score), abs=1e-3)
    table = calibration(found, space="x.r1.a.32", name="n", recipe="r", measured_on="m")
    assert Calibration.from_json(table.to_json(), origin="x") == table
    assert table.threshold(MatchPolicy(fmr=1e-3), 1).score == pytest.approx(
        np.quantile(impostor, 1 - 1e-3), abs=2e-3
    )
    (few_impostors, *_) = cautions(found, table)
    assert "5.6e-05" in few_impostors


def test_too_few_photos_say_what_is_missing() -> None:
    for count, each in ((5, 2), (200, 1)):
        with pytest.raises(BadInput, match="Add people"):
            table_rows(compare_all(*people(count, each, 0.3)))


def test_bad_vectors() -> None:
    vectors, who = people(3, 2, 0.3)
    with pytest.raises(BadInput):
        compare_all(vectors, who[:-1])
    vectors[0, 0] = np.nan
    with pytest.raises(BadInput):
        compare_all(vectors, who)
