"""Which runtime opens a model: the explicit registry of runtimes."""

from pathlib import Path
from typing import Literal, assert_never

from mien.vision.runtimes.base import RuntimeChoice, Session


def open_session(path: Path, choice: RuntimeChoice | None = None) -> Session:
    """Open an ONNX file for inference.

    Raises ModelError if the file can't be read, SetupError if the chosen runtime isn't installed.
    """
    choice = choice or RuntimeChoice()
    match _chosen(choice):
        case "onnxruntime":
            from mien.vision.runtimes.onnxruntime import OnnxRuntimeSession

            return OnnxRuntimeSession(path, choice)
        case "openvino":
            from mien.vision.runtimes.openvino import OpenVinoSession

            return OpenVinoSession(path, choice)
        case unknown:
            assert_never(unknown)


def _chosen(choice: RuntimeChoice) -> Literal["onnxruntime", "openvino"]:
    """ "auto": OpenVINO where it is installed and computes in bfloat16, else ONNX Runtime.

    Measured with one thread (CPU ms, ONNX Runtime / OpenVINO float32 / OpenVINO bfloat16): SFace
    13.9 / 12.5 / 6.9, YuNet at 640 8.7 / 9.7 / 6.4, SCRFD-500m 19.2 / 19.9 / 11.4. In float32 the two
    are even, so the one that is always there does it.
    """
    if choice.name != "auto":
        return choice.name
    if choice.device == "cuda" or choice.precision == "fp32":
        return "onnxruntime"
    from mien.vision.runtimes.openvino import computes_in_bf16

    return "openvino" if computes_in_bf16() else "onnxruntime"
