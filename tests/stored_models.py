"""Models for tests: from the model store, as `make test-setup` fills it."""

import os
from functools import lru_cache
from pathlib import Path

import platformdirs
import pytest

from mien.vision.models.store import ModelStore
from tests.given_models import FILES


@lru_cache(maxsize=1)
def store() -> ModelStore:
    """The machine's store; nothing is fetched by it in tests."""
    root = Path(os.environ.get("MIEN_MODELS_DIR", platformdirs.user_cache_path("mien") / "models"))
    return ModelStore(root, offline=True)


def model_path(name: str) -> Path:
    """The ready ONNX file of a model; skips with the reason where it was not pulled (in CI only those
    may be missing that an operator gives)."""
    if not store().ready(name):
        reason = f"model {name} is not pulled; run `make test-setup`"
        if os.environ.get("CI") and name not in FILES:
            pytest.fail(reason)
        pytest.skip(reason)
    return store().path(name)
