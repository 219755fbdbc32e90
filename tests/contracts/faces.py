"""Synthetic galleries: faces around identities, easy probes and hard ones."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mien.backends.vectors.base import Change

Floats = NDArray[np.float32]


def unit(vectors: Floats) -> Floats:
    scaled: Floats = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def at_cosine(vectors: Floats, cosine: float, random: np.random.Generator) -> Floats:
    """One unit vector for each of `vectors`, at this cosine to it, in a random direction."""
    aside = random.standard_normal(vectors.shape, dtype=np.float32)
    aside -= (aside * vectors).sum(1, keepdims=True) * vectors
    return unit(np.float32(cosine) * vectors + np.float32((1 - cosine**2) ** 0.5) * unit(aside))


@dataclass(frozen=True)
class Gallery:
    """`vectors[i]` has label i + 1 and shows identity `identities[i]`. A probe has its enrolled face's
    identity. `easy` probes have cosine 0.75 to an enrolled face, `hard` ones 0.42 (as the worst 5 % of
    real pairs of one person)."""

    vectors: Floats
    identities: NDArray[np.int64]
    easy: Floats
    hard: Floats
    probe_identities: NDArray[np.int64]

    def exact(self, probes: Floats) -> NDArray[np.int64]:
        """Identity of the nearest face of each probe, by NumPy in float32."""
        nearest: NDArray[np.int64] = self.identities[np.argmax(probes @ self.vectors.T, axis=1)]
        return nearest


def gallery(count: int, dim: int, probes: int, seed: int = 7) -> Gallery:
    """`count` faces of `count // 3` people (cosine 0.6 to their person's centre), people in groups
    that resemble each other (cosine 0.3 to one of 64 centres)."""
    random = np.random.default_rng(seed)
    groups = unit(random.standard_normal((64, dim), dtype=np.float32))
    people = max(1, count // 3)
    centres = at_cosine(groups[random.integers(0, 64, people)], 0.3, random)
    identities = np.arange(count, dtype=np.int64) % people
    vectors = np.empty((count, dim), np.float32)
    for start in range(0, count, 100_000):
        part = slice(start, start + 100_000)
        vectors[part] = at_cosine(centres[identities[part]], 0.6**0.5, random)
    chosen = random.integers(0, count, probes)
    return Gallery(
        vectors,
        identities,
        at_cosine(vectors[chosen], 0.75, random),
        at_cosine(vectors[chosen], 0.42, random),
        identities[chosen],
    )


def adds(vectors: Floats, first: int = 1) -> list[Change]:
    """Changes that add `vectors`, numbered from `first`."""
    return [Change(first + i, first + i, vector) for i, vector in enumerate(vectors)]


def deletes(labels: Sequence[int], first: int) -> list[Change]:
    return [Change(first + i, label, None) for i, label in enumerate(labels)]
