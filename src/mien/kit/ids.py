"""Identifiers: UUID version 7 (RFC 9562), so that rows sort by the time they were made."""

import os
import threading
import time
from uuid import UUID

_lock = threading.Lock()
_last_ms = 0
_counter = 0


def new_id() -> UUID:
    """A fresh UUIDv7; ids of one process never go backwards, even within a millisecond.

    The 12 bits of `rand_a` count up within one millisecond (RFC 9562, section 6.2, method 1);
    when they overflow, the time stamp is moved on by one.
    """
    global _last_ms, _counter
    with _lock:
        now = time.time_ns() // 1_000_000
        if now > _last_ms:
            _last_ms, _counter = now, int.from_bytes(os.urandom(1), "big")
        else:
            _counter += 1
            if _counter > 0xFFF:
                _last_ms, _counter = _last_ms + 1, 0
        ms, count = _last_ms, _counter
    tail = int.from_bytes(os.urandom(8), "big") & ((1 << 62) - 1)
    return UUID(int=(ms << 80) | (0x7 << 76) | (count << 64) | (0b10 << 62) | tail)
