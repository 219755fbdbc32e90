"""Make the canonical numbers that conversions are proven by, from implementations other than ours.

    python scripts/make_proofs.py [--from MODEL=FILE ...] MODEL ...

Source files are fetched through the store's own sources (or taken from --from for models whose files
an operator gives). The references:

- ONNX files: OpenCV's dnn module on the *original* file (it runs OpenCV Zoo's block-quantised files
  as they are); ONNX Runtime without optimisation on the original file where OpenCV refuses it.
- ONNX files with dynamically quantised activations: ONNX's reference evaluator, without quantising them.
- Keras files: a forward pass in NumPy float64 written here, layer by layer.
- TensorFlow.js graphs: TensorFlow.js itself (tests/tfjs).

The numbers go to src/mien/vision/models/data/proofs/MODEL.json.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from mien.kit.errors import ModelError  # noqa: E402
from mien.vision.models.catalog import CATALOG  # noqa: E402
from mien.vision.models.prove import Case, Float, Pattern, canonical_input, summary  # noqa: E402
from mien.vision.models.sources import Fetcher  # noqa: E402
from mien.vision.models.spec import LocalFile, ModelSpec  # noqa: E402

PROOFS = ROOT / "src" / "mien" / "vision" / "models" / "data" / "proofs"

# Shape and range of each model's input, as its adapter sends it.
INPUTS: dict[str, tuple[tuple[int, ...], float, float]] = {
    "yunet": ((1, 3, 640, 640), 0, 255),
    "sface": ((1, 3, 112, 112), 0, 255),
    "faceplugin-512": ((1, 3, 112, 112), -1, 1),
    "faceplugin-liveness": ((1, 3, 128, 128), 0, 255),
    "faceplugin-pose": ((1, 3, 224, 224), -2, 2),
    "faceplugin-eyes": ((1, 1, 24, 24), -1, 1),
    "fer-xception": ((1, 1, 64, 64), -1, 1),
    "human-emotion": ((1, 64, 64, 1), -1, 1),
    "faceplugin-expression": ((1, 3, 224, 224), 0, 1),
    "nanodet": ((1, 3, 416, 416), -2, 2),
    "retinaface-mobile": ((1, 3, 320, 320), -120, 140),
    "scrfd-500m": ((1, 3, 640, 640), -1, 1),
    "arcface-w600k-mbf": ((1, 3, 112, 112), -1, 1),
}

Run = Callable[[Float], list[Float]]


def onnx_reference(files: dict[str, Path]) -> tuple[str, Run]:
    """OpenCV on the original file, or ONNX Runtime without optimisation."""
    import cv2
    import onnx
    import onnxruntime

    (path,) = files.values()
    graph = onnx.load(str(path)).graph
    # What SFace's file lists as inputs behind the first are weights.
    given = graph.input[0].name
    names = [o.name for o in graph.output]
    if any(node.op_type == "DynamicQuantizeLinear" for node in graph.node):
        return int8_reference(path)

    def by_opencv(x: Float) -> list[Float]:
        net = cv2.dnn.readNetFromONNX(str(path))
        net.setInput(x, given)
        return [np.array(y) for y in net.forward(names)]

    def by_onnxruntime(x: Float) -> list[Float]:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        outputs: list[Float] = session.run(None, {given: x})
        return outputs

    name = CATALOG_BY_FILE[path.name]
    shape, low, high = INPUTS[name]
    other = f"ONNX Runtime {onnxruntime.__version__} without optimisation, on the original file"
    try:
        first = by_opencv(canonical_input("noise", shape, low, high))
    except cv2.error as error:
        print(f"{name}: OpenCV refuses it ({error.err})")
        return other, by_onnxruntime
    try:
        second = by_onnxruntime(canonical_input("noise", shape, low, high))
    except Exception as error:
        print(f"{name}: ONNX Runtime refuses the original ({type(error).__name__}); OpenCV is the reference")
    else:
        apart = max(
            float(np.abs(a.reshape(b.shape) - b).max() / np.abs(b).max())
            for a, b in zip(first, second, strict=True)
        )
        print(f"{name}: OpenCV and ONNX Runtime differ by {apart:.2g} on the original")
        if apart > 1e-3:
            return other, by_onnxruntime
        # OpenCV drops dimensions of 1 in places; the shapes are those of the graph.
        shapes = [b.shape for b in second]
        return f"OpenCV {cv2.__version__} dnn, on the original file", lambda x: [
            y.reshape(s) for y, s in zip(by_opencv(x), shapes, strict=True)
        ]
    return f"OpenCV {cv2.__version__} dnn, on the original file", by_opencv


def int8_reference(path: Path) -> tuple[str, Run]:
    """ONNX's reference evaluator on a dynamically quantised file, with activations left as they are."""
    import onnx
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.op_run import OpRun
    from onnx.reference.ops.op_conv import _conv_implementation

    class DynamicQuantizeLinear(OpRun):  # type: ignore[misc]
        def _run(self, x: Float) -> tuple[Float, Float, Float]:
            return x, np.float32(1) + np.zeros((), np.float32), np.zeros((), np.float32)

    class ConvInteger(OpRun):  # type: ignore[misc]
        def _run(self, x: Float, w: Any, x_zero: Any, w_zero: Any, **attributes: Any) -> tuple[Float]:
            given = {"auto_pad": "NOTSET", "dilations": None, "group": 1, **attributes}
            weights = w.astype(np.float32) - np.asarray(w_zero, np.float32)
            return (
                _conv_implementation(
                    x, weights, None, given["auto_pad"], given["dilations"], given["group"],
                    given["kernel_shape"], given["pads"], given["strides"],
                ).astype(np.float32),
            )  # fmt: skip

    class MatMulInteger(OpRun):  # type: ignore[misc]
        def _run(self, a: Float, b: Any, a_zero: Any, b_zero: Any) -> tuple[Float]:
            return (a @ (b.astype(np.float32) - np.asarray(b_zero, np.float32)),)

    class BatchNormalization(OpRun):  # type: ignore[misc]
        """Opset 9 and 11 in the evaluator take a momentum attribute for training; here it is inference."""

        def _run(
            self, x: Float, scale: Any, bias: Any, mean: Any, var: Any, epsilon: float, **_: Any
        ) -> tuple[Float]:  # fmt: skip
            along = (-1, *[1] * (x.ndim - 2))
            scale, bias, mean, var = (v.reshape(along) for v in (scale, bias, mean, var))
            return ((scale * (x - mean) / np.sqrt(var + epsilon) + bias).astype(np.float32),)

    ops = [DynamicQuantizeLinear, ConvInteger, MatMulInteger, BatchNormalization]
    evaluator = ReferenceEvaluator(str(path), new_ops=ops)
    name = f"ONNX {onnx.__version__} reference evaluator on the original file, activations not quantised"
    return name, lambda x: list(evaluator.run(None, {evaluator.input_names[0]: x}))


CATALOG_BY_FILE = {spec.files[0].name: spec.name for spec in CATALOG.values()}


def keras_reference(files: dict[str, Path]) -> tuple[str, Run]:
    """A forward pass over the Keras file in NumPy float64, (N, 1, H, W) in, as the ONNX graph takes it."""
    import h5py

    (path,) = files.values()
    with h5py.File(path, "r") as file:
        text = file.attrs["model_config"]
        layers = json.loads(text if isinstance(text, str) else text.decode())["config"]["layers"]
        weights: dict[str, dict[str, NDArray[Any]]] = {}
        for layer in layers:
            held: dict[str, NDArray[Any]] = {}
            file["model_weights"][layer["name"]].visititems(
                lambda name, item, held=held: (
                    held.__setitem__(name.split("/")[-1].split(":")[0], item[()].astype(np.float64))
                    if isinstance(item, h5py.Dataset)
                    else None
                )
            )
            weights[layer["name"]] = held

    def same(x: NDArray[Any], kernel: tuple[int, int], strides: tuple[int, int], fill: float) -> NDArray[Any]:
        pads = []
        for size, k, s in zip(x.shape[1:3], kernel, strides, strict=True):
            total = max((-(-size // s) - 1) * s + k - size, 0)
            pads.append((total // 2, total - total // 2))
        return np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=fill)

    def windows(x: NDArray[Any], kernel: Any, strides: Any, padding: str, fill: float) -> NDArray[Any]:
        """(N, H', W', C, kh, kw)"""
        if padding == "same":
            x = same(x, tuple(kernel), tuple(strides), fill)
        view = np.lib.stride_tricks.sliding_window_view(x, tuple(kernel), axis=(1, 2))
        return view[:, :: strides[0], :: strides[1]]

    def layer_output(kind: str, c: dict[str, Any], w: dict[str, NDArray[Any]], x: list[NDArray[Any]]) -> Any:
        a = x[0]
        match kind:
            case "Conv2D":
                y = np.einsum(
                    "nhwcij,ijco->nhwo",
                    windows(a, c["kernel_size"], c["strides"], c["padding"], 0),
                    w["kernel"],
                )
                return y + w["bias"] if c["use_bias"] else y
            case "SeparableConv2D":
                y = np.einsum(
                    "nhwcij,ijc->nhwc",
                    windows(a, c["kernel_size"], c["strides"], c["padding"], 0),
                    w["depthwise_kernel"][..., 0],
                )
                y = y @ w["pointwise_kernel"][0, 0]
                return y + w["bias"] if c["use_bias"] else y
            case "BatchNormalization":
                scale = w["gamma"] / np.sqrt(w["moving_variance"] + c["epsilon"])
                return (a - w["moving_mean"]) * scale + w["beta"]
            case "Activation" if c["activation"] == "relu":
                return np.maximum(a, 0)
            case "Activation" if c["activation"] == "softmax":
                e = np.exp(a - a.max(-1, keepdims=True))
                return e / e.sum(-1, keepdims=True)
            case "MaxPooling2D":
                return windows(a, c["pool_size"], c["strides"], c["padding"], -np.inf).max((-1, -2))
            case "Add" | "Merge":
                return x[0] + x[1]
            case "GlobalAveragePooling2D":
                return a.mean((1, 2))
            case "Dropout":
                return a
        raise SystemExit(f"unknown layer {kind}")

    def run(given: Float) -> list[Float]:
        made: dict[str, NDArray[Any]] = {}
        last = ""
        for layer in layers:
            last = layer["name"]
            if layer["class_name"] == "InputLayer":
                made[last] = given.transpose(0, 2, 3, 1).astype(np.float64)
                continue
            x = [made[link[0]] for link in layer["inbound_nodes"][0]]
            made[last] = layer_output(layer["class_name"], layer["config"], weights[last], x)
        return [made[last].astype(np.float32)]

    return f"NumPy {np.__version__} float64 forward pass over the original file", run


def tfjs_reference(files: dict[str, Path]) -> tuple[str, Run]:
    """TensorFlow.js itself, on its plain CPU backend."""
    from tests.tfjs_reference import VERSION, run_tfjs

    from mien.vision.models.convert.tfjs import output_names

    description = next(p for p in files.values() if p.suffix == ".json")
    names = output_names(json.loads(description.read_bytes()))
    return f"TensorFlow.js {VERSION}", lambda x: run_tfjs(description, x, names)


def make(spec: ModelSpec, files: dict[str, Path]) -> None:
    """Write the proof of one model."""
    match spec.conversion.kind:
        case "onnx":
            reference, run = onnx_reference(files)
        case "keras":
            reference, run = keras_reference(files)
        case "tfjs":
            reference, run = tfjs_reference(files)
    shape, low, high = INPUTS[spec.name]
    cases = []
    patterns: tuple[Pattern, ...] = ("noise", "waves")
    for pattern in patterns:
        outputs = run(canonical_input(pattern, shape, low, high))
        cases.append(Case(pattern, shape, low, high, tuple(summary(y) for y in outputs)))

    def short(value: Any) -> Any:
        if isinstance(value, float):
            return float(f"{value:.8g}")
        if isinstance(value, dict):
            return {k: short(v) for k, v in value.items()}
        return [short(v) for v in value] if isinstance(value, (list, tuple)) else value

    proof = {"model": spec.name, "reference": reference, "cases": [short(asdict(c)) for c in cases]}
    PROOFS.mkdir(parents=True, exist_ok=True)
    (PROOFS / f"{spec.name}.json").write_text(json.dumps(proof, separators=(",", ":")) + "\n")
    print(f"{spec.name}: {reference}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("models", nargs="+", choices=sorted(CATALOG))
    parser.add_argument("--from", dest="given", action="append", default=[], metavar="MODEL=FILE")
    parser.add_argument("--cache", type=Path, default=ROOT / ".cache" / "proofs")
    arguments = parser.parse_args()
    given = dict(text.split("=", 1) for text in arguments.given)
    fetcher = Fetcher(arguments.cache)
    every = [file for spec in CATALOG.values() for file in spec.files]
    for name in arguments.models:
        spec = CATALOG[name]
        with tempfile.TemporaryDirectory() as folder:
            files = {}
            for file in spec.files:
                sources = [LocalFile(Path(given[name]))] if name in given else file.sources
                kept = fetcher.obtain(name, file, sources, every, lambda _: None)
                files[file.name] = Path(folder) / file.name  # readers go by the name's ending
                files[file.name].symlink_to(kept.resolve())
            make(spec, files)


if __name__ == "__main__":
    try:
        main()
    except ModelError as error:
        raise SystemExit(error.message) from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"{error.cmd[0]} failed") from None
