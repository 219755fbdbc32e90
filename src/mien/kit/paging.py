"""Cursors: opaque, bound to the query that made them."""

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from typing import Generic, TypeVar

from mien.kit.errors import BadInput

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """One page of a list; `next_cursor` is None on the last one."""

    items: tuple[T, ...]
    next_cursor: str | None = None


def _tag(query: str) -> str:
    return hashlib.sha256(query.encode()).hexdigest()[:12]


def encode_cursor(query: str, position: str) -> str:
    """A cursor for `query` (any text that names the list and its filters) after `position`."""
    raw = json.dumps([_tag(query), position], separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def decode_cursor(query: str, cursor: str) -> str:
    """The position in `cursor`; BadInput if it is damaged or was made by another query."""
    try:
        raw = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
        tag, position = json.loads(raw)
    except (ValueError, binascii.Error, TypeError):
        raise BadInput("The cursor is damaged; start again without one.", field="cursor") from None
    if not isinstance(tag, str) or not isinstance(position, str) or tag != _tag(query):
        raise BadInput(
            "The cursor belongs to another query; use it only with the filters that made it.", field="cursor"
        )
    return position
