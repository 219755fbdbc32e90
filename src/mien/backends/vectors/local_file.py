"""The file of one local index: written beside, synced, renamed; checked in full when it is read.

Layout: 8 bytes of magic, length and CRC-32 of the header (little endian, 4 bytes each), the header
(JSON, padded to 4,096 bytes in all), then the sections `labels` (int64), `live` (a bitmap), `codes`
(fp16 rows) and `coarse` (faiss, may be empty). The header carries offset, size and CRC-32 of each. A
CRC over all of it is cheap: 1 to 7 GB a second, where 1,000,000 rows of 128-D are 304 MB.
"""

import contextlib
import json
import os
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien.backends.vectors.local_rows import Bytes, Rows

MAGIC = b"MIENVEC1"
HEADER_BYTES = 4096
CHUNK_ROWS = 16_384


class DamagedIndex(Exception):
    """The file is no whole index of this collection; the projector builds a new one."""


@dataclass(frozen=True, slots=True)
class FileIdentity:
    """What a file must be of; `space` is the space's key."""

    tenant: str
    collection: str
    space: str
    dim: int


def sync_folder(folder: Path) -> None:
    """Make a rename or removal in `folder` durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_index(
    path: Path,
    identity: FileIdentity,
    state: Callable[[], tuple[Rows, int]],
    reading: Callable[[], AbstractContextManager[None]],
) -> int:
    """Save the rows and applied number of `state` to `path`; returns that number. Raises OSError.

    Adds may go on: everything but the fp16 rows is copied at once under `reading`, and those only
    grow, so that they are copied piece by piece. (One removed meanwhile may be saved as zeros.)
    """
    with reading():
        rows, number = state()
        count, removed, trained_on = rows.count, rows.removed, rows.trained_on
        labels, live = rows.labels(0, count), np.packbits(rows.live_mask(0, count), bitorder="little")
        coarse = rows.coarse_bytes()

    def pieces() -> Iterator[Bytes]:
        for start in range(0, count, CHUNK_ROWS):
            with reading():
                piece = rows.codes(start, min(start + CHUNK_ROWS, count))
            yield piece

    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = path.with_name(path.name + ".tmp")
    sections: dict[str, list[int]] = {}
    with open(os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(b"\0" * HEADER_BYTES)
        contents: tuple[tuple[str, Iterable[NDArray[Any]]], ...] = (
            ("labels", (labels,)),
            ("live", (live,)),
            ("codes", pieces()),
            ("coarse", () if coarse is None else (coarse,)),
        )
        for name, parts in contents:
            offset, crc = file.tell(), 0
            for part in parts:
                view = np.ascontiguousarray(part).view(np.uint8).data
                crc = zlib.crc32(view, crc)
                file.write(view)
            sections[name] = [offset, file.tell() - offset, crc]
        header = {
            "format": 1,
            "tenant": identity.tenant,
            "collection": identity.collection,
            "space": identity.space,
            "dim": identity.dim,
            "applied": number,
            "rows": count,
            "removed": removed,
            "trained_on": trained_on,
            "sections": sections,
        }
        raw = json.dumps(header).encode().ljust(HEADER_BYTES - 16)
        file.seek(0)
        file.write(MAGIC + struct.pack("<II", len(raw), zlib.crc32(raw)) + raw)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)
    sync_folder(path.parent)
    return number


def read_index(path: Path, tenant: str, collection: str) -> tuple[Rows, int, FileIdentity] | None:
    """Rows, applied number and identity in `path`; None if there is no file.

    Raises DamagedIndex for a truncated, altered or foreign file, OSError if it can't be read.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        head = file.read(HEADER_BYTES)
        if len(head) != HEADER_BYTES or head[:8] != MAGIC:
            raise DamagedIndex("no header")
        length, crc = struct.unpack("<II", head[8:16])
        if length != HEADER_BYTES - 16 or zlib.crc32(head[16:]) != crc:
            raise DamagedIndex("header altered")
        header = json.loads(head[16:])
        if (header["format"], header["tenant"], header["collection"]) != (1, tenant, collection):
            raise DamagedIndex("file of another collection or format")
        identity = FileIdentity(tenant, collection, header["space"], header["dim"])
        sections = header["sections"]
        end = max(offset + size for offset, size, _ in sections.values())
        if os.fstat(file.fileno()).st_size != end:
            raise DamagedIndex("file truncated")
        return _read_rows(file, header, sections), header["applied"], identity


def _read_rows(
    file: BufferedReader, header: dict[str, int], sections: dict[str, tuple[int, int, int]]
) -> Rows:
    dim, count = header["dim"], header["rows"]
    labels = np.frombuffer(_section(file, sections["labels"]), np.int64)
    live = np.frombuffer(_section(file, sections["live"]), np.uint8)
    if len(labels) != count or len(live) != (count + 7) // 8:
        raise DamagedIndex("sections of another length")
    offset, size, expected = sections["codes"]
    if size != count * 2 * dim:
        raise DamagedIndex("sections of another length")
    rows, crc = Rows(dim), 0
    codes = rows.restore(labels, live, header["removed"])
    file.seek(offset)
    for start in range(0, count, CHUNK_ROWS):
        piece = codes[start : start + CHUNK_ROWS].data.cast("B")
        if file.readinto(piece) != len(piece):
            raise DamagedIndex("file truncated")
        crc = zlib.crc32(piece, crc)
    if crc != expected:
        raise DamagedIndex("rows altered")
    coarse = _section(file, sections["coarse"])
    if coarse:
        # Written by a faiss that this one can't read: the fp16 rows are whole, so they serve alone
        # until housekeeping has made the 4-bit codes anew.
        with contextlib.suppress(RuntimeError, ValueError):
            rows.attach_coarse(np.frombuffer(coarse, np.uint8), header["trained_on"])
    return rows


def _section(file: BufferedReader, section: tuple[int, int, int]) -> bytes:
    offset, size, expected = section
    file.seek(offset)
    data = file.read(size)
    if len(data) != size or zlib.crc32(data) != expected:
        raise DamagedIndex("section altered")
    return data
