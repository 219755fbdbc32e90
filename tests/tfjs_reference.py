"""TensorFlow.js itself as a reference: installed by npm into `.cache/tfjs`, run by Node."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mien.kit.errors import ModelError
from mien.vision.models.catalog import CATALOG
from mien.vision.models.clients import npm_command
from mien.vision.models.sources import Fetcher
from tests.paths_to_data import ROOT

HERE = ROOT / "tests" / "tfjs"
CACHE = ROOT / ".cache" / "tfjs"
ORIGINALS = ROOT / ".cache" / "proofs"
MODELS = ("human-emotion", "nanodet")
VERSION = json.loads((HERE / "package.json").read_text())["dependencies"]["@tensorflow/tfjs-core"]


def _environment(npm: list[str]) -> dict[str, str]:
    return {**os.environ, "PATH": os.pathsep.join([str(Path(npm[0]).parent), os.environ.get("PATH", "")])}


def install() -> None:
    """Install what `tests/tfjs/package-lock.json` pins, once; part of `make test-setup`."""
    lock = (HERE / "package-lock.json").read_bytes()
    done = CACHE / "installed-lock.json"
    if done.exists() and done.read_bytes() == lock:
        return
    CACHE.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copyfile(HERE / name, CACHE / name)
    npm = npm_command()
    subprocess.run(
        [*npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=CACHE, env=_environment(npm), check=True, timeout=300,
    )  # fmt: skip
    done.write_bytes(lock)


def require_tfjs() -> None:
    """Install if need be; skips where there is no npm (but never in CI)."""
    try:
        npm_command()
    except ModelError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(error.message)
    install()


def run_tfjs(
    description: Path, given: NDArray[np.float32], outputs: Sequence[str]
) -> list[NDArray[np.float32]]:
    """The outputs (by node name) of a graph model, its weight files lying beside it."""
    install()
    npm = npm_command()
    node = shutil.which("node", path=_environment(npm)["PATH"])
    assert node is not None
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "input.f32").write_bytes(np.ascontiguousarray(given, "<f4").tobytes())
        answer = Path(folder) / "output.json"
        shape = ",".join(map(str, given.shape))
        subprocess.run(
            [node, HERE / "run.mjs", CACHE, description, Path(folder) / "input.f32", shape, answer, *outputs],
            check=True, timeout=240, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        found = json.loads(answer.read_text())
    return [np.array(o["values"], np.float32).reshape(o["shape"]) for o in found]


def _originals(fetcher: Fetcher, model: str) -> dict[str, Path]:
    every = [file for name in MODELS for file in CATALOG[name].files]
    spec = CATALOG[model]
    return {f.name: fetcher.obtain(model, f, f.sources, every, lambda _: None) for f in spec.files}


def original(model: str) -> Path:
    """The description file of a model's TensorFlow.js graph, its weights beside it; skips if not fetched."""
    fetcher = Fetcher(ORIGINALS, offline=not os.environ.get("CI"))
    folder = ORIGINALS / model
    folder.mkdir(parents=True, exist_ok=True)
    try:
        files = _originals(fetcher, model)
    except ModelError:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"the original of {model} is not fetched; run `make test-setup`")
    for name, path in files.items():
        link = folder / name
        if not link.exists():
            link.symlink_to(path.resolve())
    return next(folder / name for name in files if name.endswith(".json"))


def setup(models_dir: Path) -> None:
    """Part of `make test-setup`, before the models are pulled: TensorFlow.js and the original graphs.

    The originals are put where the store looks first, so that their archive of 144 MB is fetched once.
    """
    try:
        npm_command()
    except ModelError as error:
        print(f"TensorFlow.js is left out: {error.message}")
        return
    install()
    fetcher, store = Fetcher(ORIGINALS), Fetcher(models_dir)
    for model in MODELS:
        for name, path in _originals(fetcher, model).items():
            sha256 = next(f.sha256 for f in CATALOG[model].files if f.name == name)
            if not any((models_dir / model).glob("*/manifest.json")) and not store.file(sha256).exists():
                store.file(sha256).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, store.file(sha256))
