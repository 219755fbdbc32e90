"""What one collection, one request and one import may hold at most."""

from dataclasses import dataclass, field
from pathlib import Path

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class ImportLimits:
    """Bounds of a bulk import. Photos of well-compressed formats hardly shrink in a zip; a `ratio`
    (unpacked : packed size) over 200 is met by zip bombs only (a blank BMP reaches about 1000)."""

    archive_bytes: int = GIB
    entries: int = 200_000
    unpacked_bytes: int = 20 * GIB
    ratio: float = 200.0
    ratio_from_bytes: int = 10 * MIB
    """The ratio is checked above this unpacked size only."""
    directory_bytes: int = 64 * MIB
    """The zip's central directory, which is read into memory."""
    errors_kept: int = 100
    at_once: int = 2
    """Photos of one import under way at the same time."""
    busy_wait_s: float = 600.0
    """How long one photo waits for a pipeline before it counts as failed."""


@dataclass(frozen=True, slots=True)
class CollectionLimits:
    """Bounds of the Collections job; all of them can be set by the operator."""

    collections: int = 10_000
    faces_per_collection: int = 10_000_000
    persons_per_collection: int = 1_000_000
    name_length: int = 255
    text_length: int = 1024
    """Descriptions and persons' names, in characters."""
    external_id_length: int = 512
    metadata_bytes: int = 16 * 1024
    metadata_depth: int = 5
    photo_bytes: int = 32 * MIB
    field_bytes: int = 64 * 1024
    """One text field of a form, or all of a JSON body beside its photos."""
    fields: int = 64
    page: int = 1000
    ids: int = 1000
    """Ids in one request (delete many, attach many, filters)."""
    matches: int = 1000
    results: int = 20_000
    """Faces of the photo times `max_matches` of one search."""
    filter_labels: int = 500_000
    """Faces that a filter may leave; over it the filter is no narrowing worth its memory."""
    person_faces: int = 50_000
    """Faces of all candidates that a search for persons averages over."""
    faces_per_photo: int = 1000
    catch_up_s: float = 10.0
    """How long a search waits for the index to have every change made before it."""
    change_batch: int = 2000
    rebuild_page: int = 10_000
    """Faces read in one transaction of a rebuild."""
    rebuild_over: int = 10_000
    """An empty index with more changes than this is built anew in one go."""
    changes_kept: int = 100_000
    """Changes kept after an index has applied them (an index further behind is built anew)."""
    catch_ups_at_once: int = 4
    import_roots: tuple[Path, ...] = ()
    """Folders of the server that imports may read; none by default."""
    imports: ImportLimits = field(default_factory=ImportLimits)
