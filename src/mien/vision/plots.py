"""ROC, DET and score plots as PNG. Needs the extra `plots` (matplotlib), which is imported when used.

Figures are drawn straight onto an Agg canvas: no display, no global state of pyplot.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.kit.errors import SetupError
from mien.vision.calibration import Calibration
from mien.vision.evaluation import Curve

Floats = NDArray[np.float64]

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
"""M. Okabe and K. Ito's palette, which colour-blind readers tell apart."""
STYLES = ("-", "--", "-.", ":")

_RATES = (1e-6, 1e-5, 1e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.95)
_NORMAL = NormalDist()


def _figure(title: str) -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise SetupError("Plots need matplotlib: install Mien with its extra `plots`.") from None
    figure = Figure(figsize=(6.4, 4.8), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _save(figure: Any, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    # No creation date or version inside: the same figures give the same file.
    figure.savefig(path, format="png", metadata={"Software": None})
    return path


def _percent(rate: float) -> str:
    return f"{100 * rate:.6f}".rstrip("0").rstrip(".") + " %"


def roc(path: Path, curves: Mapping[str, Curve], impostors: int) -> Path:
    """TAR over FMR (log), one line per name; FMR begins at one in `impostors` pairs, the least they show."""
    figure, axes = _figure("ROC: true accept rate over false match rate")
    least = 1.0 / max(10, impostors)
    lowest = 1.0
    for i, (name, points) in enumerate(curves.items()):
        # A step line: between two points the threshold of the left one holds.
        x = np.concatenate([[least], np.clip(points.fmr, least, 1.0), [1.0]])
        at_least = float(points.tar[points.fmr <= least * (1 + 1e-9)].max())
        y = np.concatenate([[at_least], np.maximum(points.tar, at_least), [points.tar[-1]]])
        axes.plot(
            x, y, STYLES[i % 4], color=COLOURS[i % 7], label=name, drawstyle="steps-post", linewidth=1.6
        )
        lowest = min(lowest, at_least)
    axes.set_xscale("log")
    axes.set_xlim(least, 1.0)
    floor = max(0.0, np.floor((lowest - 0.005) * 50) / 50)
    axes.set_ylim(floor, 1.0 + (1.0 - floor) * 0.02)
    axes.set_xlabel("false match rate (FMR)")
    axes.set_ylabel("true accept rate (TAR = 1 - FNMR)")
    axes.legend(loc="lower right", frameon=False)
    return _save(figure, path)


def det(path: Path, curves: Mapping[str, Curve], impostors: int, genuines: int) -> Path:
    """FNMR over FMR on normal-deviate axes (A. Martin et al., Eurospeech 1997), one line per name.

    Rates under one in the number of pairs can't be seen and are cut off.
    """
    figure, axes = _figure("DET: false non-match rate over false match rate")
    low_x, low_y = 1.0 / max(10, impostors), 1.0 / max(10, genuines)
    highest = 10 * low_y
    for i, (name, points) in enumerate(curves.items()):
        shown = (points.fmr >= low_x * (1 - 1e-9)) & (points.fmr < 0.999)
        x = points.fmr[shown]
        y = np.clip(points.fnmr[shown], low_y * 0.9, 0.999)
        highest = max(highest, float(y.max(initial=0.0)))
        style = STYLES[i % 4]
        axes.plot(_probits(x), _probits(y), style, color=COLOURS[i % 7], label=name, linewidth=1.6)
    top = min(0.95, max(highest * 1.5, 0.06))
    for axis, low, high in ((axes.xaxis, low_x, 0.6), (axes.yaxis, low_y * 0.9, top)):
        ticks = [r for r in _RATES if low * (1 - 1e-9) <= r <= high]
        axis.set_ticks([_NORMAL.inv_cdf(r) for r in ticks], [_percent(r) for r in ticks])
    axes.set_xlim(_NORMAL.inv_cdf(low_x), _NORMAL.inv_cdf(0.6))
    axes.set_ylim(_NORMAL.inv_cdf(low_y * 0.9), _NORMAL.inv_cdf(top))
    axes.set_xlabel("false match rate (FMR)")
    axes.set_ylabel("false non-match rate (FNMR)")
    axes.legend(loc="upper right", frameon=False)
    return _save(figure, path)


def scores(path: Path, genuine: Floats, impostor: Floats, marks: Mapping[str, float], name: str) -> Path:
    """The two distributions of scores (NaN left out), and thresholds as named upright lines."""
    figure, axes = _figure(f"Scores: {name}")
    good, bad = genuine[~np.isnan(genuine)], impostor[~np.isnan(impostor)]
    both = np.concatenate([good, bad])
    edges = np.linspace(float(both.min()), float(both.max()) + 1e-6, 61)
    for values, colour, label in ((bad, COLOURS[1], "two people"), (good, COLOURS[0], "one person")):
        axes.hist(values, edges, color=colour, alpha=0.65, label=f"{label} ({values.size:,} pairs)")
    for i, (label, at) in enumerate(marks.items()):
        axes.axvline(at, color="#333333", linestyle=STYLES[i % 4], linewidth=1.3, label=f"{label}: {at:.3f}")
    axes.set_xlabel("score (cosine)")
    axes.set_ylabel("pairs")
    axes.margins(x=0.02)
    top = axes.get_ylim()[1]
    axes.set_ylim(0, top * (1.12 + 0.07 * len(marks)))  # room for the legend over the bars
    axes.legend(loc="upper right", frameon=False, fontsize=8.5)
    return _save(figure, path)


def tables(path: Path, calibrations: Sequence[Calibration], names: Sequence[str]) -> Path:
    """FMR and FNMR over the score for calibration tables; where they are extrapolated, dotted."""
    figure, axes = _figure("What a threshold costs: FMR (falling; dotted: extrapolated) and FNMR")
    for i, (table, name) in enumerate(zip(calibrations, names, strict=True)):
        colour = COLOURS[i % 7]
        at = np.array([s for _, s, _ in table.rows])
        axes.plot(at, [f for f, _, _ in table.rows], "-", color=colour, linewidth=1.6, label=f"{name}: FMR")
        edge = table.score_at_fmr(table.lowest_usable_fmr)
        axes.plot(
            [at[-1], edge], [table.lowest_fmr, table.lowest_usable_fmr], ":", color=colour, linewidth=1.6
        )
        misses = [max(table.fnmr(s), 1e-9) for s in at]
        axes.plot(at, misses, "--", color=colour, linewidth=1.6, label=f"{name}: FNMR")
    axes.set_yscale("log")
    axes.set_ylim(1e-8, 1.0)
    axes.set_xlabel("threshold (score)")
    axes.set_ylabel("rate")
    axes.legend(loc="lower left", frameon=False, fontsize=8.5)
    return _save(figure, path)


def _probits(rates: Floats) -> Floats:
    return np.array([_NORMAL.inv_cdf(min(max(float(r), 1e-9), 1 - 1e-9)) for r in rates])
