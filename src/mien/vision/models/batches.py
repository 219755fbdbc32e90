"""Running a graph over many faces, and turning its logits into probabilities."""

import numpy as np

from mien.vision.runtimes.base import Array, Session

MAX_ROWS = 2
"""Rows of one run on a CPU. More are slower and keep memory for good: pose, liveness, eyes and emotion
of six faces took 94 ms and 683 MB of process with 16 rows, 75 ms and 482 MB with 2 (two cores)."""


def run_rows(session: Session, rows: Array, most: int = MAX_ROWS) -> list[Array]:
    """Run a graph of one input over `rows` (N, ...), N >= 1; its outputs, joined to N rows each.

    One run for up to `most` rows where the graph's batch dimension is free, else one run per row.
    """
    port = session.inputs[0]
    step = most if port.shape and port.shape[0] is None else 1
    parts = [session.run({port.name: rows[i : i + step]}) for i in range(0, len(rows), step)]
    if len(parts) == 1:
        return parts[0]
    return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]


def softmax(logits: Array) -> Array:
    """Softmax over the last axis, stable for large logits."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True), dtype=np.float32)
