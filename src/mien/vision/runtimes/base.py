"""The port of model runtimes: a session runs one graph; who opens it says where and how exactly."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from mien.kit.errors import SetupError

Array = NDArray[np.float32]

RuntimeName = Literal["auto", "onnxruntime", "openvino"]
Device = Literal["auto", "cpu", "cuda"]
Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True, slots=True)
class Port:
    """An input or output of a graph; None in `shape` is a dimension that may vary."""

    name: str
    shape: tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class RuntimeChoice:
    """Where and how models run.

    `name` "auto": the fastest of what is installed on this machine for the model at hand. A suite
    uses OpenVINO for embedders only (`suite.open_analyzer` says why).
    `device` "auto": CUDA where ONNX Runtime offers it, else the CPU; "cuda" where there is none
    falls back to the CPU (with a warning in the log).
    `precision` "auto": bfloat16 in OpenVINO on CPUs that compute in it, else float32.
    `threads` is per running call. One is best for a server: calls side by side scale, threads
    within a call cost 0-25 % more CPU per embedding and up to twice as much for YuNet.
    `parallel` is how many calls are to run at once at full speed (0: one per CPU core); more
    calls than that are correct, and wait.
    """

    name: RuntimeName = "auto"
    device: Device = "auto"
    precision: Precision = "auto"
    threads: int = 1
    parallel: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.threads <= 256:
            raise SetupError("The number of threads per model call is 1 to 256.")
        if not 0 <= self.parallel <= 1024:
            raise SetupError("The number of parallel model calls is 0 (one per core) to 1024.")


class Session(Protocol):
    """One loaded graph. Safe to call from many threads at once; no call holds the GIL for long."""

    @property
    def inputs(self) -> tuple[Port, ...]:
        """In graph order."""
        ...

    @property
    def outputs(self) -> tuple[Port, ...]:
        """In graph order."""
        ...

    @property
    def runtime(self) -> str:
        """What computes, down to the precision: "onnxruntime-fp32", "openvino-bf16", ..."""
        ...

    @property
    def batches(self) -> bool:
        """True where one run over N inputs is faster than N runs: on a GPU, not on a CPU."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> list[Array]:
        """The outputs in graph order, float32, owned by the caller.

        Raises ModelError if the graph refuses the inputs (a wrong shape, say).
        """
        ...
