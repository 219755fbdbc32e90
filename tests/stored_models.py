"""Models for tests: from the model store's cache, as `make test-setup` fills it."""

import os
from pathlib import Path

import platformdirs
import pytest


def model_path(name: str) -> Path:
    """The ready ONNX file of a model; skips with the reason where it was not pulled."""
    root = Path(os.environ.get("MIEN_MODELS_DIR", platformdirs.user_cache_path("mien") / "models"))
    ready = sorted((root / name).glob("*/model.onnx"))
    if not ready:
        pytest.skip(f"model {name} is not pulled; run `make test-setup`")
    return ready[-1]
