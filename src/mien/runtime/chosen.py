"""The recognition pack in use: what `mien models use` wrote into the data folder."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

from mien.kit.errors import SetupError

_FILE = "config.json"


def read_chosen(data_dir: Path) -> str | None:
    """The name of the pack that was chosen for this data folder; None if none was.

    Raises SetupError when the file is damaged.
    """
    path = data_dir / _FILE
    try:
        value = json.loads(path.read_text("utf-8")).get("pack")
    except (FileNotFoundError, NotADirectoryError):
        return None  # who opens the data folder tells that it is none
    except (OSError, ValueError, AttributeError):
        raise SetupError(f"{path} can't be read; remove it, then run `mien models use`.") from None
    return value if isinstance(value, str) else None


def write_chosen(data_dir: Path, pack: str) -> None:
    """Remember `pack` for this data folder (atomic). SetupError if it can't be written."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, part = tempfile.mkstemp(dir=data_dir, prefix=_FILE)
    except OSError as error:
        raise SetupError(
            f"The data folder {data_dir} can't be used ({error.strerror}); set MIEN_DATA_DIR to one that"
            " this user may write."
        ) from None
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        json.dump({"pack": pack}, file)
        file.flush()
        os.fsync(file.fileno())
    Path(part).replace(data_dir / _FILE)
