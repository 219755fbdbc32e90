"""A TensorFlow.js graph model to ONNX.

Knows the operators of the emotion and NanoDet graphs of human-models. TensorFlow computes in NHWC
and ONNX in NCHW; graphs that came to TensorFlow.js by way of onnx-tf are full of transposes between
them. So a value here is a physical tensor and the order in which its axes are to be read; a
Transpose is only noted, and becomes a node where an operator needs another physical order than
there is. NanoDet's 83 transposes become the six at its outputs.
"""

import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mien.kit.errors import ModelError

Array = NDArray[Any]
Perm = tuple[int, ...]
NCHW: Perm = (0, 3, 1, 2)
NHWC: Perm = (0, 2, 3, 1)
_TYPES = {"float32": "<f4", "int32": "<i4", "float16": "<f2", "uint8": "u1", "uint16": "<u2", "bool": "?"}
_ACTIVATIONS = {"Relu", "Relu6", "Elu", "Sigmoid", "LeakyRelu"}


@dataclass(frozen=True, slots=True)
class Value:
    """TensorFlow's tensor is `np.transpose(physical, order)`; `order` is None for an unknown rank."""

    physical: str
    order: Perm | None = None


def read_weights(manifest: Sequence[dict[str, Any]], data: bytes) -> dict[str, Array]:
    """The weights by name; quantised ones are restored (value * scale + min, as TensorFlow.js does)."""
    weights: dict[str, Array] = {}
    offset = 0
    for entry in (w for group in manifest for w in group["weights"]):
        quantised = entry.get("quantization")
        dtype = np.dtype(_TYPES[(quantised or entry)["dtype"]])
        count = int(np.prod(entry["shape"], dtype=np.int64))
        array = np.frombuffer(data, dtype, count, offset).reshape(entry["shape"])
        offset += count * dtype.itemsize
        if quantised and "scale" in quantised:
            array = array.astype(np.float32) * np.float32(quantised["scale"]) + np.float32(quantised["min"])
        weights[entry["name"]] = array.astype(np.float32 if entry["dtype"] == "float32" else np.int64)
    if offset != len(data):
        raise ModelError("The weights file has another length than its description says.")
    return weights


def _attribute(node: dict[str, Any], name: str, default: Any = None) -> Any:
    value = node.get("attr", {}).get(name)
    match value:
        case None:
            return default
        case {"s": text}:
            return base64.b64decode(text).decode()
        case {"list": {"i": numbers}}:
            return [int(n) for n in numbers]
        case {"list": {"s": texts}}:
            return [base64.b64decode(t).decode() for t in texts]
        case {"list": _}:
            return []
        case {"i": number}:
            return int(number)
        case {"f": number}:
            return float(number)
        case {"b": flag}:
            return bool(flag)
        case _:
            return default


def _dims(node: dict[str, Any]) -> list[int]:
    return [int(d["size"]) for d in node["attr"]["shape"]["shape"]["dim"]]


class _Converter:
    def __init__(self, nodes: Sequence[dict[str, Any]], weights: dict[str, Array]) -> None:
        self.by_name = {node["name"]: node for node in nodes}
        self.constants = dict(weights)
        self.values: dict[str, Value] = {}
        self.nodes: list[Any] = []
        self.initialisers: dict[str, Any] = {}
        self._transposed: dict[tuple[str, Perm], str] = {}

    # -- building

    def constant(self, array: Array) -> str:
        name = f"c{len(self.initialisers)}"
        self.initialisers[name] = numpy_helper.from_array(np.ascontiguousarray(array), name)
        return name

    def emit(self, op: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> list[str]:
        names = [f"n{len(self.nodes)}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, **attributes))
        return names

    def ordered(self, value: Value, order: Perm) -> str:
        """The physical tensor with which `order` would read TensorFlow's tensor; transposes if need be."""
        if value.order is None or value.order == order:
            return value.physical
        # logical = physical[value.order]; wanted physical p satisfies p[order] = logical.
        back = [0] * len(order)
        for i, axis in enumerate(order):
            back[axis] = value.order[i]
        key = (value.physical, tuple(back))
        if key not in self._transposed:
            self._transposed[key] = self.emit("Transpose", [value.physical], perm=back)[0]
        return self._transposed[key]

    def logical(self, value: Value) -> str:
        return value.physical if value.order is None else self.ordered(value, tuple(range(len(value.order))))

    def nchw(self, value: Value) -> str:
        """The tensor in NCHW of what TensorFlow holds in NHWC."""
        # Reading NCHW by (0, 2, 3, 1) gives NHWC.
        return self.ordered(value, NHWC)

    def arrange(self, array: Array, order: Perm | None) -> Array:
        """A constant, to be broadcast against a physical tensor that is read in `order`."""
        if order is None or array.ndim == 0:
            return array
        full = array.reshape((1,) * (len(order) - array.ndim) + array.shape)
        back = np.argsort(order)
        return np.ascontiguousarray(np.transpose(full, back))

    # -- converting

    def key(self, name: str) -> str:
        return name.removesuffix(":0")

    def is_constant(self, name: str) -> bool:
        return self.key(name) in self.constants

    def array(self, name: str) -> Array:
        try:
            return self.constants[self.key(name)]
        except KeyError:
            raise ModelError(f"{name} was to be a constant and is none.") from None

    def convert(self, name: str) -> None:
        node = self.by_name[name]
        op = node["op"]
        inputs = [i for i in node.get("input", []) if not i.startswith("^")]
        if op in ("Const", "Placeholder"):
            return
        if inputs and all(self.is_constant(i) for i in inputs):
            self.constants[name] = self.folded(node, [self.array(i) for i in inputs])
            return
        result = self.operator(node, inputs)
        if isinstance(result, Value):
            self.values[name] = result
        else:
            for i, value in enumerate(result):
                self.values[name if i == 0 else f"{name}:{i}"] = value

    def folded(self, node: dict[str, Any], arrays: list[Array]) -> Array:
        """An operator on constants."""
        folds: dict[str, Callable[..., Array]] = {
            "Add": np.add, "AddV2": np.add, "Sub": np.subtract, "Mul": np.multiply, "Identity": np.asarray,
            "SparseToDense": _sparse_to_dense,
        }  # fmt: skip
        if node["op"] not in folds:
            raise ModelError(f"{node['op']} of constants is not known to the converter.")
        return folds[node["op"]](*arrays)

    def operator(self, node: dict[str, Any], inputs: list[str]) -> Value | list[Value]:
        op = node["op"]
        match op:
            case "Conv2D" | "_FusedConv2D" | "DepthwiseConv2dNative" | "FusedDepthwiseConv2dNative":
                return self.convolution(node, inputs)
            case "MaxPool":
                name = self.emit(
                    "MaxPool", [self.nchw(self.value(inputs[0]))], auto_pad=_padding(node),
                    kernel_shape=_attribute(node, "ksize")[1:3], strides=_attribute(node, "strides")[1:3],
                )[0]  # fmt: skip
                return Value(name, NHWC)
            case "Add" | "AddV2" | "BiasAdd" | "Mul" | "Sub":
                return self.binary({"AddV2": "Add", "BiasAdd": "Add"}.get(op, op), inputs)
            case "Relu" | "Relu6" | "Elu" | "Sigmoid" | "LeakyRelu":
                value = self.value(inputs[0])
                return Value(self.activation(op, value.physical, _attribute(node, "alpha", 0.2)), value.order)
            case "Identity":
                return self.value(inputs[0])
            case "Transpose":
                value, perm = self.value(inputs[0]), [int(i) for i in self.array(inputs[1])]
                order = value.order or tuple(range(len(perm)))
                return Value(value.physical, tuple(order[i] for i in perm))
            case "Pad" | "PadV2":
                return self.pad(inputs)
            case "ConcatV2":
                return self.concat(inputs)
            case "SplitV":
                value, sizes = self.value(inputs[0]), self.array(inputs[1]).astype(np.int64)
                axis = self.axis(value, int(self.array(inputs[2])))
                names = self.emit("Split", [value.physical, self.constant(sizes)], len(sizes), axis=axis)
                return [Value(n, value.order) for n in names]
            case "ResizeBilinear":
                return self.resize(node, inputs)
            case "Mean":
                value = self.value(inputs[0])
                axes = [self.axis(value, int(a)) for a in np.atleast_1d(self.array(inputs[1]))]
                keep = bool(_attribute(node, "keep_dims", False))
                given = [value.physical, self.constant(np.array(axes, np.int64))]
                name = self.emit("ReduceMean", given, keepdims=int(keep))[0]
                if keep or value.order is None:
                    return Value(name, value.order)
                left = [a for a in value.order if a not in axes]
                return Value(name, tuple(sorted(left).index(a) for a in left))
            case "Softmax":
                value = self.value(inputs[0])
                return Value(
                    self.emit("Softmax", [value.physical], axis=self.axis(value, -1))[0], value.order
                )
            case "Reshape":
                # A leading 1 is the batch written down.
                shape = self.array(inputs[1]).astype(np.int64).copy()
                if shape[0] == 1:
                    shape[0] = 0
                name = self.emit("Reshape", [self.logical(self.value(inputs[0])), self.constant(shape)])[0]
                return Value(name, tuple(range(len(shape))))
            case _:
                raise ModelError(f"The TensorFlow operator {op} is not known to the converter.")

    def value(self, name: str) -> Value:
        try:
            return self.values[self.key(name)]
        except KeyError:
            raise ModelError(f"{name} is read before it is made, or is a constant.") from None

    def axis(self, value: Value, axis: int) -> int:
        """The physical axis of a logical one."""
        if value.order is None:
            if axis < 0:
                raise ModelError("An axis from the end needs a known rank.")
            return axis
        return value.order[axis]

    def activation(self, op: str, name: str, alpha: float) -> str:
        if op == "Relu6":
            zero, six = (self.constant(np.asarray(limit, np.float32)) for limit in (0, 6))
            return self.emit("Clip", [name, zero, six])[0]
        if op == "LeakyRelu":
            return self.emit("LeakyRelu", [name], alpha=alpha)[0]
        return self.emit(op, [name])[0]

    def convolution(self, node: dict[str, Any], inputs: list[str]) -> Value:
        if _attribute(node, "data_format", "NHWC") != "NHWC":
            raise ModelError("A convolution in NCHW is not known to the converter.")
        kernel = self.array(inputs[1])  # (h, w, in, out); depthwise (h, w, in, multiplier)
        height, width, channels, last = kernel.shape
        if "epthwise" in node["op"]:
            groups, weights = (
                channels,
                kernel.transpose(2, 3, 0, 1).reshape(channels * last, 1, height, width),
            )
        else:
            groups, weights = 1, kernel.transpose(3, 2, 0, 1)
        fused = _attribute(node, "fused_ops", [])
        given = [self.nchw(self.value(inputs[0])), self.constant(weights)]
        if "BiasAdd" in fused:
            given.append(self.constant(self.array(inputs[2])))
        name = self.emit(
            "Conv", given, group=groups, kernel_shape=[height, width], auto_pad=_padding(node),
            strides=_attribute(node, "strides")[1:3],
            dilations=(_attribute(node, "dilations") or [1] * 4)[1:3],
        )[0]  # fmt: skip
        for op in fused:
            if op in _ACTIVATIONS:
                name = self.activation(op, name, _attribute(node, "leakyrelu_alpha", 0.2))
            elif op != "BiasAdd":
                raise ModelError(f"The fused operator {op} is not known to the converter.")
        return Value(name, NHWC)

    def binary(self, op: str, inputs: list[str]) -> Value:
        held = [i for i in inputs if not self.is_constant(i)]
        order = self.value(held[0]).order
        given = []
        for name in inputs:
            if self.is_constant(name):
                given.append(self.constant(self.arrange(self.array(name), order)))
            else:
                value = self.value(name)
                given.append(value.physical if order is None else self.ordered(value, order))
        return Value(self.emit(op, given)[0], order)

    def pad(self, inputs: list[str]) -> Value:
        value, amounts = self.value(inputs[0]), self.array(inputs[1]).astype(np.int64)
        fill = np.float32(self.array(inputs[2])) if len(inputs) > 2 else np.float32(0)
        if not amounts.any():
            return value
        placed = np.zeros_like(amounts)
        for logical, physical in enumerate(value.order or range(len(amounts))):
            placed[physical] = amounts[logical]
        pads = np.concatenate([placed[:, 0], placed[:, 1]])
        given = [value.physical, self.constant(pads), self.constant(np.asarray(fill, np.float32))]
        return Value(self.emit("Pad", given)[0], value.order)

    def concat(self, inputs: list[str]) -> Value:
        values = [self.value(i) for i in inputs[:-1]]
        first = values[0]
        axis = self.axis(first, int(self.array(inputs[-1])))
        given = [v.physical if first.order is None else self.ordered(v, first.order) for v in values]
        return Value(self.emit("Concat", given, axis=axis)[0], first.order)

    def resize(self, node: dict[str, Any], inputs: list[str]) -> Value:
        size = self.array(inputs[1]).astype(np.int64)
        if _attribute(node, "align_corners", False):
            mode = "align_corners"
        else:
            mode = "half_pixel" if _attribute(node, "half_pixel_centers", False) else "asymmetric"
        given = [self.nchw(self.value(inputs[0])), "", "", self.constant(size)]
        name = self.emit("Resize", given, mode="linear", coordinate_transformation_mode=mode, axes=[2, 3])[0]
        return Value(name, NHWC)


def _sparse_to_dense(places: Array, shape: Array, values: Array, fill: Array) -> Array:
    dense = np.full(shape.astype(int), fill, np.int64)
    places = np.atleast_2d(places)
    if places.size:
        dense[tuple(places.T)] = values
    return dense


def _padding(node: dict[str, Any]) -> str:
    padding = _attribute(node, "padding")
    if padding not in ("SAME", "VALID"):
        raise ModelError(f"The padding {padding} is not known to the converter.")
    return "SAME_UPPER" if padding == "SAME" else "VALID"


def _in_order(by_name: dict[str, dict[str, Any]], outputs: Sequence[str]) -> list[str]:
    """Names of the nodes that the outputs need, each behind its inputs."""
    done: dict[str, None] = {}
    stack = [(name, False) for name in reversed(outputs)]
    while stack:
        name, behind = stack.pop()
        if name in done:
            continue
        if behind:
            done[name] = None
            continue
        stack.append((name, True))
        for given in by_name[name].get("input", []):
            before = given.lstrip("^").split(":")[0]
            if before not in done:
                stack.append((before, False))
    return list(done)


def output_names(description: dict[str, Any]) -> list[str]:
    """The graph's outputs: by its signature, sorted by name ("Identity", "Identity_1", ...)."""
    signature = description.get("signature") or description.get("userDefinedMetadata", {}).get("signature")
    if not signature:
        raise ModelError("The graph model has no signature.")
    return sorted(name.split(":")[0] for name in signature["outputs"])


def convert(description_path: Path, weight_paths: Sequence[Path]) -> Any:
    """The ONNX model; ModelError if an operator is not known.

    The input keeps TensorFlow's shape with a free batch; outputs come in the order of `output_names`.
    """
    description = json.loads(description_path.read_bytes())
    nodes = description["modelTopology"]["node"]
    weights = read_weights(description["weightsManifest"], b"".join(p.read_bytes() for p in weight_paths))
    converter = _Converter(nodes, weights)
    (placeholder,) = (n for n in nodes if n["op"] == "Placeholder")
    shape = ["N", *_dims(placeholder)[1:]]
    converter.values[placeholder["name"]] = Value("input", tuple(range(len(shape))))
    names = output_names(description)
    for name in _in_order(converter.by_name, names):
        converter.convert(name)
    outputs = []
    for name in names:
        physical = converter.logical(converter.value(name))
        converter.nodes.append(helper.make_node("Identity", [physical], [name]))
        outputs.append(helper.make_empty_tensor_value_info(name))
    graph = helper.make_graph(
        converter.nodes, "tfjs", [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)], outputs,
        list(converter.initialisers.values()),
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return _with_shapes(model)


def _with_shapes(model: Any) -> Any:
    """The types and shapes of the outputs, which the format wants, by inference; the batch is N."""
    model = onnx.shape_inference.infer_shapes(model)
    for output in model.graph.output:
        output.type.tensor_type.shape.dim[0].dim_param = "N"
    del model.graph.value_info[:]
    return model
