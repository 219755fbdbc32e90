"""The plots: drawn without a display, the same figures giving the same file."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from mien.vision import plots
from mien.vision.calibration import Calibration
from mien.vision.evaluation import curve

pytest.importorskip("matplotlib")


def scores(seed: int, misses: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    genuine, impostor = draw.normal(0.6, 0.12, 300), draw.normal(0.05, 0.1, 300)
    genuine[:misses] = np.nan
    return genuine, impostor


def ink(path: Path, colour: tuple[int, int, int]) -> int:
    """Pixels of just this colour."""
    with PIL.Image.open(path) as image:
        assert image.format == "PNG"
        return int((np.asarray(image.convert("RGB")) == colour).all(axis=2).sum())


BLUE, VERMILION = (0, 0x72, 0xB2), (0xD5, 0x5E, 0)


def test_curves_are_drawn_in_their_colours(tmp_path: Path) -> None:
    curves = {"one": curve(*scores(0)), "two": curve(*scores(1, misses=9))}
    for path in (
        plots.roc(tmp_path / "new" / "roc.png", curves, 300),
        plots.det(tmp_path / "new" / "det.png", curves, 300, 300),
    ):
        assert ink(path, BLUE) > 300
        assert ink(path, VERMILION) > 200
        assert path.stat().st_size < 100_000


def test_a_flawless_result_can_be_drawn(tmp_path: Path) -> None:
    perfect = {"one": curve([0.9, 0.8], [0.1, 0.2])}
    assert ink(plots.roc(tmp_path / "roc.png", perfect, 2), BLUE) > 300
    plots.det(tmp_path / "det.png", perfect, 2, 2)


def test_scores_and_tables(tmp_path: Path) -> None:
    genuine, impostor = scores(2, misses=2)
    plots.scores(tmp_path / "scores.png", genuine, impostor, {"FMR 0.1 %": 0.35}, "sface")
    table = Calibration.for_space("sface.r1.arcface112.128")
    assert table is not None
    assert ink(plots.tables(tmp_path / "tables.png", [table], ["sface"]), BLUE) > 300


def test_same_figures_same_file(tmp_path: Path) -> None:
    one, two = (plots.roc(tmp_path / n, {"x": curve(*scores(0))}, 300) for n in ("a.png", "b.png"))
    assert one.read_bytes() == two.read_bytes()


def test_without_matplotlib_it_says_what_to_install(tmp_path: Path) -> None:
    program = (
        "import sys; sys.modules['matplotlib'] = None\n"  # what an absent package looks like to import
        "from pathlib import Path\n"
        "from mien.kit.errors import SetupError\n"
        "from mien.vision import plots\n"
        "from mien.vision.evaluation import curve\n"
        "try:\n    plots.roc(Path(sys.argv[1]), {'x': curve([1.0], [0.0])}, 10)\n"
        "except SetupError as error:\n    print(error.message)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "x.png")], capture_output=True, text=True, timeout=60
    )
    assert "plots" in done.stdout, done.stderr
