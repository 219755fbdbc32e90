"""Figures to a page and a chart; every number on the page comes out of `results`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

OURS = "Mien sface, ONNX Runtime fp32"
OURS_BF16 = "Mien sface, OpenVINO bf16"
OURS_INSIGHTFACE = "Mien insightface-s, ONNX Runtime fp32"
PEERS = {
    "opencv": "OpenCV 4: FaceDetectorYN + FaceRecognizerSF (the same weights)",
    "insightface": "insightface package: SCRFD-500m + MobileFaceNet",
    "face_recognition": "face_recognition package: dlib, HOG + ResNet",
}


def _table(head: list[str], rows: list[list[str]]) -> list[str]:
    align = [" --- ", *[" ---: "] * (len(head) - 1)]
    return [
        "|".join(["", *head, ""]),
        "|".join(["", *align, ""]),
        *("|".join(["", *r, ""]) for r in rows),
        "",
    ]


def _ratio(of: dict[str, dict[str, float]], ours: str, peer: str) -> str:
    return f"{of[peer]['cpu_ms'] / of[ours]['cpu_ms']:.1f} x" if ours in of and peer in of else "-"


def _versus(results: dict[str, dict[str, Any]]) -> list[str]:
    lines = [
        "## Against what people use today",
        "",
        "From encoded bytes to embeddings, decode included, one processor each. Processor ms per photo, "
        "medians; every round runs all of them once.",
        "",
    ]
    photos = list(results)
    names = list(results[photos[0]])
    rows = [
        [
            PEERS.get(n, n),
            *(f"{results[p][n]['cpu_ms']:.1f} ({results[p][n]['faces']} found)" for p in photos),
        ]
        for n in names
    ]
    lines += _table(["", *photos], rows)
    ratios = [
        ["OpenCV 4, against Mien on ONNX Runtime", OURS, "opencv"],
        ["OpenCV 4, against Mien on OpenVINO bf16", OURS_BF16, "opencv"],
        ["insightface, against Mien on the same weights", OURS_INSIGHTFACE, "insightface"],
        ["face_recognition, against Mien on ONNX Runtime", OURS, "face_recognition"],
    ]
    lines += _table(
        ["Mien is faster by", *photos],
        [[label, *(_ratio(results[p], ours, peer) for p in photos)] for label, ours, peer in ratios],
    )
    return lines


def _pipeline(results: dict[str, dict[str, float]]) -> list[str]:
    lines = [
        "## The pipeline against its own models",
        "",
        "Decode, detect, align and embed, against the two bare graphs on prepared arrays in the same "
        "runtime. Processor ms, medians, one thread.",
        "",
    ]
    whole = {what: f for what, f in results.items() if "pipeline" in f}
    columns = list(next(iter(whole.values())))
    lines += _table(
        ["", *columns],
        [[what, *(f"{figures[column]:.2f}" for column in columns)] for what, figures in whole.items()],
    )
    for what, figures in results.items():
        if what not in whole:
            told = ", ".join(f"{name} {value:.2f}" for name, value in figures.items())
            lines += [f"- {what}: {told}"]
    return [
        *lines,
        "",
        "*Two at once* is the throughput of two threads over that of one, on two cores.",
        "",
    ]


def _index(results: dict[str, list[dict[str, Any]]]) -> list[str]:
    lines = [
        "## The local index",
        "",
        "Clustered synthetic faces; *easy* probes are near their enrolled copies, *hard* ones have a cosine "
        "of about 0.42 to them, as the worst few per cent of real pairs do. Recall is of the identity that "
        "an exact search finds. Processor ms per query, one thread.",
        "",
    ]
    for size, rows in results.items():
        lines += [f"### {size.replace('x', ' faces, ')}-D", ""]
        lines += _table(
            ["engine", "ms p50", "ms p95", "easy", "hard", "build s", "MB"],
            [
                [
                    str(r["engine"]),
                    str(r["cpu_ms_p50"]),
                    str(r["cpu_ms_p95"]),
                    str(r["recall_easy"]),
                    str(r["recall_hard"]),
                    str(r.get("build_s", "-")),
                    f"{r['memory_mb']:.0f}",
                ]
                for r in rows
            ],
        )
        ours = rows[-1]
        lines += [
            f"Ours takes {ours['bytes_per_face']} bytes a face; its file has {ours['file_mb']} MB and opens "
            f"in {ours['open_s']} s.",
            "",
        ]
    return lines


def _http(results: dict[str, Any]) -> list[str]:
    lines = [
        "## What a request adds",
        "",
        f"`POST …/search` with a one-face photo over {results['faces']:,} faces, on a real server with its "
        "cache off, against the pipeline alone in this process (taking turns, medians). CPU time is that of "
        "all of the server's threads.",
        "",
        "| runtime | pipeline | over | matches | search | wall | CPU |",
        "| --- | --: | --- | --: | --: | --: | --: |",
    ]
    for runtime, found in results["runtimes"].items():
        lines += [
            f"| {runtime} | {found['pipeline_ms']} ms | {row['over']} | {row['matches']:,} | {row['ms']} ms "
            f"| {row['ratio']}x | {row['cpu_ratio']}x |"
            for row in found["searches"]
        ]
    return [
        *lines,
        "",
        f"The server's memory at rest: {results['rss_mb_recognition']} MB with the recognition models, "
        f"{results['rss_mb_all_models']} MB once every attribute's model has been used.",
        "",
    ]


def page(results: dict[str, Any]) -> str:
    """docs/performance.md."""
    machine = results["machine"]
    lines = [
        "# Performance",
        "",
        "Written by `make bench`; all figures of a part come from one run. "
        f"{machine['processor']}, {machine['cores']} cores, {machine['system']}, Python {machine['python']}, "
        f"{machine['date']}. Compare ratios, not milliseconds: the machine is shared.",
        "",
        "![Processor time per photo](performance.png)",
        "",
    ]
    parts: dict[str, Callable[[Any], list[str]]] = {
        "versus": _versus,
        "pipeline": _pipeline,
        "index": _index,
        "http": _http,
    }
    for name, write in parts.items():
        if name in results:
            lines += write(results[name])
    return "\n".join(lines).rstrip() + "\n"


def chart(results: dict[str, Any], path: Path) -> None:
    """Bars of processor time per photo, ours beside the peers'."""
    if "versus" not in results:
        return
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    photos = results["versus"]
    axes: Any
    figure, axes = plt.subplots(1, len(photos), figsize=(10, 3.2), layout="constrained")
    ax: Any
    for ax, (photo, found) in zip(axes, photos.items(), strict=True):
        names = sorted(found, key=lambda n: float(found[n]["cpu_ms"]), reverse=True)
        values = [found[n]["cpu_ms"] for n in names]
        colours = ["#2563eb" if n.startswith("Mien") else "#9ca3af" for n in names]
        bars = ax.barh([PEERS.get(n, n).split(":")[0] for n in names], values, color=colours, height=0.62)
        ax.bar_label(bars, fmt="%.0f ms", padding=4, fontsize=8)
        ax.set_title(photo, fontsize=10, loc="left")
        ax.margins(x=0.18)
        ax.spines[["top", "right", "bottom"]].set_visible(False)
        ax.xaxis.set_visible(False)
        ax.tick_params(left=False, labelsize=8)
    figure.savefig(path, dpi=110)
    plt.close(figure)
