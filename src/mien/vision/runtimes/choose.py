"""Which runtime opens a model: the explicit registry of runtimes."""

import importlib.util
from pathlib import Path
from typing import assert_never

from mien.kit.errors import SetupError
from mien.vision.runtimes.base import RuntimeChoice, Session


def openvino_installed() -> bool:
    """Whether the `openvino` extra is there (without importing it)."""
    return importlib.util.find_spec("openvino") is not None


def open_session(path: Path, choice: RuntimeChoice | None = None) -> Session:
    """Open an ONNX file for inference.

    Raises ModelError if the file can't be read, SetupError if the chosen runtime isn't installed.
    """
    choice = choice or RuntimeChoice()
    match choice.name:
        case "onnxruntime" | "auto":
            from mien.vision.runtimes.onnxruntime import OnnxRuntimeSession

            return OnnxRuntimeSession(path, choice)
        case "openvino":
            raise SetupError("OpenVINO is not installed; install mien[openvino] or choose onnxruntime.")
        case unknown:
            assert_never(unknown)
