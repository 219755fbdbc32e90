"""What a file is, read from its bytes alone: format, orientation, and what else hides in it."""

import re
import struct
from typing import Literal

PhotoFormat = Literal["JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF"]

_FOREIGN_HEADS: tuple[tuple[bytes, str], ...] = (
    (b"%PDF-", "a PDF document"),
    (b"PK\x03\x04", "a ZIP archive (or an office document)"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
    (b"\x1f\x8b", "gzip data"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"8BPS", "a Photoshop file"),
    (b"\x00\x00\x01\x00", "an icon file"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x0a", "JPEG XL"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\x1aE\xdf\xa3", "a Matroska video"),
    (b"#!", "a script"),
    (b"<?php", "a script"),
)
_BRANDS = {
    b"avif": "AVIF", b"avis": "AVIF", b"heic": "HEIC", b"heix": "HEIC", b"hevc": "HEIC",
    b"heim": "HEIC", b"mif1": "HEIF", b"msf1": "HEIF",
}  # fmt: skip
_MARKUP = re.compile(rb"\s*(<\?xml|<svg|<!doctype|<html|<script)", re.IGNORECASE)


def sniff(data: bytes) -> PhotoFormat | None:
    """The format by its magic bytes, or None if it is none that Mien reads."""
    if data.startswith(b"\xff\xd8\xff"):
        return "JPEG"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "PNG"
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "WebP"
    if data.startswith((b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")):
        return "TIFF"
    if data.startswith((b"GIF87a", b"GIF89a")):
        return "GIF"
    if data.startswith(b"BM") and len(data) >= 18 and struct.unpack_from("<I", data, 14)[0] in _BMP_HEADERS:
        return "BMP"
    return None


_BMP_HEADERS = frozenset({12, 16, 40, 52, 56, 64, 108, 124})


def describe_foreign(data: bytes) -> str | None:
    """What bytes that are no photo seem to be ("a PDF document", "text"), or None if unknown."""
    if data[4:8] == b"ftyp":
        return _BRANDS.get(data[8:12], "a video (MP4 or QuickTime)")
    for head, name in _FOREIGN_HEADS:
        if data.startswith(head):
            return name
    if _MARKUP.match(data[:256]):
        return "markup (HTML, SVG or XML)"
    sample = data[:1024]
    if not any(b < 9 or 13 < b < 32 for b in sample):
        return "text"
    return None


def hidden_file(data: bytes, photo: PhotoFormat) -> str | None:
    """What a polyglot holds besides its photo, or None.

    Looks for files that other programs would open in these bytes: a PDF header in the first
    kilobyte (where PDF readers look), a ZIP directory at the end, and, behind a JPEG's or PNG's
    end, an archive, a program or markup. What cameras append themselves (further JPEGs, a motion
    photo's video, makers' trailers, padding) is no reason.
    """
    if b"%PDF-" in data[:1024]:
        return "a PDF document"
    tail = data[-(65535 + 22) :]
    at = tail.rfind(b"PK\x05\x06")
    # The record (APPNOTE 4.3.16) ends with a comment that reaches to the end of the file.
    if at >= 0 and at + 22 <= len(tail) and at + 22 + struct.unpack_from("<H", tail, at + 20)[0] == len(tail):
        return "a ZIP archive"
    end = _end(data, photo)
    if end is None:
        return None
    rest = data[end : end + 4096].lstrip(b"\x00\r\n \t")
    if not rest:
        return None
    if _MARKUP.match(rest):
        return "markup (HTML, SVG or XML)"
    for head, name in _FOREIGN_HEADS:
        if len(head) > 2 and rest.startswith(head) and not head.startswith(b"\x00"):
            return name
    return None


def _end(data: bytes, photo: PhotoFormat) -> int | None:
    """The offset behind the photo's last byte; None if it is the file's end or can't be told."""
    if photo == "PNG":
        at = data.rfind(b"IEND\xae\x42\x60\x82")
        return at + 8 if 0 <= at < len(data) - 8 else None
    if photo == "JPEG" and data[-2:] != b"\xff\xd9":
        return jpeg_end(data)
    return None


_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")


def jpeg_end(data: bytes) -> int | None:
    """The offset behind the end-of-image marker of the first JPEG in `data`, or None.

    Walks the segments (ITU-T T.81, B.1.1): in entropy-coded data a marker can't occur by chance.
    """
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF:  # stray bytes between segments, which decoders skip too
            found = _MARKER_IN_SCAN.search(data, at)
            if found is None:
                return None
            at = found.start()
            continue
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker == 0xD9:
            return at + 2
        if marker == 0x01 or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xDA:
            found = _MARKER_IN_SCAN.search(data, at)
            if found is None:
                return None
            at = found.start()
    return len(data) if data[at : at + 2] == b"\xff\xd9" else None


def jpeg_header(data: bytes) -> tuple[int, bool]:
    """The EXIF orientation 1..8 of a JPEG (1 if it says none, or nonsense), and whether it comes in
    several scans (progressive, or one colour after the other)."""
    at, orientation, components, progressive = 2, 1, 0, False
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            at = data.find(b"\xff", at)
            if at < 0:
                break
            continue
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in (0x00, 0x01) or 0xD0 <= marker <= 0xD8:
            at += 2
            continue
        if marker == 0xDA:
            return orientation, progressive or data[at + 4 : at + 5] != bytes([components])
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if marker == 0xE1 and data[at + 4 : at + 10] == b"Exif\x00\x00":
            orientation = tiff_orientation(data[at + 10 : at + 2 + length])
        elif 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            progressive = marker not in (0xC0, 0xC1)
            components = data[at + 9] if at + 9 < len(data) else 0
        at += 2 + max(length, 2)
    return orientation, True


def tiff_orientation(block: bytes) -> int:
    """Tag 0x0112 of the first directory of a TIFF block (TIFF 6.0, section 2), 1..8, or 1."""
    order: Literal["little", "big"] = "little" if block[:2] == b"II" else "big"
    first = int.from_bytes(block[4:8], order)
    count = int.from_bytes(block[first : first + 2], order)
    for i in range(min(count, 512)):
        entry = block[first + 2 + 12 * i : first + 14 + 12 * i]
        if len(entry) < 12:
            break
        if int.from_bytes(entry[:2], order) == 0x0112:
            value = int.from_bytes(entry[8:10], order)
            return value if 1 <= value <= 8 else 1
    return 1
