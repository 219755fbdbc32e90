"""Score <-> FMR tables and the thresholds that come from them."""

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mien.kit.errors import BadInput, SetupError
from mien.vision.calibration import (
    Calibration,
    Calibrations,
    MatchPolicy,
    gallery_step,
    score_of_distance,
    uncalibrated,
)
from mien.vision.models.packs import recognition_packs
from tests.paths_to_data import shared_dir

SPACES = {
    "sface.r1.arcface112.128": "sface",
    "faceplugin-512.r1.arcface112.512": "fr_feature",
    "sface70-faceplugin30.r1.arcface112.640": "sface_0.7_plus_fr_feature_0.3",
}
each_space = pytest.mark.parametrize("space", SPACES)
scores = st.floats(-1.0, 1.0)
sizes = st.integers(0, 5_000_000)


def table(space: str = "sface.r1.arcface112.128") -> Calibration:
    found = Calibration.for_space(space)
    assert found is not None
    return found


# --- what is measured ---------------------------------------------------------------------------


@each_space
def test_packaged_rows_are_the_measured_ones(space: str) -> None:
    measured = json.loads(shared_dir("calibration", f"{SPACES[space]}.json").read_text())
    found = table(space)
    assert [list(r) for r in found.rows] == measured["rows"]
    assert (found.impostor_pairs, found.genuine_pairs) == (87_306_420, 242_257)


def test_every_recognition_pack_has_a_table() -> None:
    for pack in recognition_packs():
        found = table(pack.space.key)
        assert found.space == pack.space.key
        # Each lowest row stands on about 30 errors (Doddington's rule of 30).
        assert found.lowest_fmr * found.impostor_pairs > 27


@each_space
def test_rows_come_back_exactly(space: str) -> None:
    found = table(space)
    for fmr, score, tar in found.rows:
        assert found.fmr(score) == pytest.approx(fmr, rel=1e-9)
        assert found.fnmr(score) == pytest.approx(1 - tar, abs=1e-12)
        assert found.threshold(MatchPolicy(fmr=fmr), 1).score == pytest.approx(score, abs=1e-9)


def test_between_rows_the_score_is_linear_in_log_fmr() -> None:
    # Rows of SFace: (1e-3, 0.3708, 0.998) and (5.62e-4, 0.3862, 0.9975). Half-way in log10(FMR) is
    # sqrt(1e-3 * 5.62e-4), half-way in score 0.3785, and TAR there 0.99775.
    found = table()
    got = found.threshold(MatchPolicy(fmr=math.sqrt(1e-3 * 5.62e-4)), 1)
    assert got.score == pytest.approx(0.3785, abs=1e-9)
    assert got.fnmr == pytest.approx(0.00225, abs=1e-9)
    assert not got.extrapolated
    assert got.note is None


def test_default_is_one_percent_at_this_size() -> None:
    # 10,000 templates count as 16,384: FMR = 0.01 / 16384 = 6.1e-7, between the rows (1e-6, 0.5517)
    # and (5.62e-7, 0.5657): 0.5517 + 0.014 * log(1e-6 / 6.1035e-7) / log(1e-6 / 5.62e-7) = 0.5637.
    got = table().threshold(MatchPolicy(), 10_000)
    assert got.gallery_size == 16_384
    assert got.fmr == pytest.approx(0.01 / 16_384, rel=1e-6)
    assert got.fpir == pytest.approx(0.01, rel=1e-6)
    assert got.score == pytest.approx(0.56370, abs=2e-5)
    assert got.fnmr == pytest.approx(0.0561, abs=2e-4)


def test_extrapolates_one_decade_on_the_log_scale_and_says_so() -> None:
    # SFace's last decade: 3.16e-6 at 0.527 to 3.16e-7 at 0.5822, 0.0552 a decade.
    found = table()
    within = found.threshold(MatchPolicy(fmr=1e-7), 1)
    assert within.score == pytest.approx(0.5822 + 0.0552 * math.log10(3.16), abs=1e-6)
    assert within.extrapolated
    assert within.note is not None
    assert "extrapolated" in within.note
    edge = found.threshold(MatchPolicy(fmr=3.16e-8), 1)
    assert edge.score == pytest.approx(0.6374, abs=1e-9)
    beyond = found.threshold(MatchPolicy(fpir=0.01), 1_000_000)
    assert beyond.score == pytest.approx(0.6374, abs=1e-9)
    assert beyond.fmr == pytest.approx(3.16e-8)
    assert beyond.fpir == pytest.approx(3.16e-8 * 2**20, rel=1e-6)  # 3.3 %, not the 1 % that was asked
    assert beyond.note is not None
    assert "0.033" in beyond.note


def test_a_score_over_the_table_keeps_the_edge_rate() -> None:
    got = table().threshold(MatchPolicy(score=0.9), 1000)
    assert got.score == 0.9
    assert got.fmr == pytest.approx(3.16e-8)
    assert got.extrapolated
    assert got.note is not None


def test_distance_is_the_same_threshold() -> None:
    got = table().threshold(MatchPolicy(distance=1.128), 10)  # DeepFace's and OpenCV's SFace L2 value
    assert got.score == pytest.approx(1 - 1.128**2 / 2)
    assert got.distance == pytest.approx(1.128)
    assert score_of_distance(0.0) == 1.0
    assert score_of_distance(2.0) == -1.0


# --- properties ---------------------------------------------------------------------------------


@each_space
@given(a=scores, b=scores)
def test_monotone(space: str, a: float, b: float) -> None:
    found, (low, high) = table(space), sorted((a, b))
    assert found.fmr(low) >= found.fmr(high)
    assert found.fnmr(low) <= found.fnmr(high)
    assert found.similarity(low) <= found.similarity(high)


@each_space
@given(log=st.floats(-7.49, -0.01))
def test_fmr_of_the_threshold_is_the_wanted_one(space: str, log: float) -> None:
    found = table(space)
    assert found.fmr(found.threshold(MatchPolicy(fmr=10**log), 1).score) == pytest.approx(10**log, rel=1e-6)


@each_space
@given(size=st.integers(1, 100_000), fpir=st.floats(1e-3, 0.5))
def test_a_doubled_gallery_raises_the_threshold(space: str, size: int, fpir: float) -> None:
    found, policy = table(space), MatchPolicy(fpir=fpir)
    one, two = found.threshold(policy, size), found.threshold(policy, 2 * size)
    assert two.gallery_size == 2 * one.gallery_size
    assert two.score >= one.score
    if one.fmr is not None and one.fmr > 2.001 * found.lowest_usable_fmr:
        assert two.score > one.score
    assert one.fpir is not None
    if fpir / one.gallery_size >= found.lowest_usable_fmr:
        assert one.fpir <= fpir * (1 + 1e-6)


@given(size=sizes)
def test_gallery_step_is_the_next_power_of_two(size: int) -> None:
    step = gallery_step(size)
    assert step >= max(1, size)
    assert step & (step - 1) == 0
    assert step == 1 or step // 2 < size


@each_space
@given(similarity=st.floats(0.01, 100.0))
def test_similarity_and_its_inverse_agree(space: str, similarity: float) -> None:
    found = table(space)
    assert found.similarity(found.score_of_similarity(similarity)) == pytest.approx(similarity, abs=1e-6)


@each_space
def test_similarity_anchors(space: str) -> None:
    found = table(space)
    for fmr, similarity in ((1e-4, 80.0), (1e-5, 90.0), (1e-6, 99.0), (1e-2, 40.0)):
        assert found.similarity(found.threshold(MatchPolicy(fmr=fmr), 1).score) == pytest.approx(similarity)
    assert found.similarity(1.0) == 100.0
    assert found.similarity(-1.0) == 0.0
    assert found.score_of_similarity(100.0) == 1.0
    assert found.similarity(1.0 + 1e-6) == 100.0  # a cosine may come out a rounding step over 1


def test_similarity_of_a_table_that_ends_early_still_rises_to_100() -> None:
    small = Calibration("x.r1.a.2", "t", "", "", 1000, 100, ((0.1, 0.2, 1.0), (0.01, 0.3, 0.99)))
    got = [small.similarity(s / 100) for s in range(101)]
    assert got == sorted(got)
    assert got[100] == 100.0
    flat = Calibration("x.r1.a.2", "t", "", "", 1000, 100, ((0.1, 0.2, 1.0), (0.01, 0.6, 0.99)))
    got = [flat.similarity(s / 100) for s in range(101)]  # its line reaches 1e-6 only at score 2.2
    assert got == sorted(got)
    assert got[100] == 100.0
    assert flat.similarity(flat.score_of_similarity(95.0)) == pytest.approx(95.0)


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given_",
    [
        {"score": 0.4, "fmr": 0.01},
        {"score": 1.5},
        {"score": math.nan},
        {"distance": -0.1},
        {"distance": 2.1},
        {"fmr": 0.0},
        {"fmr": 1.01},
        {"fpir": -1.0},
        {"fpir": math.inf},
    ],
)
def test_bad_policies(given_: dict[str, float]) -> None:
    with pytest.raises(BadInput):
        MatchPolicy(**given_)


def test_no_policy_is_the_default_one() -> None:
    assert MatchPolicy() == MatchPolicy(fpir=0.01)


def test_without_a_table_only_a_score_works() -> None:
    tables = Calibrations()
    assert tables.for_space("unheard-of.r1.arcface112.128") is None
    got = tables.threshold("unheard-of.r1.arcface112.128", MatchPolicy(distance=1.0), 5)
    assert (got.score, got.fmr, got.fpir, got.fnmr) == (0.5, None, None, None)
    with pytest.raises(BadInput, match="mien calibrate"):
        uncalibrated(MatchPolicy(), 5, "unheard-of.r1.arcface112.128")


@pytest.mark.parametrize("key", ["../../etc/passwd", "", "a/b", "ä", "x" * 300])
def test_a_key_is_no_path(key: str, tmp_path: Path) -> None:
    assert Calibration.for_space(key, tmp_path) is None


@pytest.mark.parametrize("score", [math.nan, math.inf, -math.inf])
def test_scores_are_finite(score: float) -> None:
    for call in (table().fmr, table().fnmr, table().similarity):
        with pytest.raises(BadInput):
            call(score)


# --- customers' tables --------------------------------------------------------------------------


def test_a_customers_table_takes_the_place_of_the_packaged_one(tmp_path: Path) -> None:
    packaged, tables = table(), Calibrations(tmp_path)
    assert tables.for_space(packaged.space) == packaged
    rows = ((0.1, 0.1, 1.0), (0.001, 0.2, 0.99))
    own = Calibration(packaged.space, "gate", "r", "40 people at the gate", 10_000, 300, rows)
    (tmp_path / f"{packaged.space}.json").write_text(own.to_json())
    assert tables.for_space(packaged.space) == own
    assert own.digest != packaged.digest
    newer = Calibration(packaged.space, "gate, October", "r", "60 people", 20_000, 600, rows)
    (tmp_path / f"{packaged.space}.json").write_text(newer.to_json())
    assert tables.for_space(packaged.space) == newer


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"rows": [', '"rows": [[1, 2'),
        ('"format": 1', '"format": 9'),
        ('"space": "sface', '"space": "other'),
        ("[0.316, 0.14,", "[0.316, 0.9,"),
        ("[0.316, 0.14,", "[-1, 0.14,"),
        ("[0.316, 0.14,", "[NaN, 0.14,"),
        ('"impostor_pairs"', '"pairs"'),
    ],
)
def test_a_damaged_table_says_so(old: str, new: str, tmp_path: Path) -> None:
    text = table().to_json()
    assert old in text
    (tmp_path / f"{table().space}.json").write_text(text.replace(old, new))
    with pytest.raises(SetupError, match="calibration table"):
        Calibration.for_space(table().space, tmp_path)
