"""ONNX Runtime: the default runtime, on the CPU or on CUDA."""

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnxruntime

from mien.kit.errors import ModelError
from mien.vision.runtimes.base import Array, Port, RuntimeChoice

log = logging.getLogger(__name__)

_CUDA = "CUDAExecutionProvider"
_CPU = "CPUExecutionProvider"


def _ports(nodes: list[Any]) -> tuple[Port, ...]:
    return tuple(Port(n.name, tuple(d if isinstance(d, int) else None for d in n.shape)) for n in nodes)


def _options(choice: RuntimeChoice) -> Any:
    """Measured with one thread (CPU ms, YuNet at 640 / SFace): as here 7.0 / 8.5; without the layout
    optimisations of ENABLE_ALL 19.0 / 14.0; without the memory arena 10.8 / 8.6. No difference:
    memory patterns (7.0 / 8.7), denormals as zero (6.6 / 8.6), weights not pre-packed (6.9 / 8.6).
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = choice.threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3  # errors only: conversions leave harmless unused initialisers
    # A waiting worker thread must not burn the core that another request could use.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class OnnxRuntimeSession:
    """A `Session` on ONNX Runtime."""

    def __init__(self, path: Path, choice: RuntimeChoice) -> None:
        """Open the graph; ModelError if it can't be read."""
        offered = onnxruntime.get_available_providers()
        cuda = choice.device != "cpu" and _CUDA in offered
        if choice.device == "cuda" and not cuda:
            log.warning("CUDA was asked for, but this ONNX Runtime offers none: running on the CPU")
        self._session = self._open(path, choice, cuda)
        self._on_gpu: bool = self._session.get_providers()[0] == _CUDA
        if cuda and not self._on_gpu:
            log.warning("CUDA could not be started: running on the CPU")
        self.inputs = _ports(self._session.get_inputs())
        self.outputs = _ports(self._session.get_outputs())

    @staticmethod
    def _open(path: Path, choice: RuntimeChoice, cuda: bool) -> Any:
        providers = [_CUDA, _CPU] if cuda else [_CPU]
        try:
            return onnxruntime.InferenceSession(str(path), _options(choice), providers=providers)
        except Exception as error:
            if cuda:
                log.warning("CUDA could not open a model: running on the CPU")
                return OnnxRuntimeSession._open(path, choice, cuda=False)
            raise ModelError(
                f"ONNX Runtime can't read the model file {path.name}; "
                "`mien models verify` tells whether it is damaged."
            ) from error

    @property
    def runtime(self) -> str:
        return "onnxruntime-cuda-fp32" if self._on_gpu else "onnxruntime-fp32"

    @property
    def batches(self) -> bool:
        return self._on_gpu

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """See `Session.run`; the GIL is free while the graph runs."""
        try:
            outputs: list[Array] = self._session.run(None, dict(inputs))
        except Exception as error:
            raise ModelError(f"The model refused its input: {_first_line(error)}") from error
        return outputs


def _first_line(error: Exception) -> str:
    # Paths of the server stay out of messages.
    return re.sub(r"(/[^\s:]+)+", "...", str(error).split("\n", 1)[0])[:200]
