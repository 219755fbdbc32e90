"""Which local indexes are in memory: each loaded once, the longest unused closed when there are too many."""

import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from mien.backends.vectors.base import CollectionRef
from mien.backends.vectors.local_file import FileIdentity
from mien.backends.vectors.local_index import CollectionIndex, IndexLimits
from mien.kit.tenant import TenantId

Key = tuple[str, str]


@dataclass(slots=True)
class _Place:
    """`users` is kept under the table's lock; `index` is loaded and saved under `lock`."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    index: CollectionIndex | None = None
    users: int = 0


class OpenIndexes:
    """Thread-safe; every method may load or save a file, so none is called on the event loop
    (but `peek`)."""

    def __init__(
        self, root: Path, limits: IndexLimits, max_open: int, loaded: Callable[[], None] = lambda: None
    ) -> None:
        """`loaded` is called after an index was read that needs work (its 4-bit part was unreadable)."""
        self._loaded = loaded
        self._root = root
        self._limits = limits
        self._max_open = max_open
        self._lock = threading.Lock()
        self._places: OrderedDict[Key, _Place] = OrderedDict()

    def peek(self, tenant: TenantId, ref: CollectionRef) -> CollectionIndex | None:
        """The index if it is in memory and of this space."""
        place = self._places.get((str(tenant), str(ref.id)))
        index = place.index if place else None
        return index if index and index.identity == _identity(tenant, ref) else None

    @contextmanager
    def use(self, tenant: TenantId, ref: CollectionRef) -> Iterator[CollectionIndex]:
        """The index, loaded if need be; it stays open meanwhile. Raises SpaceMismatch, Unavailable."""
        identity = _identity(tenant, ref)
        with self._taken((identity.tenant, identity.collection)) as place:
            with place.lock:
                if place.index is None:
                    place.index = CollectionIndex(self._folder(tenant, ref.id), identity, self._limits)
                    if place.index.rebuild_due():
                        self._loaded()
                index = place.index
            index.bind(identity)
            yield index
        self._close_unused()

    def drop(self, tenant: TenantId, collection: UUID) -> None:
        """Forget an index and its files."""
        with self._taken((str(tenant), str(collection))) as place, place.lock:
            if place.index is not None:
                place.index.drop()
                place.index = None
            shutil.rmtree(self._folder(tenant, collection), ignore_errors=True)

    def maintain(self, stopping: Callable[[], bool]) -> bool:
        """Do what is due, one index after the other; True if something was rebuilt or saved."""
        worked = False
        for index in self._pinned():
            if stopping():
                break
            if index.rebuild_due():
                worked |= index.rebuild(stopping)
            if index.save_due():
                index.save()
                worked = True
        return worked

    def unsaved(self) -> bool:
        """Whether any open index holds what its file does not."""
        return any(index.unsaved for index in self._pinned())

    def save_all(self) -> None:
        for index in self._pinned():
            index.save()

    def _pinned(self) -> Iterator[CollectionIndex]:
        with self._lock:
            keys = list(self._places)
        for key in keys:
            with self._lock:
                if key not in self._places:
                    continue
            with self._taken(key, used=False) as place:
                with place.lock:
                    index = place.index
                if index is not None:
                    yield index

    @contextmanager
    def _taken(self, key: Key, *, used: bool = True) -> Iterator[_Place]:
        with self._lock:
            place = self._places.setdefault(key, _Place())
            place.users += 1
            if used:
                self._places.move_to_end(key)
        try:
            yield place
        finally:
            with self._lock:
                place.users -= 1
                if not place.users and place.index is None:
                    del self._places[key]

    def _close_unused(self) -> None:
        while True:
            with self._lock:
                unused = (key for key, place in self._places.items() if not place.users)
                key = next(unused, None) if len(self._places) > self._max_open else None
            if key is None:
                return
            with self._taken(key, used=False) as place, place.lock:
                # Whoever takes the place meanwhile waits for the lock, then loads the file again.
                if place.index is not None and place.users == 1:
                    place.index.save()
                    if place.index.unsaved:  # the disk is full: its memory is all there is of it
                        with self._lock:
                            self._places.move_to_end(key)
                        return
                    place.index = None

    def _folder(self, tenant: TenantId, collection: UUID) -> Path:
        return self._root / str(tenant) / str(collection)


def _identity(tenant: TenantId, ref: CollectionRef) -> FileIdentity:
    return FileIdentity(str(tenant), str(ref.id), ref.space_key, ref.dim)
