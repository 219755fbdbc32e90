"""Sizes as people say them."""


def size_text(count: int) -> str:
    """Bytes: `33554432` -> "32 MiB", `1500` -> "1500 bytes"."""
    return f"{count / (1 << 20):.4g} MiB" if count >= 1 << 20 else f"{count} bytes"
