"""Converted TensorFlow.js graphs against TensorFlow.js itself, on the same inputs."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from tests.photos import photo
from tests.stored_models import model_path
from tests.tfjs_reference import original, require_tfjs, run_tfjs

from mien.kit.errors import ModelError
from mien.vision.models.convert import tfjs
from mien.vision.models.prove import canonical_input
from mien.vision.runtimes.base import RuntimeChoice
from mien.vision.runtimes.choose import open_session

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module", autouse=True)
def _tfjs() -> None:
    require_tfjs()


def text(value: str) -> str:
    return base64.b64encode(value.encode()).decode()


class GraphModel:
    """Writes a graph model as TensorFlow.js reads them."""

    def __init__(self, shape: Sequence[int]) -> None:
        dims = [{"size": str(d)} for d in shape]
        self.nodes: list[dict[str, Any]] = [
            {"name": "x", "op": "Placeholder",
             "attr": {"shape": {"shape": {"dim": dims}}, "dtype": {"type": "DT_FLOAT"}}}
        ]  # fmt: skip
        self.weights: list[tuple[str, Array]] = []

    def const(self, name: str, value: Array) -> str:
        dtype = "DT_FLOAT" if value.dtype == np.float32 else "DT_INT32"
        dims = [{"size": str(d)} for d in value.shape]
        self.nodes.append(
            {"name": name, "op": "Const",
             "attr": {"dtype": {"type": dtype}, "value": {"tensor": {"dtype": dtype,
                                                                     "tensorShape": {"dim": dims}}}}}
        )  # fmt: skip
        self.weights.append((name, value))
        return name

    def op(self, name: str, op: str, inputs: Sequence[str], **attributes: Any) -> str:
        attr: dict[str, Any] = {"T": {"type": "DT_FLOAT"}}
        for key, value in attributes.items():
            match value:
                case bool():
                    attr[key] = {"b": value}
                case float():
                    attr[key] = {"f": value}
                case int():
                    attr[key] = {"i": str(value)}
                case str():
                    attr[key] = {"s": text(value)}
                case [str(), *_]:
                    attr[key] = {"list": {"s": [text(v) for v in value]}}
                case _:
                    attr[key] = {"list": {"i": [str(v) for v in value]}}
        self.nodes.append({"name": name, "op": op, "input": list(inputs), "attr": attr})
        return name

    def write(self, folder: Path, outputs: Sequence[str]) -> tuple[Path, Path]:
        specs, data = [], b""
        for name, value in self.weights:
            dtype = "float32" if value.dtype == np.float32 else "int32"
            specs.append({"name": name, "shape": list(value.shape), "dtype": dtype})
            data += value.astype("<f4" if dtype == "float32" else "<i4").tobytes()
        description = {
            "format": "graph-model",
            "modelTopology": {"node": self.nodes, "versions": {"producer": 1}},
            "weightsManifest": [{"paths": ["w.bin"], "weights": specs}],
            "signature": {
                "inputs": {"x:0": {"name": "x:0"}},
                "outputs": {f"{o}:0": {"name": f"{o}:0"} for o in outputs},
            },
        }
        (folder / "m.json").write_text(json.dumps(description))
        (folder / "w.bin").write_bytes(data)
        return folder / "m.json", folder / "w.bin"


def converted(description: Path, weights: Path, folder: Path) -> Path:
    model = tfjs.convert(description, [weights])
    onnx.checker.check_model(model)
    onnx.save(model, str(folder / "m.onnx"))
    return folder / "m.onnx"


def agree(description: Path, path: Path, given: Array, tolerance: float = 2e-5) -> None:
    """Every output of the ONNX graph equals TensorFlow.js's, relative to its largest number."""
    session = open_session(path, RuntimeChoice(name="onnxruntime", device="cpu"))
    names = tfjs.output_names(json.loads(description.read_bytes()))
    assert [port.name for port in session.outputs] == names
    expected = run_tfjs(description, given, names)
    for name, ours, theirs in zip(names, session.run({"input": given}), expected, strict=True):
        assert ours.shape == theirs.shape, name
        assert np.abs(ours - theirs).max() <= tolerance * max(1e-2, np.abs(theirs).max()), name


def test_operators_in_every_order_of_axes(tmp_path: Path) -> None:
    """All the operators that the converter knows, with transposes between them, odd sizes and strides."""
    random = np.random.default_rng(0)

    def real(*shape: int) -> Array:
        return random.standard_normal(shape).astype(np.float32)

    def ints(*values: Any) -> Array:
        return np.array(values, np.int32)

    g = GraphModel([-1, 11, 10, 4])
    g.const("k1", real(3, 3, 4, 6))
    g.const("b1", real(6))
    g.op("conv", "_FusedConv2D", ["x", "k1", "b1"], strides=[1, 2, 2, 1], dilations=[1, 1, 1, 1],
         padding="SAME", data_format="NHWC", fused_ops=["BiasAdd", "Relu6"],
         num_args=1, epsilon=0.0)  # fmt: skip
    g.const("kd", real(3, 3, 6, 2))
    g.op("depth", "DepthwiseConv2dNative", ["conv", "kd"], strides=[1, 1, 1, 1], dilations=[1, 1, 1, 1],
         padding="VALID", data_format="NHWC")  # fmt: skip
    g.op("leaky", "LeakyRelu", ["depth"], alpha=0.1)
    g.const("to_nchw", ints(0, 3, 1, 2))
    g.const("to_nhwc", ints(0, 2, 3, 1))
    g.op("t1", "Transpose", ["leaky", "to_nchw"])  # (N, 12, 4, 3)
    g.const("offset", real(12, 1, 1))
    g.op("add", "AddV2", ["t1", "offset"])
    g.const("sizes", ints(5, 7))
    g.const("axis1", np.array(1, np.int32))
    g.op("split", "SplitV", ["add", "sizes", "axis1"], num_split=2)
    g.op("sig", "Sigmoid", ["split"])
    g.op("cat", "ConcatV2", ["split:1", "sig", "axis1"], N=2)
    g.const("amounts", ints([0, 0], [0, 0], [1, 2], [0, 1]))
    g.op("pad", "Pad", ["cat", "amounts"])  # (N, 12, 7, 4)
    g.op("t2", "Transpose", ["pad", "to_nhwc"])
    g.const("fill", np.array(-5.0, np.float32))
    g.const("amounts2", ints([0, 0], [1, 0], [0, 2], [0, 0]))
    g.op("pad2", "PadV2", ["t2", "amounts2", "fill"])  # (N, 8, 6, 12)
    g.op(
        "pool",
        "MaxPool",
        ["pad2"],
        ksize=[1, 3, 3, 1],
        strides=[1, 2, 2, 1],
        padding="SAME",
        data_format="NHWC",
    )
    g.const("size", ints(9, 5))
    g.op("grow", "ResizeBilinear", ["pool", "size"], half_pixel_centers=True, align_corners=False)
    g.op("shrink", "ResizeBilinear", ["grow", "size2"], half_pixel_centers=False, align_corners=True)
    g.const("size2", ints(4, 3))
    g.const("vector", real(12))
    g.op("mul", "Mul", ["shrink", "vector"])
    g.op("t3", "Transpose", ["mul", "to_nchw"])
    g.op("both", "AddV2", ["t3", "t3b"])
    g.op("t3b", "Transpose", ["shrink", "to_nchw"])
    g.const("axes", ints(1, 2))
    g.op("mean", "Mean", ["mul", "axes"], keep_dims=False)
    g.op("Identity", "Softmax", ["mean"])
    g.const("flat", ints(1, 12, -1))
    g.op("reshape", "Reshape", ["both", "flat"])
    g.const("last", ints(0, 2, 1))
    g.op("back", "Transpose", ["reshape", "last"])
    g.op("Identity_1", "Identity", ["back"])
    description, weights = g.write(tmp_path, ["Identity", "Identity_1"])
    path = converted(description, weights, tmp_path)
    agree(description, path, real(1, 11, 10, 4))
    # Transposes are noted, not computed: one to begin with, one to end with.
    kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert kinds.count("Transpose") <= 2


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    g = GraphModel([-1, 4, 4, 1])
    g.op("Identity", "Cumsum", ["x"])
    description, weights = g.write(tmp_path, ["Identity"])
    with pytest.raises(ModelError, match="Cumsum is not known"):
        tfjs.convert(description, [weights])


def test_weights_of_another_length(tmp_path: Path) -> None:
    g = GraphModel([-1, 4, 4, 1])
    g.const("v", np.ones(3, np.float32))
    g.op("Identity", "Mul", ["x", "v"])
    description, weights = g.write(tmp_path, ["Identity"])
    weights.write_bytes(weights.read_bytes() + b"\0\0\0\0")
    with pytest.raises(ModelError, match="another length"):
        tfjs.convert(description, [weights])


def test_emotion_is_what_tensorflow_js_computes() -> None:
    description = original("human-emotion")
    path = model_path("human-emotion")
    face = cv2.imread(str(photo("astronaut")), cv2.IMREAD_GRAYSCALE)
    assert face is not None
    crops = [cv2.resize(face[60:180, 160 + dx : 280 + dx], (64, 64)) for dx in (0, 20, 200)]
    photos = ((np.stack(crops).astype(np.float32) / 255 - 0.5) * 2)[..., None]
    patterns = [canonical_input(p, (1, 64, 64, 1), -1, 1) for p in ("noise", "waves")]
    agree(description, path, np.concatenate([photos, *patterns]))


@pytest.mark.full
def test_nanodet_is_what_tensorflow_js_computes() -> None:
    description = original("nanodet")
    picture = cv2.imread(str(photo("astronaut")))
    assert picture is not None
    mean, deviation = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)
    x = (cv2.resize(picture, (416, 416)).astype(np.float32) - mean) / deviation
    agree(
        description, model_path("nanodet"), np.ascontiguousarray(x.transpose(2, 0, 1)[None], np.float32), 1e-4
    )
