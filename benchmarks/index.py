"""The local vector index against NumPy and faiss flat: CPU per query, recall, build, memory, opening.

    python -m benchmarks.index                 all sizes (the largest needs about 3 GB for a minute)
    python -m benchmarks.index --sizes 10000x128,100000x128 --json out.json

Faces are synthetic: people in groups that resemble each other, three faces of each; an easy probe has
cosine 0.75 to one enrolled face, a hard one 0.42, as the worst 5 % of real pairs do. Recall is
identity@1 as a share of what an exact float32 search reaches. Times are CPU time of one query on one
thread, medians; compare within one run only.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import faiss as faiss_package
import numpy as np
from numpy.typing import NDArray
from tests.contracts.faces import Floats, Gallery, adds, gallery

from mien.backends.vectors.base import CollectionRef
from mien.backends.vectors.local import LocalVectorIndex
from mien.backends.vectors.local_file import FileIdentity
from mien.backends.vectors.local_index import FILE_NAME, CollectionIndex, IndexLimits
from mien.backends.vectors.local_rows import one_thread
from mien.kit.tenant import TenantId

faiss: Any = faiss_package

SIZES = ((10_000, 128), (100_000, 128), (1_000_000, 128), (100_000, 512))
PROBES = 400
HITS = 10
TENANT = TenantId(UUID(int=1))
COLLECTION = UUID(int=2)

Search = Callable[[Floats], NDArray[np.int64]]
"""(Q, D) queries to the position of the nearest face of each."""
Row = dict[str, float | int | str]


def cpu_ms(search: Search, probes: Floats, seconds: float = 2.0) -> tuple[float, float]:
    """Median and 95th percentile of CPU milliseconds per single query."""
    times: list[float] = []
    search(probes[:1])
    begun = time.monotonic()
    while (time.monotonic() - begun < seconds or len(times) < 20) and len(times) < 2_000:
        probe = probes[len(times) % len(probes)][None]
        start = time.process_time()
        search(probe)
        times.append((time.process_time() - start) * 1e3)
    return statistics.median(times), float(np.percentile(times, 95))


def identities(people: Gallery, search: Search, probes: Floats) -> float:
    """Share of probes whose nearest face is of the right person."""
    found = np.concatenate([search(probes[start : start + 40]) for start in range(0, len(probes), 40)])
    return float((people.identities[found] == people.probe_identities).mean())


def measured(people: Gallery, name: str, search: Search, exact: dict[str, float] | None) -> Row:
    """The row of one engine, and its recall as a share of `exact` (or as it stands: numpy's own)."""
    median, late = cpu_ms(search, people.hard)
    row: Row = {"engine": name, "cpu_ms_p50": round(median, 3), "cpu_ms_p95": round(late, 3)}
    for kind, probes in (("easy", people.easy), ("hard", people.hard)):
        share = identities(people, search, probes)
        row[f"identity_{kind}"] = round(share, 4)
        row[f"recall_{kind}"] = round(share / exact[kind], 4) if exact else 1.0
    return row


def numpy_row(people: Gallery) -> Row:
    def search(probes: Floats) -> NDArray[np.int64]:
        found: NDArray[np.int64] = np.argmax(probes @ people.vectors.T, axis=1)
        return found

    return measured(people, "numpy float32", search, None) | {"memory_mb": people.vectors.nbytes / 1e6}


def flat_rows(people: Gallery, exact: dict[str, float]) -> list[Row]:
    one_thread()
    dim = people.vectors.shape[1]
    rows: list[Row] = []
    for name, index, width in (
        ("faiss flat float32", faiss.IndexFlatIP(dim), 4),
        (
            "faiss flat fp16",
            faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT),
            2,
        ),
    ):
        begun = time.monotonic()
        index.add(people.vectors)
        built = time.monotonic() - begun

        def search(probes: Floats, index: Any = index) -> NDArray[np.int64]:
            found: NDArray[np.int64] = index.search(probes, HITS)[1][:, 0]
            return found

        row = measured(people, name, search, exact)
        rows.append(row | {"build_s": round(built, 2), "memory_mb": people.vectors.size * width / 1e6})
    return rows


def ours_row(people: Gallery, exact: dict[str, float], root: Path) -> Row:
    """Built through the port in batches of 10,000, then searched through the core and through the port."""
    count, dim = people.vectors.shape
    ref = CollectionRef(COLLECTION, "bench", dim)

    async def build() -> tuple[float, float, float, float]:
        index = LocalVectorIndex(root)
        batches = (adds(people.vectors[at : at + 10_000], at + 1) for at in range(0, count, 10_000))
        begun = time.monotonic()
        for batch in batches:
            await index.apply(TENANT, ref, batch)
        applied = time.monotonic() - begun
        await index.settle()
        settled = time.monotonic() - begun
        walls = []
        for probe in people.hard[:100]:
            start = time.monotonic()
            await index.search(TENANT, ref, probe[None], HITS)
            walls.append((time.monotonic() - start) * 1e3)
        stats = await index.stats(TENANT, ref)
        await index.close()
        return applied, settled, statistics.median(walls), stats.memory_bytes / 1e6

    applied, settled, wall, memory = asyncio.run(build())
    folder = root / str(TENANT) / str(COLLECTION)
    core = CollectionIndex(folder, FileIdentity(str(TENANT), str(COLLECTION), "bench", dim), IndexLimits())

    def search(probes: Floats) -> NDArray[np.int64]:
        return np.array([hits[0].label - 1 for hits in core.search(probes, HITS, None, -1.0)], np.int64)

    row = measured(people, f"mien local ({core.stats().kind})", search, exact)
    return row | {
        "build_s": round(settled, 2),
        "apply_s": round(applied, 2),
        "wall_ms_p50_through_port": round(wall, 3),
        "two_threads_speedup": round(_speedup(lambda i: search(people.hard[i][None])), 2),
        "two_threads_control": round(_speedup(lambda _: zlib.crc32(_CONTROL)), 2),
        "memory_mb": round(memory, 1),
        "bytes_per_face": round(memory * 1e6 / count),
        "file_mb": round((folder / FILE_NAME).stat().st_size / 1e6, 1),
        **_opened(root, dim),
    }


_CONTROL = bytes(4_000_000)
"""Work that shares nothing between threads: what two of them gain here is what this machine gives now."""


def _speedup(work: Callable[[int], object]) -> float:
    """Calls a second of two threads side by side over those of one."""

    def some(_: int) -> None:
        for i in range(200):
            work(i)

    seconds = []
    for threads in (1, 2):
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(some, range(threads)))  # warm
            begun = time.monotonic()
            list(pool.map(some, range(threads)))
            seconds.append((time.monotonic() - begun) / threads)
    return seconds[0] / seconds[1]


def _opened(root: Path, dim: int) -> Row:
    """Opening in a fresh process, as after a restart."""
    arguments = [sys.executable, "-m", "benchmarks.index", "--open", str(root), "--dim", str(dim)]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=120)
    row: Row = json.loads(done.stdout)
    return row


def _rss_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


async def _open(root: Path, dim: int) -> Row:
    before, begun = _rss_mb(), time.monotonic()
    index = LocalVectorIndex(root)
    await index.applied(TENANT, CollectionRef(COLLECTION, "bench", dim))
    row: Row = {"open_s": round(time.monotonic() - begun, 3), "opened_rss_mb": round(_rss_mb() - before, 1)}
    await index.close()
    return row


def run(sizes: Sequence[tuple[int, int]] = SIZES) -> dict[str, list[Row]]:
    """Rows of every engine, by "<faces>x<dimensions>"."""
    results: dict[str, list[Row]] = {}
    for count, dim in sizes:
        people = gallery(count, dim, PROBES)
        rows = [numpy_row(people)]
        exact = {kind: float(rows[0][f"identity_{kind}"]) for kind in ("easy", "hard")}
        rows += flat_rows(people, exact)
        with tempfile.TemporaryDirectory() as folder:
            rows.append(ours_row(people, exact, Path(folder)))
        results[f"{count}x{dim}"] = rows
        show(f"{count:,} faces, {dim}-D", rows)
    return results


def show(title: str, rows: Sequence[Row]) -> None:
    print(f"\n{title}")
    print(f"{'':34}{'CPU ms':>9}{'p95':>9}{'easy':>8}{'hard':>8}{'build s':>9}{'MB':>9}")
    for row in rows:
        print(
            f"{row['engine']:34}{row['cpu_ms_p50']:>9}{row['cpu_ms_p95']:>9}{row['recall_easy']:>8}"
            f"{row['recall_hard']:>8}{row.get('build_s', '-'):>9}{row['memory_mb']:>9.1f}"
        )
    ours = rows[-1]
    print(
        f"  exact identity@1: easy {rows[0]['identity_easy']}, hard {rows[0]['identity_hard']}; ours: "
        f"{ours['bytes_per_face']} bytes a face, file {ours['file_mb']} MB, opened in {ours['open_s']} s "
        f"(+{ours['opened_rss_mb']} MB RSS), {ours['wall_ms_p50_through_port']} ms through the port, "
        f"two threads {ours['two_threads_speedup']}x one (work that shares nothing: "
        f"{ours['two_threads_control']}x)",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", default=",".join(f"{count}x{dim}" for count, dim in SIZES))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--open", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--dim", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.open:
        print(json.dumps(asyncio.run(_open(arguments.open, arguments.dim))))
        return
    sizes = [
        (int(count), int(dim)) for count, dim in (size.split("x") for size in arguments.sizes.split(","))
    ]
    results = run(sizes)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
