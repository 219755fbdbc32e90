"""The vectors of one collection in memory: fp16 rows, and above a size a 4-bit copy to scan first.

Rows lie in ascending order of label, are only appended, and are only marked when removed, so that a
copy can be taken piece by piece while searches and adds go on (`local_index` does the locking).

Why this and no graph: HNSW and inverted lists lose the probes of poor quality (at 100,000 faces of
512-D, identity@1 of hard probes: exact 0.995, HNSW ef 256 0.90, IVF nprobe 64 0.82); a full scan of
4-bit codes (faiss `IndexIVFPQFastScan`, one list, no residuals) with fp16 re-ranking keeps all of
them at a few percent of the time of an exact scan. See `benchmarks/index.py`.
"""

import threading
from typing import Any

import faiss as faiss_package
import numpy as np
from numpy.typing import NDArray

faiss: Any = faiss_package  # its stubs do not know what its Python layer adds

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]
Bytes = NDArray[np.uint8]

TRAINING_ROWS = 16_384
"""faiss trains each of the 16 centroids of a 4-bit sub-quantiser on at most 256 points."""

CANDIDATES = 512
"""Rows re-ranked per query, at least; and one for every 1,000 rows, and 4 for each hit asked for.

At 1,000,000 faces of 128-D and probes of cosine 0.42, identity@1 as a share of exact search: 128 rows
0.997, 256 0.993 to 0.999, 512 and more 1.000; going from 256 to 1,000 costs 0.5 of 1.5 ms."""

ROWS_PER_CANDIDATE = 1_000
CANDIDATES_PER_HIT = 4

GATHERED_ROWS = 2_048
"""An `allow` list up to this long is scored row by row; longer ones scan all fp16 rows with a bitmap."""

SCAN_BITMAP_SHARE = 4
"""An `allow` list of over 1/4 of the rows goes through the 4-bit scan, where it is cheaper."""

_this_thread = threading.local()


def one_thread() -> None:
    """Make faiss use one OpenMP thread for calls from this thread.

    Two threads a query under contention turned 0.4 ms into 32 ms; queries run side by side instead.
    """
    if not getattr(_this_thread, "set", False):
        faiss.omp_set_num_threads(1)
        _this_thread.set = True


def trainable(dim: int) -> bool:
    """Whether vectors of `dim` can be cut into pairs of components, one 4-bit code each."""
    return dim % 2 == 0 and dim >= 8


class Rows:
    """Not safe for a change beside anything else: `CollectionIndex` holds the lock."""

    def __init__(self, dim: int) -> None:
        one_thread()
        self.dim = dim
        self.count = 0
        """Rows, removed ones included."""
        self.removed = 0
        self.trained_on = 0
        """Rows that were there when the 4-bit codes were trained; 0 without them."""
        self._labels: Labels = np.zeros(0, np.int64)
        self._live: Bytes = np.zeros(0, np.uint8)  # a bitmap, least significant bit first
        self._exact: Any = faiss.IndexScalarQuantizer(
            dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        self._coarse: Any = None
        self._both: Any = None

    # -- figures -------------------------------------------------------------------------------

    @property
    def kind(self) -> str:
        return "fp16-flat" if self._coarse is None else "pq4-fastscan+fp16"

    @property
    def live(self) -> int:
        return self.count - self.removed

    @property
    def last_label(self) -> int:
        return int(self._labels[self.count - 1]) if self.count else 0

    @property
    def memory_bytes(self) -> int:
        """What the rows take: 2 bytes a component, 8 for the label; with 4-bit codes dim/4 + 8 more."""
        per_row = 2 * self.dim + 8 + (0 if self._coarse is None else self.dim // 4 + 8)
        return self.count * per_row + self.count // 8

    # -- changes -------------------------------------------------------------------------------

    def append(self, labels: Labels, vectors: Floats) -> None:
        """Add rows; labels ascend, above all that are here."""
        one_thread()
        (self._exact if self._both is None else self._both).add(vectors)
        self._appended(labels)

    def append_codes(self, labels: Labels, codes: Bytes) -> None:
        """Add rows as fp16 bytes (N, 2 * dim) out of `codes` of another Rows or a file."""
        one_thread()
        start = self.count
        self._exact.add_sa_codes(np.ascontiguousarray(codes))
        if self._coarse is not None:
            self._coarse.add(self._exact.reconstruct_n(start, len(labels)))
            self._both.ntotal = self._exact.ntotal
        self._appended(labels)

    def _appended(self, labels: Labels) -> None:
        start, stop = self.count, self.count + len(labels)
        if stop > len(self._labels):
            self._widen(max(1024, stop + stop // 2))
        self._labels[start:stop] = labels
        positions = np.arange(start, stop)
        np.bitwise_or.at(self._live, positions >> 3, (1 << (positions & 7)).astype(np.uint8))
        self.count = stop

    def _widen(self, room: int) -> None:
        labels = np.zeros(room, np.int64)
        labels[: self.count] = self._labels[: self.count]
        bits = np.zeros((room + 7) // 8, np.uint8)
        bits[: len(self._live)] = self._live
        self._labels, self._live = labels, bits

    def reserve(self, count: int) -> None:
        """Make room for the labels of `count` rows in all."""
        self._widen(max(count, len(self._labels)))

    def restore(self, labels: Labels, live: Bytes, removed: int) -> Bytes:
        """Become these rows, out of a file; returns the bytes (N, 2 * dim) to be filled with their
        fp16 codes, which have one place from the start so that nothing is copied twice."""
        self._labels, self._live, self.removed = labels.copy(), live.copy(), removed
        self.count = len(labels)
        self._exact.codes.resize(self.count * 2 * self.dim)
        self._exact.ntotal = self.count
        return self._codes_view()

    def remove(self, labels: Labels) -> int:
        """Take these out of every later search; unknown and removed ones are passed over.

        The fp16 row is overwritten at once (a deleted face must not linger in memory or in the next
        file); its 4-bit codes go with the next rebuild.
        """
        positions = self._positions(np.unique(labels))
        if positions.size:
            np.bitwise_and.at(self._live, positions >> 3, (~(1 << (positions & 7))).astype(np.uint8))
            self._codes_view()[positions] = 0
            self.removed += positions.size
        return int(positions.size)

    # -- copies --------------------------------------------------------------------------------

    def labels(self, start: int, stop: int) -> Labels:
        return self._labels[start:stop].copy()

    def live_mask(self, start: int, stop: int) -> NDArray[np.bool_]:
        bits = self._live[start // 8 : (stop + 7) // 8]
        flags = np.unpackbits(bits, bitorder="little")[start % 8 :]
        return flags[: stop - start].astype(np.bool_)

    def codes(self, start: int, stop: int) -> Bytes:
        """A copy of fp16 rows as bytes (N, 2 * dim)."""
        return self._codes_view()[start:stop].copy()

    def coarse_bytes(self) -> Bytes | None:
        """The 4-bit part, serialised by faiss."""
        return None if self._coarse is None else np.asarray(faiss.serialize_index(self._coarse))

    def _codes_view(self) -> Bytes:
        size = self.count * 2 * self.dim
        if not size:
            return np.zeros((0, 2 * self.dim), np.uint8)
        flat: Bytes = faiss.rev_swig_ptr(self._exact.codes.data(), size)
        return flat.reshape(self.count, 2 * self.dim)

    # -- the 4-bit part ------------------------------------------------------------------------

    def train(self) -> None:
        """Make the 4-bit codes of all rows, trained on an even sample of the live ones."""
        one_thread()
        positions = np.flatnonzero(self.live_mask(0, self.count))
        step = max(1, len(positions) // TRAINING_ROWS)
        sample = self._exact.reconstruct_batch(positions[::step][:TRAINING_ROWS])
        coarse: Any = faiss.IndexIVFPQFastScan(
            faiss.IndexFlatIP(self.dim), self.dim, 1, self.dim // 2, 4, faiss.METRIC_INNER_PRODUCT
        )
        coarse.by_residual = False
        coarse.train(sample)
        for start in range(0, self.count, 65_536):
            coarse.add(self._exact.reconstruct_n(start, min(65_536, self.count - start)))
        self._attach(coarse, len(positions))

    def attach_coarse(self, data: Bytes, trained_on: int) -> None:
        """Take the 4-bit part out of a file.

        Raises ValueError if it is not of these rows, RuntimeError if this faiss can't read it.
        """
        coarse: Any = faiss.deserialize_index(data)
        if (
            not isinstance(coarse, faiss.IndexIVFPQFastScan)
            or coarse.ntotal != self.count
            or coarse.d != self.dim
        ):
            raise ValueError("the 4-bit codes are of other rows")
        self._attach(coarse, trained_on)

    def _attach(self, coarse: Any, trained_on: int) -> None:
        self._coarse = coarse
        self._both = faiss.IndexRefine(coarse, self._exact)
        self.trained_on = trained_on

    # -- search --------------------------------------------------------------------------------

    def _positions(self, labels: Labels) -> NDArray[np.int64]:
        """Positions of those of these ascending labels that are live."""
        known = self._labels[: self.count]
        positions = np.searchsorted(known, labels)
        inside = positions < self.count
        positions, labels = positions[inside], labels[inside]
        positions = positions[known[positions] == labels]
        kept: NDArray[np.int64] = positions[(self._live[positions >> 3] >> (positions & 7)) & 1 == 1]
        return kept

    def search(self, queries: Floats, k: int, allow: Labels | None) -> tuple[Floats, Labels]:
        """Scores (Q, k) and labels (Q, k), best first, label 0 where there are no more.

        `allow`: ascending, unique labels, or None for all. Scores are of the fp16 rows.
        """
        one_thread()
        if not self.live:
            return _nothing(len(queries))
        k = min(k, self.live)
        if allow is None:
            bits = self._live if self.removed else None
            return self._scan(queries, k, bits, coarse=True)
        positions = self._positions(allow)
        k = min(k, int(positions.size))
        if not k:
            return _nothing(len(queries))
        if positions.size <= GATHERED_ROWS:
            return self._gather(queries, k, positions)
        flags = np.zeros(self.count, np.bool_)
        flags[positions] = True
        bits = np.packbits(flags, bitorder="little")
        return self._scan(queries, k, bits, coarse=positions.size * SCAN_BITMAP_SHARE > self.count)

    def _gather(self, queries: Floats, k: int, positions: NDArray[np.int64]) -> tuple[Floats, Labels]:
        scores = queries @ self._exact.reconstruct_batch(positions).T
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        return _ordered(np.take_along_axis(scores, best, axis=1), self._labels[positions[best]])

    def _scan(self, queries: Floats, k: int, bits: Bytes | None, *, coarse: bool) -> tuple[Floats, Labels]:
        selector = None if bits is None else faiss.IDSelectorBitmap(bits)
        if coarse and self._both is not None:
            wanted = max(CANDIDATES, self.count // ROWS_PER_CANDIDATE, CANDIDATES_PER_HIT * k)
            candidates = min(self.count, wanted)
            scores, found = self._both.search(
                queries,
                k,
                params=faiss.IndexRefineSearchParameters(
                    k_factor=candidates / k + 1e-6,
                    base_index_params=faiss.SearchParametersIVF(nprobe=1, sel=selector),
                ),
            )
        else:
            params = None if selector is None else faiss.SearchParameters(sel=selector)
            scores, found = self._exact.search(queries, k, params=params)
        labels = np.where(found >= 0, self._labels[np.maximum(found, 0)], 0)
        return _ordered(scores, labels)


def _nothing(queries: int) -> tuple[Floats, Labels]:
    return np.zeros((queries, 0), np.float32), np.zeros((queries, 0), np.int64)


def _ordered(scores: Floats, labels: Labels) -> tuple[Floats, Labels]:
    """By score, then by label (equal photos come out in the order of their enrolment)."""
    scores = np.where(labels > 0, np.clip(scores, -1.0, 1.0), -2.0).astype(np.float32)
    order = np.lexsort((labels, -scores), axis=1)
    return np.take_along_axis(scores, order, axis=1), np.take_along_axis(labels, order, axis=1)
