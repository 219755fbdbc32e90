"""Photos and archives as they arrive: multipart forms, or JSON with base64.

Forms are read by hand over python-multipart's tokenizer, because framework readers put no bound on
files and decode text that is not UTF-8 as something else in silence.
"""

import asyncio
import base64
import binascii
import json
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from mien.features.collections.limits import CollectionLimits
from mien.kit.errors import BadInput, TooLarge, UnsupportedFormat
from mien.kit.units import size_text

_STANDARD = bytes.maketrans(b"-_", b"+/")
"""The alphabet for URLs to the usual one."""

_SPOOL = 1 << 20
"""An archive over this many bytes goes to a temporary file."""


@dataclass(frozen=True, slots=True)
class PhotoUpload:
    """A photo and the fields sent with it, not yet checked (texts in a form, JSON values in JSON)."""

    data: bytes
    fields: Mapping[str, Any]


class Sink(Protocol):
    """Where one file of a form goes."""

    async def write(self, data: bytes) -> None: ...


class Bytes:
    """A file kept in memory, up to `limit` bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.data = bytearray()

    async def write(self, data: bytes) -> None:
        if len(self.data) + len(data) > self._limit:
            raise TooLarge(f"The photo is over {size_text(self._limit)}.", limit_bytes=self._limit)
        self.data += data


class Spool:
    """A file kept in memory at first and then on disk, up to `limit` bytes; close it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.size = 0
        self.file = tempfile.SpooledTemporaryFile(max_size=_SPOOL)  # noqa: SIM115  closed by close()

    async def write(self, data: bytes) -> None:
        self.size += len(data)
        if self.size > self._limit:
            raise TooLarge(f"The archive is over {size_text(self._limit)}.", limit_bytes=self._limit)
        if self.size > _SPOOL:
            await asyncio.to_thread(self.file.write, data)
        else:
            self.file.write(data)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The content from its beginning."""
        await asyncio.to_thread(self.file.seek, 0)
        while data := await asyncio.to_thread(self.file.read, 1 << 20):
            yield data

    def close(self) -> None:
        self.file.close()


@dataclass(slots=True)
class _Part:
    disposition: bytes = b""
    name: str = ""
    is_file: bool = False
    data: bytearray = field(default_factory=bytearray)


class _Form:
    """Turns the tokenizer's calls into fields, and pieces of files waiting to be written."""

    def __init__(self, limits: CollectionLimits) -> None:
        self.fields: dict[str, str] = {}
        self.pieces: list[tuple[str, bytes]] = []
        self.files: set[str] = set()
        self._limits = limits
        self._part = _Part()
        self._header = bytearray()
        self._value = bytearray()
        self.ended = False

    def on_part_begin(self) -> None:
        self._part = _Part()

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def on_header_end(self) -> None:
        if self._header.lower() == b"content-disposition":
            self._part.disposition = bytes(self._value)
        self._header.clear()
        self._value.clear()

    def on_headers_finished(self) -> None:
        # The option parser wants text; Latin-1 carries the bytes through unchanged.
        _, options = parse_options_header(self._part.disposition.decode("latin-1"))
        if b"name" not in options:
            raise BadInput("A part of the form has no name.")
        self._part.name = utf8(options[b"name"], "a field's name")
        if b"filename" in options:
            utf8(options[b"filename"], "the file's name")
            self._part.is_file = True
        if len(self.fields) + len(self.files) >= self._limits.fields:
            raise BadInput(f"The form has more than {self._limits.fields} fields.")
        known = self.files if self._part.is_file else self.fields
        if self._part.name in known:
            raise BadInput(f"The form has the field {self._part.name!r} twice.", field=self._part.name)
        if self._part.is_file:
            self.files.add(self._part.name)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._part.is_file:
            self.pieces.append((self._part.name, data[start:end]))
            return
        self._part.data += data[start:end]
        if len(self._part.data) > self._limits.field_bytes:
            raise TooLarge(
                f"The form's field {self._part.name!r} is over {self._limits.field_bytes} bytes.",
                limit_bytes=self._limits.field_bytes,
            )

    def on_part_end(self) -> None:
        if not self._part.is_file:
            self.fields[self._part.name] = utf8(bytes(self._part.data), self._part.name)

    def on_end(self) -> None:
        self.ended = True


async def read_form(request: Request, sinks: Mapping[str, Sink], limits: CollectionLimits) -> dict[str, str]:
    """Read a multipart form: its files go to `sinks` by name, its text fields come back.

    BadInput for a damaged form, a file that is not asked for, or text that is not UTF-8; TooLarge
    from a sink.
    """
    _, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 200:
        raise BadInput("The form's content type names no boundary.")
    form = _Form(limits)
    callbacks: Any = {
        name: getattr(form, name)
        for name in (
            "on_part_begin",
            "on_header_field",
            "on_header_value",
            "on_header_end",
            "on_headers_finished",
            "on_part_data",
            "on_part_end",
            "on_end",
        )
    }
    parser = MultipartParser(boundary, callbacks)
    try:
        async for chunk in request.stream():
            if chunk:
                parser.write(chunk)
                await _write(form, sinks)
        parser.finalize()
    except FormParserError:
        raise BadInput("The form is damaged.") from None
    except ClientDisconnect:
        raise BadInput("The form ended early.") from None
    if not form.ended:
        raise BadInput("The form is empty, or ended early.")
    missing = sorted(set(sinks) - form.files)
    if missing:
        raise BadInput(f"The form has no file {missing[0]!r}.", field=missing[0])
    return form.fields


async def _write(form: _Form, sinks: Mapping[str, Sink]) -> None:
    for name, data in form.pieces:
        if name not in sinks:
            raise BadInput(f"The form has a file {name!r}; {', '.join(sorted(sinks))} is read.", field=name)
        await sinks[name].write(data)
    form.pieces.clear()


async def read_json(request: Request, limit: int) -> dict[str, Any]:
    """A JSON object of at most `limit` bytes; BadInput if it is none, TooLarge over the limit."""
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > limit:
                raise TooLarge(f"The body is over {size_text(limit)}.", limit_bytes=limit)
    except ClientDisconnect:
        raise BadInput("The body ended early.") from None
    if not body:
        raise BadInput("The body is empty.")
    try:
        # Not strict: line ends in a text as they are, as a shell puts what `base64` prints into JSON.
        value = json.loads(body.decode("utf-8"), strict=False)
    except UnicodeDecodeError:
        raise BadInput("The body is not UTF-8.") from None
    except (ValueError, RecursionError):
        raise BadInput("The body is no valid JSON.") from None
    if not isinstance(value, dict):
        raise BadInput("The body must be a JSON object.")
    return value


def kind_of(request: Request) -> str:
    """The media type of the body, in lower case and without options."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


def is_form(request: Request) -> bool:
    """Whether options come as texts: a form's fields, or the query beside a bare image."""
    kind = kind_of(request)
    return kind == "multipart/form-data" or kind.startswith("image/")


async def read_photos(
    request: Request, names: Mapping[str, str], limits: CollectionLimits
) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The photos of a request and its fields. `names`: file of a form -> member of a JSON object.

    A request may also give none of them as JSON (then no photos come back), or come as a bare body
    with an image type when there is one photo; its fields then come from the query.
    """
    kind = kind_of(request)
    if kind == "multipart/form-data":
        sinks = {name: Bytes(limits.photo_bytes) for name in names}
        form = await read_form(request, sinks, limits)
        return {name: _filled(bytes(sink.data), name) for name, sink in sinks.items()}, dict(form)
    if kind == "application/json" or kind.endswith("+json"):
        # Base64 takes four bytes for three, and a line of 76 up to four more for its end (in JSON "\\r\\n").
        each = limits.photo_bytes * 4 // 3 * 80 // 76 + 8
        body = await read_json(request, len(names) * each + limits.field_bytes)
        photos = {
            name: _base64(body.pop(member), member, limits.photo_bytes)
            for name, member in names.items()
            if member in body
        }
        return photos, body
    if kind.startswith("image/") and len(names) == 1:
        sink = Bytes(limits.photo_bytes)
        try:
            async for chunk in request.stream():
                await sink.write(chunk)
        except ClientDisconnect:
            raise BadInput("The body ended early.") from None
        return {name: _filled(bytes(sink.data), name) for name in names}, dict(request.query_params)
    if not kind and request.headers.get("content-length", "0") == "0":
        raise BadInput("The body is empty.")
    raise UnsupportedFormat(
        "Send the photo as multipart/form-data, as application/json with base64, or as a bare image."
        if len(names) == 1
        else "Send the photos as multipart/form-data, or as application/json with base64."
    )


async def read_photo(request: Request, limits: CollectionLimits) -> PhotoUpload:
    """One photo: the form's file `file`, the JSON member `image`, or a bare image body."""
    photos, fields = await read_photos(request, {"file": "image"}, limits)
    if "file" not in photos:
        raise BadInput("There is no photo: send `image` as base64, or a form with `file`.", field="image")
    return PhotoUpload(photos["file"], fields)


@asynccontextmanager
async def read_archive(
    request: Request, limits: CollectionLimits
) -> AsyncIterator[tuple[Spool, dict[str, str]]]:
    """The form's file `file` as a spool, and its fields."""
    spool = Spool(limits.imports.archive_bytes)
    try:
        fields = await read_form(request, {"file": spool}, limits)
        if spool.size == 0:
            raise BadInput("The archive is empty.", field="file")
        yield spool, fields
    finally:
        spool.close()


def utf8(raw: bytes, what: str) -> str:
    """Text, or BadInput if the bytes are not UTF-8."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadInput(f"The text of {what} is not UTF-8.") from None


def _filled(data: bytes, name: str) -> bytes:
    if not data:
        raise BadInput("The photo is empty (0 bytes).", field=name)
    return data


def _base64(value: object, member: str, limit: int) -> bytes:
    """Base64 (RFC 4648, sections 4 and 5), in lines or in one, also behind a `data:` URL's header."""
    if not isinstance(value, str):
        raise BadInput(f"{member} must be a text of base64.", field=member)
    if value.startswith("data:"):
        head, comma, value = value.partition(",")
        if not comma or not head.endswith(";base64"):
            raise BadInput(f"{member} is a data URL without base64.", field=member)
    try:
        raw = value.encode("ascii")
        try:
            data = base64.b64decode(raw, validate=True)
        except binascii.Error:
            raw = raw.translate(_STANDARD, b" \t\r\n\v\f")
            if b"=" not in raw:  # section 5 lets it away
                raw += b"=" * (-len(raw) % 4)
            data = base64.b64decode(raw, validate=True)
    except ValueError:
        raise BadInput(f"{member} is no valid base64.", field=member) from None
    if len(data) > limit:
        raise TooLarge(f"The photo is over {size_text(limit)}.", limit_bytes=limit)
    return _filled(data, member)
