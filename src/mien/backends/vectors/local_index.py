"""One collection's local index: rows under a lock, changes in order, saving, and rebuilding beside."""

import contextlib
import json
import logging
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mien.backends.vectors.base import Change, Hit, IndexStats
from mien.backends.vectors.local_file import (
    CHUNK_ROWS,
    DamagedIndex,
    FileIdentity,
    read_index,
    write_index,
)
from mien.backends.vectors.local_lock import ReadWriteLock
from mien.backends.vectors.local_rows import Floats, Labels, Rows, trainable
from mien.kit.errors import BadInput, SpaceMismatch, Unavailable

log = logging.getLogger(__name__)

FILE_NAME = "faces.idx"
ADD_ROWS = 1_024
"""Rows added under one hold of the lock: 2.5 ms at 128-D with 4-bit codes, 15 ms at 512-D."""
SEARCH_ROWS = 16
"""Queries of one hold of the lock, so that an add waits for 15 ms at most at 1,000,000 rows."""
RETRAIN_GROWTH = 10
"""4-bit codes are trained anew when there are this many times the faces that they were trained on."""


@dataclass(frozen=True, slots=True)
class IndexLimits:
    """Sizes of one index. `flat_rows`: up to here an exact fp16 scan; `compact_share`: removed rows
    are cleared out above this share (and above 1,000); `save_changes`: saved when more changes than
    this, and than a twentieth of the rows, are only in memory; `save_idle_s`: or when there were none
    for this long. Saving takes at most about a twentieth of the time (`save_rest` times its last
    duration must pass first)."""

    flat_rows: int = 20_000
    compact_share: float = 0.2
    compact_least: int = 1_000
    save_changes: int = 5_000
    save_idle_s: float = 5.0
    save_rest: float = 20.0


class CollectionIndex:
    """Thread-safe. Searches run side by side; changes are serialised and hold the lock briefly."""

    def __init__(self, folder: Path, identity: FileIdentity, limits: IndexLimits) -> None:
        """Opens what `folder` holds, or begins empty. Raises Unavailable if it can't be read."""
        self.identity = identity
        self._path = folder / FILE_NAME
        self._limits = limits
        self._lock = ReadWriteLock()
        self._order = threading.Lock()  # one writer at a time, taken before the lock
        self._saving = threading.Lock()
        self._rows = Rows(identity.dim)
        self._applied = 0
        self._dropped = False
        self._changes = 0  # counts up; `_saved_changes` is its value in the file
        self._saved_changes = 0
        self._changed_at = self._save_after = time.monotonic()
        self._load()

    def _load(self) -> None:
        try:
            found = read_index(self._path, self.identity.tenant, self.identity.collection)
        except (DamagedIndex, KeyError, TypeError, ValueError, json.JSONDecodeError) as error:
            log.warning("A damaged vector index is thrown away and will be rebuilt: %s", error)
            self._path.unlink(missing_ok=True)
            return
        except OSError as error:
            log.exception("A vector index can't be read")
            raise Unavailable("The vector index can't be read; see the server's log.") from error
        if found:
            self._rows, self._applied, self.identity = found

    # -- reading -------------------------------------------------------------------------------

    @property
    def applied(self) -> int:
        return self._applied

    def bind(self, identity: FileIdentity) -> None:
        """Check that the collection is of this space; an index without any change takes it over."""
        if identity == self.identity:
            return
        with self._order:
            if self._applied or self._rows.count:
                raise SpaceMismatch(
                    f"The collection holds embeddings of {self.identity.space} ({self.identity.dim}-D), "
                    f"not of {identity.space} ({identity.dim}-D); re-embed it, or use the other model."
                )
            self.identity = identity
            self._rows = Rows(identity.dim)

    def search(self, queries: Floats, k: int, allow: Labels | None, min_score: float) -> list[list[Hit]]:
        """See `VectorIndex.search`; `allow` ascends and is unique."""
        hits: list[list[Hit]] = []
        for start in range(0, len(queries), SEARCH_ROWS):
            with self._lock.read():
                scores, labels = self._rows.search(queries[start : start + SEARCH_ROWS], k, allow)
            good = (labels > 0) & (scores >= min_score)
            hits += [
                [
                    Hit(label, score)
                    for label, score in zip(row[kept].tolist(), near[kept].tolist(), strict=True)
                ]
                for row, near, kept in zip(labels, scores, good, strict=True)
            ]
        return hits

    def stats(self) -> IndexStats:
        with self._lock.read():
            rows = self._rows
            return IndexStats(rows.kind, rows.live, rows.removed, self._applied, rows.memory_bytes)

    # -- changes -------------------------------------------------------------------------------

    def apply(self, changes: Sequence[Change]) -> int:
        """See `VectorIndex.apply`. Raises BadInput for vectors or an order that can't be."""
        with self._order:
            fresh = [change for change in changes if change.number > self._applied]
            checked(fresh, self.identity.dim, self._rows.last_label)
            for start, stop in _runs(fresh):
                self._apply_run(fresh[start:stop])
            if fresh:
                self._note(len(fresh))
            return self._applied

    def _apply_run(self, run: Sequence[Change]) -> None:
        labels = np.array([change.label for change in run], np.int64)
        try:
            if run[0].vector is None:
                with self._lock.write():
                    self._rows.remove(labels)
                    self._applied = run[-1].number
            else:
                vectors = np.stack([change.vector for change in run if change.vector is not None])
                with self._lock.write():
                    self._rows.append(labels, vectors)
                    self._applied = run[-1].number
        except Exception:
            # Half an add (out of memory) leaves lists of two lengths: nothing is better than that.
            with self._lock.write():
                self._rows, self._applied = Rows(self.identity.dim), 0
            raise

    def replace(self, changes: Sequence[Change], applied: int) -> None:
        """See `VectorIndex.replace`."""
        with self._order:
            adds = sorted((change for change in changes if change.vector is not None), key=lambda c: c.label)
            checked(adds, self.identity.dim, 0)
            if adds and max(adds[-1].number, adds[-1].label) > applied:
                raise BadInput("A vector index can't be replaced by changes later than its number.")
            rows = Rows(self.identity.dim)
            rows.reserve(len(adds))
            for start in range(0, len(adds), CHUNK_ROWS):
                part = adds[start : start + CHUNK_ROWS]
                vectors = np.stack([change.vector for change in part if change.vector is not None])
                rows.append(np.array([change.label for change in part], np.int64), vectors)
            if self._wants_codes(rows.live):
                rows.train()
            with self._lock.write():
                self._rows, self._applied = rows, applied
            self._note(len(adds) + 1)

    def _note(self, changes: int) -> None:
        self._changes += changes
        self._changed_at = time.monotonic()

    # -- rebuilding ----------------------------------------------------------------------------

    def _wants_codes(self, live: int) -> bool:
        return live > self._limits.flat_rows and trainable(self.identity.dim)

    def rebuild_due(self) -> bool:
        """Whether 4-bit codes are to be made (or dropped, or trained anew), or removed rows cleared."""
        rows, limits = self._rows, self._limits
        if rows.removed > max(limits.compact_least, limits.compact_share * rows.count):
            return True
        if not self._wants_codes(rows.live):
            return False
        return rows.live > RETRAIN_GROWTH * rows.trained_on

    def rebuild(self, stopping: Callable[[], bool] = lambda: False) -> bool:
        """Build the rows anew beside the old ones while searches and changes go on, then switch.

        Needs the memory of both for the time. False if it was overtaken (replaced, dropped, stopped).
        """
        old = self._rows
        new = Rows(old.dim)
        copied = self._copy(old, new, 0, stopping)
        if self._wants_codes(new.live) and not stopping():
            new.train()
        copied = self._copy(old, new, copied, stopping)
        with self._order:
            with self._lock.write():
                if self._rows is not old or self._dropped or stopping():
                    return False
                self._copy_rows(old, new, copied, old.count)
                new.remove(old.labels(0, old.count)[~old.live_mask(0, old.count)])
                self._rows = new
            self._note(1)
        return True

    def _copy(self, old: Rows, new: Rows, start: int, stopping: Callable[[], bool]) -> int:
        """Copy live rows from `start` on, until few are left to copy."""
        while old.count - start > (ADD_ROWS if start else 0) and not stopping():
            with self._lock.read():
                stop = min(start + CHUNK_ROWS, old.count)
                labels, live = old.labels(start, stop), old.live_mask(start, stop)
                codes = old.codes(start, stop)
            new.append_codes(labels[live], codes[live])
            start = stop
        return start

    @staticmethod
    def _copy_rows(old: Rows, new: Rows, start: int, stop: int) -> None:
        live = old.live_mask(start, stop)
        if live.any():
            new.append_codes(old.labels(start, stop)[live], old.codes(start, stop)[live])

    # -- saving --------------------------------------------------------------------------------

    @property
    def unsaved(self) -> int:
        """Changes that are only in memory."""
        return self._changes - self._saved_changes

    def save_due(self) -> bool:
        """Whether enough has changed, or nothing for long enough, and the last save is long past."""
        waiting, now = self.unsaved, time.monotonic()
        if not waiting or now < self._save_after:
            return False
        many = waiting >= max(self._limits.save_changes, self._rows.count // 20)
        return many or now - self._changed_at >= self._limits.save_idle_s

    def save(self) -> None:
        """Write what is only in memory. A failed one is logged: the database is the truth."""
        with self._saving:
            if self._dropped or not self.unsaved:
                return
            begun, rest = time.monotonic(), 0.0
            changes = self._changes
            try:
                write_index(self._path, self.identity, lambda: (self._rows, self._applied), self._lock.read)
                self._saved_changes = changes
            except OSError:
                with contextlib.suppress(OSError):
                    self._path.with_name(f"{FILE_NAME}.tmp").unlink(missing_ok=True)
                log.exception("A vector index can't be saved; it is kept in memory and tried again")
                rest = 60.0
            now = time.monotonic()
            self._save_after = now + max(rest, self._limits.save_rest * (now - begun))

    def drop(self) -> None:
        """Forget everything, files included; the object is of no further use."""
        with self._saving, self._order, self._lock.write():
            self._dropped = True
            self._rows, self._applied = Rows(self.identity.dim), 0
            shutil.rmtree(self._path.parent, ignore_errors=True)


UNIT_TOLERANCE = 0.01
"""How far from 1 a length may be: fp16 and bf16 round-trips stay under it, a raw embedding does not."""


def checked_vectors(vectors: Floats, dim: int) -> Floats:
    """`vectors` as contiguous (N, dim) float32; BadInput for another shape, NaN or another length than 1."""
    vectors = np.ascontiguousarray(vectors, np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        got = vectors.shape[-1] if vectors.ndim else 0
        raise BadInput(f"An embedding of this collection has {dim} numbers, not {got}.", dimension=dim)
    lengths = np.einsum("nd,nd->n", vectors, vectors)
    if not np.isfinite(lengths).all():
        raise BadInput("An embedding holds NaN or infinite numbers; send finite ones.")
    if vectors.size and np.abs(np.sqrt(lengths) - 1.0).max() > UNIT_TOLERANCE:
        raise BadInput("An embedding is not of unit length; divide it by its Euclidean norm.")
    return vectors


def checked(changes: Sequence[Change], dim: int, last_label: int) -> None:
    """Raises BadInput unless numbers ascend, labels of adds ascend above `last_label`, and each
    vector is (dim,), finite and of unit length."""
    number, label = 0, last_label
    for change in changes:
        if change.number <= number:
            raise BadInput("Changes of a vector index are applied in ascending order of number.")
        number = change.number
        if change.vector is None:
            continue
        if change.label <= label:
            raise BadInput("Each add to a vector index has a higher label than the one before.")
        label = change.label
        if change.vector.shape != (dim,):
            raise BadInput(f"An embedding of this collection has {dim} numbers.", dimension=dim)
    for start in range(0, len(changes), CHUNK_ROWS):
        vectors = [c.vector for c in changes[start : start + CHUNK_ROWS] if c.vector is not None]
        if vectors:
            checked_vectors(np.stack(vectors), dim)


def _runs(changes: Sequence[Change]) -> list[tuple[int, int]]:
    """Cut into stretches of adds only or of deletes only, of at most ADD_ROWS."""
    runs: list[tuple[int, int]] = []
    start = 0
    for stop in range(1, len(changes) + 1):
        if (
            stop == len(changes)
            or stop - start == ADD_ROWS
            or (changes[stop].vector is None) != (changes[start].vector is None)
        ):
            runs.append((start, stop))
            start = stop
    return runs
