"""What `evaluate` and `calibrate` share: labelled photos on disk to templates, on all cores.

They work on files and models alone, so they need no owner of the data folder.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mien.kit.errors import BadPhoto, TooLarge

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from rich.console import Console

    from mien.runtime.settings import Settings
    from mien.vision.analyzer import Analyzer


@dataclass(frozen=True, slots=True, eq=False)
class Templates:
    """`vectors` (N, D) float32, zeros where `found` (N,) is False: no face there, or (those named in
    `unreadable`) no photo. `seconds` is what it took, on `threads` threads of `runtime`."""

    vectors: NDArray[np.float32]
    found: NDArray[np.bool_]
    unreadable: tuple[Path, ...]
    seconds: float
    threads: int
    runtime: str


@contextmanager
def progress(console: Console, what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr with the count and the time left; it is called with how many are done."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as shown:
        task = shown.add_task(what, total=total)
        yield lambda done: shown.update(task, completed=done)


ACCEPT = click.option(
    "--accept-licence",
    "accepted",
    multiple=True,
    metavar="NAME",
    help="Accept a non-commercial licence by its name, if your use is allowed. Repeatable.",
)


def open_pack(name: str, settings: Settings, threads: int, accepted: Sequence[str] = ()) -> Analyzer:
    """The analyzer of a recognition pack, for `threads` photos at a time.

    Raises NotFound for an unknown name, ModelError (saying what to do) if it isn't pulled or has a
    non-commercial licence that neither the settings nor `accepted` name.
    """
    from mien.runtime.fetch import model_store, require_pack
    from mien.vision.models.packs import recognition_pack
    from mien.vision.runtimes.base import RuntimeChoice
    from mien.vision.suite import open_analyzer

    choice = RuntimeChoice(name=settings.runtime, threads=1, parallel=threads)
    store, pack = model_store(settings, accepted), recognition_pack(name)
    require_pack(store, pack, offline=settings.offline)
    return open_analyzer(store, pack, choice=choice)


def templates(
    paths: Sequence[Path], analyzer: Analyzer, threads: int, done: Callable[[int], None]
) -> Templates:
    """The template of each photo's subject (`vision.subject`), `threads` photos at a time.

    A photo without a face or that can't be read is data here (see `Templates`); model errors are
    raised.
    """
    import numpy as np

    from mien.vision.subject import subject
    from mien.vision.values import AnalyzeRequest

    request = AnalyzeRequest(quality=False)
    unreadable: list[Path] = []
    runtimes: set[str] = set()

    def one(path: Path) -> NDArray[np.float32] | None:
        try:
            analysis = analyzer.analyze(path.read_bytes(), request)
        except (BadPhoto, TooLarge, OSError):
            unreadable.append(path)
            return None
        face = subject(analysis.faces, analysis.width, analysis.height)
        if face is None or face.embedding is None:
            return None
        runtimes.add(face.embedding.runtime)
        return face.embedding.vector

    vectors = np.zeros((len(paths), analyzer.space.dim), np.float32)
    found = np.zeros(len(paths), bool)
    started = time.perf_counter()
    executor = ThreadPoolExecutor(threads)
    try:
        for i, vector in enumerate(executor.map(one, paths)):
            if vector is not None:
                vectors[i], found[i] = vector, True
            done(i + 1)
    finally:
        executor.shutdown(cancel_futures=True)  # an interrupt waits for the photos in hand only
    seconds = time.perf_counter() - started
    runtime = ", ".join(sorted(runtimes))
    return Templates(vectors, found, tuple(sorted(unreadable)), seconds, threads, runtime)


def pack_names(given: str | None, settings: Settings) -> list[str]:
    """The recognition packs that a command works on: those given (`a,b`), else the one in use.

    NotFound naming the first that is none.
    """
    from mien.runtime.fetch import pack_in_use
    from mien.vision.models.packs import recognition_pack

    if not given:
        return [pack_in_use(settings).name]
    names = [part.strip() for part in given.split(",") if part.strip()]
    return [recognition_pack(name).name for name in dict.fromkeys(names)]
