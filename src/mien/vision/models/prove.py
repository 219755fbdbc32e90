"""Numerical proof: a converted graph must give a reference's numbers for canonical inputs.

A proof is package data (`data/proofs/NAME.json`, made by `scripts/make_proofs.py` from an
implementation other than ours; each names it). It is checked at pull, at import and by
`mien models verify`: with the runtime that serves, on the very file that is served.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from mien.kit.errors import ModelError
from mien.vision.models.spec import ModelSpec
from mien.vision.runtimes.base import RuntimeChoice, Session
from mien.vision.runtimes.choose import open_session

Float = NDArray[np.float32]
Pattern = Literal["noise", "waves"]

SAMPLES = 32
"""Numbers kept of each output, evenly spread over it."""


_FLOOR = 1e-2
"""Magnitudes below this are taken as this: a runtime's sigmoid is off by 1e-7 whatever its value, and
YuNet's objectness is 4e-5 at most where there is nothing."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a reference gave for one output: some of its numbers, and four that all of them enter.

    `largest` is the largest magnitude, `norm` the Euclidean norm, `projections` the dot products
    with pseudo-random signs divided by the root of the size: they change when numbers swap places.
    """

    shape: tuple[int, ...]
    samples: tuple[float, ...]
    largest: float
    norm: float
    projections: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Case:
    """One canonical input (see `canonical_input`) and the expected outputs, in graph order."""

    pattern: Pattern
    shape: tuple[int, ...]
    low: float
    high: float
    outputs: tuple[Expected, ...]


@dataclass(frozen=True, slots=True)
class Proof:
    """`reference` says what computed the numbers, with its version."""

    model: str
    reference: str
    cases: tuple[Case, ...]


def _uniform(count: int, seed: int) -> NDArray[np.float64]:
    """`count` numbers in [0, 1) by SplitMix64 (Steele, Lea, Flood 2014): the same on every machine."""
    with np.errstate(over="ignore"):
        z = (np.arange(1, count + 1, dtype=np.uint64) + np.uint64(seed << 32)) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(40)).astype(np.float64) / (1 << 24)


def canonical_input(pattern: Pattern, shape: Sequence[int], low: float, high: float) -> Float:
    """The input of a proof: "noise" (SplitMix64) or "waves" (a sine over all axes), from `low` to `high`."""
    match pattern:
        case "noise":
            unit = _uniform(math.prod(shape), seed=1).reshape(shape)
        case "waves":
            phase = np.zeros(shape)
            for axis, (length, step) in enumerate(zip(shape, (0.7, 0.9, 0.11, 0.07), strict=False)):
                along = [1] * len(shape)
                along[axis] = length
                phase = phase + (np.arange(length) * step).reshape(along)
            unit = 0.5 + 0.5 * np.sin(phase)
        case unknown:
            assert_never(unknown)
    result: Float = (low + (high - low) * unit).astype(np.float32)
    return result


def summary(output: Float) -> Expected:
    """The numbers that a proof keeps of an output."""
    flat = np.asarray(output, np.float64).reshape(-1)
    places = np.linspace(0, flat.size - 1, min(SAMPLES, flat.size)).astype(np.int64)
    signs = [np.where(_uniform(flat.size, seed) < 0.5, -1.0, 1.0) for seed in (2, 3)]
    return Expected(
        shape=tuple(output.shape),
        samples=tuple(float(v) for v in flat[places]),
        largest=float(np.abs(flat).max(initial=0.0)),
        norm=float(np.linalg.norm(flat)),
        projections=tuple(float(flat @ s / math.sqrt(flat.size)) for s in signs),
    )


def deviation(expected: Expected, output: Float) -> float:
    """The largest difference, relative to the output's magnitude; infinity for a wrong shape or NaN."""
    if tuple(output.shape) != expected.shape or not np.isfinite(output).all():
        return math.inf
    got = summary(output)
    root = math.sqrt(max(1, math.prod(expected.shape)))
    scale = max(expected.largest, _FLOOR)
    return max(
        max(abs(a - b) for a, b in zip(expected.samples, got.samples, strict=True)) / scale,
        abs(expected.norm - got.norm) / max(expected.norm, _FLOOR * root),
        # Without a fault a projection differs by no more than the single numbers do.
        *(abs(a - b) / scale for a, b in zip(expected.projections, got.projections, strict=True)),
    )


def load_proof(name: str) -> Proof:
    """The proof of a model; ModelError if the package holds none."""
    file = resources.files("mien.vision.models") / "data" / "proofs" / f"{name}.json"
    try:
        raw = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        raise ModelError(
            f"{name} has no proof, so it can't be trusted (scripts/make_proofs.py makes one)."
        ) from None
    cases = tuple(
        Case(
            pattern=case["pattern"],
            shape=tuple(case["shape"]),
            low=case["low"],
            high=case["high"],
            outputs=tuple(
                Expected(
                    tuple(o["shape"]), tuple(o["samples"]), o["largest"], o["norm"], tuple(o["projections"])
                )
                for o in case["outputs"]
            ),
        )
        for case in raw["cases"]
    )
    return Proof(raw["model"], raw["reference"], cases)


def prove(spec: ModelSpec, proof: Proof, path: Path) -> float:
    """Run the proof on the graph at `path`; the largest deviation found.

    Also proves that a batch is its members: where the graph takes N, all cases of one shape at once
    must give what each gives alone. ModelError with the figures if either is over the tolerance.
    """
    # Float32 on the CPU, so that the proof means the same on every machine.
    session = open_session(path, RuntimeChoice(name="onnxruntime", device="cpu", precision="fp32"))
    worst = 0.0
    alone: list[tuple[Case, Float, list[Float]]] = []
    for case in proof.cases:
        given = canonical_input(case.pattern, case.shape, case.low, case.high)
        outputs = _run(session, given)
        if len(outputs) != len(case.outputs):
            raise ModelError(
                f"{spec.name} gives {len(outputs)} outputs, and {len(case.outputs)} were expected."
            )
        worst = max(worst, *(deviation(e, o) for e, o in zip(case.outputs, outputs, strict=True)))
        alone.append((case, given, outputs))
    if not worst <= spec.tolerance:
        raise ModelError(
            f"{spec.name} does not give the numbers of its reference ({proof.reference}):"
            f" off by {worst:.2g}, allowed {spec.tolerance:.2g}. Nothing was stored."
        )
    together = [one for one in alone if one[0].shape == alone[0][0].shape]
    batched = _run(session, np.concatenate([given for _, given, _ in together]))
    for i, both in enumerate(batched):
        single = np.concatenate([outputs[i] for _, _, outputs in together])
        apart = (
            float(np.abs(both - single).max() / (np.abs(single).max() or 1.0))
            if both.shape == single.shape
            else math.inf
        )
        if not apart <= spec.tolerance:
            raise ModelError(
                f"{spec.name}: a batch does not give what its members give (off by {apart:.2g})."
            )
    return worst


def _run(session: Session, given: Float) -> list[Float]:
    return session.run({session.inputs[0].name: given})
