"""Conversions at pull: what the publishers ship becomes an ONNX graph that every runtime here runs.

Needs `onnx` (and `h5py` for Keras files): the extra `pull`. Nothing here runs when Mien serves.
"""

import importlib.util
from collections.abc import Mapping
from pathlib import Path
from typing import assert_never

from mien.kit.errors import ModelError, SetupError
from mien.vision.models.spec import ModelSpec


def require_pull_extra() -> None:
    """SetupError naming the extra if what conversion needs is not installed."""
    missing = [name for name in ("onnx", "h5py") if importlib.util.find_spec(name) is None]
    if missing:
        raise SetupError(
            f"Pulling models needs {' and '.join(missing)}: pip install 'mien[pull]'."
            " A machine without them can take a bundle: `mien models import FILE`."
        )


def convert(spec: ModelSpec, files: Mapping[str, Path]) -> bytes:
    """The serialised ONNX graph made of the source files (by name); ModelError if they don't fit.

    The result has initialisers that are no inputs, no PReLU nodes, fp32 weights where the source's
    were block-quantised, and the dynamic dimensions that `spec.conversion.dynamic` names.
    """
    require_pull_extra()
    import onnx.checker

    from mien.vision.models.convert import keras, onnx_graph, tfjs

    try:
        match spec.conversion.kind:
            case "onnx":
                graph = onnx_graph.convert(
                    files[spec.files[0].name], dynamic_size=spec.conversion.dynamic == "batch+size"
                )
            case "keras":
                graph = keras.convert(files[spec.files[0].name])
            case "tfjs":
                graph = tfjs.convert(files[spec.files[0].name], [files[f.name] for f in spec.files[1:]])
            case unknown:
                assert_never(unknown)
        onnx.checker.check_model(graph)
    except (SetupError, ModelError):
        raise
    except Exception as error:
        # The libraries raise many kinds; each means that the file is not what the converter knows.
        raise ModelError(f"{spec.name} could not be converted: {type(error).__name__}: {error}") from error
    data: bytes = graph.SerializeToString()
    return data
