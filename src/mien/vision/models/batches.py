"""Running a graph over many faces, and turning its logits into probabilities."""

import numpy as np

from mien.vision.runtimes.base import Array, Session

MAX_ROWS = 16
"""Rows of one run: enough to fill a GPU, and a bound for memory (16 x 224 x 224 x 3 floats: 9.6 MB)."""


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
