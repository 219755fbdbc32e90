"""OpenVINO on the CPU: an extra, chosen where the CPU computes in bfloat16."""

import importlib.util
import os
import queue
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from mien.kit.errors import ModelError, SetupError
from mien.vision.runtimes.base import Array, Port, RuntimeChoice


def installed() -> bool:
    """Whether the `openvino` extra is there (without importing it)."""
    return importlib.util.find_spec("openvino") is not None


@lru_cache(maxsize=1)
def _core() -> Any:
    import openvino

    return openvino.Core()


@lru_cache(maxsize=1)
def computes_in_bf16() -> bool:
    """Whether this CPU has bfloat16 arithmetic (AVX-512 BF16 or AMX) and OpenVINO is installed."""
    return installed() and "BF16" in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _port(node: Any) -> Port:
    shape = tuple(d.get_length() if d.is_static else None for d in node.get_partial_shape())
    return Port(node.get_any_name(), shape)


class OpenVinoSession:
    """A `Session` on OpenVINO's CPU plugin."""

    batches = False

    def __init__(self, path: Path, choice: RuntimeChoice) -> None:
        """Open the graph; ModelError if it can't be read, SetupError without the extra."""
        if not installed():
            raise SetupError("OpenVINO is not installed: install mien[openvino], or choose onnxruntime.")
        bf16 = computes_in_bf16() if choice.precision == "auto" else choice.precision == "bf16"
        parallel = choice.parallel or os.cpu_count() or 1
        try:
            model = _core().read_model(str(path))
            self.inputs = tuple(_port(node) for node in model.inputs)
            self.outputs = tuple(_port(node) for node in model.outputs)
            # Networks of one input size are compiled for one photo at a time, since a free batch
            # costs more than it gives (SFace in bf16: 7.9 ms for a fixed batch, 13 for a free one).
            # A free height and width costs little (YuNet: 3.4 against 2.9 ms) and saves a
            # compilation of 0.2 s for each of the 40 shapes that photos are fitted to.
            self._one_by_one = all(_only_batch_is_free(port) for port in self.inputs)
            if self._one_by_one:
                model.reshape({port.name: [1, *port.shape[1:]] for port in self.inputs})
            compiled = _core().compile_model(
                model,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": "bf16" if bf16 else "f32",
                    "NUM_STREAMS": parallel,
                    "INFERENCE_NUM_THREADS": parallel * choice.threads,
                    "ENABLE_CPU_PINNING": False,  # containers and neighbours share these cores
                },
            )
        except Exception as error:
            raise ModelError(
                f"OpenVINO can't read the model file {path.name}; "
                "`mien models verify` tells whether it is damaged."
            ) from error
        self.runtime = "openvino-bf16" if bf16 else "openvino-fp32"
        # A request holds its own activations and is used by one thread at a time; more callers
        # than requests wait here.
        self._idle: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(parallel):
            request = compiled.create_infer_request()
            if self._one_by_one:
                # The first run of a request makes its kernels and streams: here, where no other thread
                # does the same. About one start in a hundred stood still early on, and two threads'
                # first runs at once are the suspect.
                self._infer(
                    request, {port.name: np.zeros([1, *_fixed(port)], np.float32) for port in self.inputs}
                )
            self._idle.put(request)

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """See `Session.run`; N photos for a network of one input size run one after the other."""
        request = self._idle.get()
        try:
            if not self._one_by_one:
                return self._infer(request, inputs)
            count = len(next(iter(inputs.values())))
            if count == 1:
                return self._infer(request, inputs)
            rows = [self._infer(request, {k: v[i : i + 1] for k, v in inputs.items()}) for i in range(count)]
            return [np.concatenate(column) for column in zip(*rows, strict=True)]
        except Exception as error:
            raise ModelError(f"The model refused its input (shapes {_shapes(inputs)}).") from error
        finally:
            self._idle.put(request)

    @staticmethod
    def _infer(request: Any, inputs: Mapping[str, Array]) -> list[Array]:
        # Inputs are read in place; outputs lie in the request's memory and are copied out.
        results = request.infer(dict(inputs), share_inputs=True, share_outputs=True)
        return [np.array(value, np.float32) for value in results.values()]


def _only_batch_is_free(port: Port) -> bool:
    return port.shape[:1] == (None,) and None not in port.shape[1:]


def _fixed(port: Port) -> list[int]:
    """The sides of a port of which only the batch is free."""
    return [side for side in port.shape[1:] if side is not None]


def _shapes(inputs: Mapping[str, Array]) -> str:
    return ", ".join(f"{name} {value.shape}" for name, value in inputs.items())
