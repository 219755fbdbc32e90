"""Sizes as people say them."""


def size_text(count: int) -> str:
    """Bytes: `32_000_000` -> "32 MB", `1500` -> "1500 bytes"."""
    return f"{count / 1e6:.4g} MB" if count >= 1_000_000 else f"{count} bytes"
