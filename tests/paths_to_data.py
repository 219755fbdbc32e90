"""Where data lies that some tests use and that is not part of the project."""

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def shared_dir(*parts: str) -> Path:
    """A folder or file of the shared test data; skips the test where it is absent."""
    base = Path(os.environ.get("MIEN_SHARED", ROOT.parent / "shared"))
    path = base.joinpath(*parts)
    if not path.exists():
        import pytest

        pytest.skip(f"needs {'/'.join(parts) or 'the shared test data'}, which is not on this machine")
    return path
