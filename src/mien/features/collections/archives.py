"""Zip archives of photos: checked before anything is unpacked, read one bounded entry at a time.

Nothing is ever written under a name from an archive: names are only kept as texts.
"""

import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from mien.features.collections.limits import CollectionLimits
from mien.kit.errors import BadInput, TooLarge

PHOTO_ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif"})

_END = b"PK\x05\x06"
_END_SIZE = 22
_END64_LOCATOR = b"PK\x06\x07"
_END64 = b"PK\x06\x06"


@dataclass(frozen=True, slots=True)
class Entry:
    """A photo of an import: its name (path in the archive or below the folder) and how to get at it.

    `fault` says why it can't be read, where that is known without reading it.
    """

    name: str
    handle: zipfile.ZipInfo | Path
    fault: str | None = None


def check(file: IO[bytes], limits: CollectionLimits) -> int:
    """Check an archive by its central directory; returns the number of photos in it.

    BadInput if it is no zip or holds no photo; TooLarge if it has too many entries, would unpack to
    too much, or is packed as no photos are (a zip bomb).
    """
    most = limits.imports
    _check_directory_size(file, limits)
    try:
        with zipfile.ZipFile(file) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, struct.error):
        raise BadInput("The file is no zip archive, or a damaged one.", field="file") from None
    if len(infos) > most.entries:
        raise TooLarge(f"The archive has {len(infos)} entries; at most {most.entries} are allowed.")
    unpacked = sum(info.file_size for info in infos)
    packed = sum(info.compress_size for info in infos)
    if unpacked > most.unpacked_bytes:
        raise TooLarge(
            f"The archive would unpack to {unpacked} bytes; at most {most.unpacked_bytes} are allowed."
        )
    if unpacked > most.ratio_from_bytes and unpacked > most.ratio * max(1, packed):
        raise TooLarge(
            f"The archive unpacks to more than {most.ratio:g} times its size; photos don't pack like that."
        )
    photos = sum(1 for info in infos if _is_photo(info))
    if photos == 0:
        raise BadInput("The archive holds no photo (by the endings of its names).", field="file")
    return photos


def entries(archive: zipfile.ZipFile, limits: CollectionLimits) -> Iterator[Entry]:
    """The photos of an archive in its own order; those that can't be read come with a fault."""
    for info in archive.infolist():
        if not _is_photo(info):
            continue
        name = _name(info)
        if name is None:
            yield Entry(info.filename, info, "its name is not UTF-8")
        elif len(name) > limits.external_id_length:
            yield Entry(name[:100], info, f"its name is over {limits.external_id_length} characters")
        elif info.flag_bits & 0x1:
            yield Entry(name, info, "it is encrypted")
        elif info.file_size > limits.photo_bytes:
            yield Entry(name, info, f"it is over {limits.photo_bytes} bytes")
        else:
            yield Entry(name, info)


def read(archive: zipfile.ZipFile, info: zipfile.ZipInfo, limits: CollectionLimits) -> bytes:
    """One entry's bytes; BadInput if it is damaged, TooLarge if it is larger than it says."""
    try:
        with archive.open(info) as stream:
            data = stream.read(limits.photo_bytes + 1)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError, OSError, ValueError):
        raise BadInput("it is damaged or packed by an unknown method") from None
    if len(data) > limits.photo_bytes:
        raise TooLarge(f"it is over {limits.photo_bytes} bytes")
    return data


def folder_entries(folder: Path, limits: CollectionLimits) -> Iterator[Entry]:
    """The photos below a folder, by path; links that lead out of it come with a fault."""
    root = folder.resolve(strict=True)
    count = 0
    for path in sorted(root.rglob("*")):
        if path.suffix.lower() not in PHOTO_ENDINGS or path.name.startswith("."):
            continue
        try:
            name = path.relative_to(root).as_posix()
            name.encode("utf-8")
            real = path.resolve(strict=True)
        except UnicodeEncodeError:
            yield Entry(name.encode("utf-8", "replace").decode(), path, "its name is not UTF-8")
            continue
        except OSError:
            yield Entry(name, path, "it can't be read")
            continue
        if not real.is_file():
            continue
        count += 1
        if count > limits.imports.entries:
            raise TooLarge(f"The folder holds more than {limits.imports.entries} photos.")
        if not real.is_relative_to(root):
            yield Entry(name, path, "it is a link out of the folder")
        elif len(name) > limits.external_id_length:
            yield Entry(name[:100], path, f"its path is over {limits.external_id_length} characters")
        elif real.stat().st_size > limits.photo_bytes:
            yield Entry(name, path, f"it is over {limits.photo_bytes} bytes")
        else:
            yield Entry(name, real)


def parent_of(name: str) -> str | None:
    """The folder that holds an entry (its last part), None at the top."""
    parent = PurePosixPath(name).parent.name
    return parent if parent not in ("", ".", "..") else None


def _is_photo(info: zipfile.ZipInfo) -> bool:
    path = PurePosixPath(info.filename)
    hidden = path.name.startswith(".") or "__MACOSX" in path.parts
    return not info.is_dir() and not hidden and path.suffix.lower() in PHOTO_ENDINGS


def _name(info: zipfile.ZipInfo) -> str | None:
    """The entry's name as text; None if it is neither marked nor readable as UTF-8.

    Without the UTF-8 mark the standard says code page 437, but what writes such names today means
    UTF-8; zipfile has decoded it as 437, which can be undone.
    """
    if info.flag_bits & 0x800 or info.filename.isascii():
        name = info.filename
    else:
        try:
            name = info.filename.encode("cp437").decode("utf-8")
        except UnicodeError:
            return None
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return None
    return None if "\x00" in name else name


def _check_directory_size(file: IO[bytes], limits: CollectionLimits) -> None:
    """Refuse a central directory over the limit before zipfile reads it into memory.

    The end record (APPNOTE.TXT 4.3.16) lies in the last 22 + 65,535 bytes; in the ZIP64 form
    (4.3.14, 4.3.15) the sizes are in a record of its own.
    """
    size = file.seek(0, 2)
    file.seek(max(0, size - _END_SIZE - 65_535 - 20))
    start = file.tell()
    tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) - at < _END_SIZE:
        raise BadInput("The file is no zip archive.", field="file")
    count, directory = struct.unpack_from("<HI", tail, at + 10)
    locator = at - 20
    if locator >= 0 and tail[locator:].startswith(_END64_LOCATOR):
        # zipfile believes this record whenever it is there, so it counts here, too.
        (where,) = struct.unpack_from("<Q", tail, locator + 8)
        if where + 56 > start + locator:
            raise BadInput("The zip archive is damaged.", field="file")
        file.seek(where)
        record = file.read(56)
        if not record.startswith(_END64):
            raise BadInput("The zip archive is damaged.", field="file")
        count, directory = struct.unpack_from("<QQ", record, 32)
    if count > limits.imports.entries:
        raise TooLarge(f"The archive has {count} entries; at most {limits.imports.entries} are allowed.")
    if directory > limits.imports.directory_bytes:
        raise TooLarge(f"The archive's directory is over {limits.imports.directory_bytes} bytes.")
    file.seek(0)
