"""The alignment is Umeyama's, lands on the template, and does not alias."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mien.vision.align import CHIP_PX, TEMPLATE, chip, chip_zoom, similarity
from mien.vision.values import Image

POINTS = np.array([[200, 102], [247, 103], [220, 125], [199, 143], [240, 144]], np.float32)


def umeyama_by_svd(source: NDArray[np.float64], target: NDArray[np.float64]) -> NDArray[np.float64]:
    """Equations 34 to 43 of S. Umeyama's paper (PAMI 1991), as they stand there."""
    n = len(source)
    source_mean, target_mean = source.mean(0), target.mean(0)
    s, t = source - source_mean, target - target_mean
    u, d, vt = np.linalg.svd(t.T @ s / n)
    sign = np.eye(2)
    if np.linalg.det(u) * np.linalg.det(vt) < 0:
        sign[1, 1] = -1
    rotation = u @ sign @ vt
    scale = np.trace(np.diag(d) @ sign) / (s**2).sum() * n
    return np.concatenate([scale * rotation, (target_mean - scale * rotation @ source_mean)[:, None]], 1)


def test_similarity_is_umeyamas() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        angle, zoom = rng.uniform(-np.pi, np.pi), rng.uniform(0.1, 9)
        turn = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = (TEMPLATE @ turn.T + rng.uniform(-500, 500, 2) + rng.normal(0, 2, (5, 2))).astype(np.float32)
        expected = umeyama_by_svd(points.astype(float), TEMPLATE.astype(float))
        np.testing.assert_allclose(similarity(points), expected, rtol=1e-6, atol=1e-6)


def test_the_template_maps_to_itself_and_moves_back() -> None:
    np.testing.assert_allclose(similarity(TEMPLATE), np.eye(2, 3), atol=1e-12)
    assert chip_zoom(TEMPLATE * 3) == pytest.approx(1 / 3)


def test_coinciding_points_give_a_chip_and_no_error(pixels: Callable[[str], NDArray[np.uint8]]) -> None:
    image = Image(pixels("astronaut"), (512, 512))
    assert chip(image, np.full((5, 2), 7, np.float32)).shape == (CHIP_PX, CHIP_PX, 3)
    assert chip(image, POINTS + 1e6).max() == 0  # far outside: black


def test_without_reduction_it_is_plain_warping(pixels: Callable[[str], NDArray[np.uint8]]) -> None:
    source = pixels("astronaut")
    expected = cv2.warpAffine(source, similarity(POINTS), (CHIP_PX, CHIP_PX), flags=cv2.INTER_LINEAR)
    assert np.array_equal(chip(Image(source, (512, 512)), POINTS), expected)


@pytest.mark.parametrize("factor", [2.3, 3.0, 5.7, 9.0])
def test_large_faces_give_the_same_chip(pixels: Callable[[str], NDArray[np.uint8]], factor: float) -> None:
    source = pixels("astronaut")
    side = round(512 * factor)
    big = np.asarray(cv2.resize(source, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)
    zoom = side / 512
    # Pixel centres: (p + 0.5) * zoom - 0.5.
    points = ((POINTS + 0.5) * zoom - 0.5).astype(np.float32)
    small, large = chip(Image(source, (512, 512)), POINTS), chip(Image(big, (side, side)), points)
    assert np.abs(small.astype(int) - large).mean() < 2.0


def test_fine_patterns_do_not_alias() -> None:
    """A chequerboard of one pixel is grey from afar; bilinear sampling alone makes patterns of it."""
    board = np.indices((2000, 2000)).sum(0) % 2 * 255
    image = Image(np.repeat(board.astype(np.uint8)[:, :, None], 3, axis=2), (2000, 2000))
    points = (TEMPLATE * 10.3 + 200).astype(np.float32)
    inner = chip(image, points)[10:-10, 10:-10].astype(float)
    assert inner.mean() == pytest.approx(127.5, abs=2)
    assert inner.std() < 8


def test_points_are_in_source_px_whatever_the_decode(pixels: Callable[[str], NDArray[np.uint8]]) -> None:
    source = pixels("astronaut")
    half = np.asarray(cv2.resize(source, (256, 256), interpolation=cv2.INTER_AREA), np.uint8)
    full = chip(Image(source, (512, 512)), POINTS)
    scaled = chip(Image(half, (512, 512), (0.5, 0.5)), POINTS)
    assert np.abs(full.astype(int) - scaled).mean() < 8
