"""Cleaning a published ONNX graph, one pass per fact. Each pass changes the model in place."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from mien.kit.errors import ModelError

Array = NDArray[Any]


def convert(path: Path, *, dynamic_size: bool) -> Any:
    """The cleaned model; the batch (and with `dynamic_size` height and width) may vary."""
    model = onnx.load(str(path))
    fold_block_quantised(model)
    fold_dynamic_int8(model)
    drop_identities(model)
    rewrite_prelu(model)
    if dynamic_size:
        resize_sizes_to_scales(model)
    free_dimensions(model, size=dynamic_size)
    drop_unused(model)
    return model


def _constants(model: Any) -> dict[str, Array]:
    """Initialisers and Constant nodes by the name of their value."""
    values = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            values[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return values


def _add(model: Any, name: str, value: Array) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
    return name


def _attributes(node: Any) -> dict[str, Any]:
    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def dequantise(x: Array, scale: Array, zero: Array | None, axis: int, block: int) -> NDArray[np.float32]:
    """DequantizeLinear of ONNX opset 21: `(x - zero) * scale`, with one scale for each run of `block`
    values along `axis` (0: one for the tensor, or one for each index along `axis`)."""
    zero = np.zeros_like(scale) if zero is None else zero
    scale, zero = scale.astype(np.float32), zero.astype(np.float32)
    if block:
        cut = tuple(slice(x.shape[i]) if i == axis % x.ndim else slice(None) for i in range(x.ndim))
        scale, zero = (np.repeat(v, block, axis=axis)[cut] for v in (scale, zero))
    elif scale.ndim == 1 and x.ndim > 1 and scale.size > 1:
        shape = [1] * x.ndim
        shape[axis] = -1
        scale, zero = scale.reshape(shape), zero.reshape(shape)
    result: NDArray[np.float32] = ((x.astype(np.float32) - zero) * scale).astype(np.float32)
    return result


def fold_block_quantised(model: Any) -> None:
    """Turn DequantizeLinear (and the Reshape behind it) on constants into fp32 initialisers.

    OpenCV Zoo's int8bq files hold their weights so; neither ONNX Runtime nor OpenVINO runs them.
    """
    graph, constants = model.graph, _constants(model)
    for node in list(graph.node):
        if not node.input or any(name not in constants for name in node.input if name):
            continue
        if node.op_type == "DequantizeLinear":
            x, scale, *zero = (constants[name] for name in node.input)
            given = _attributes(node)
            value: Array = dequantise(
                x,
                scale,
                zero[0] if zero else None,
                int(given.get("axis", 1)),
                int(given.get("block_size", 0)),
            )
        elif node.op_type == "Reshape":
            value = constants[node.input[0]].reshape(constants[node.input[1]])
        else:
            continue
        constants[node.output[0]] = value
        _add(model, node.output[0], value)
        graph.node.remove(node)


def fold_dynamic_int8(model: Any) -> None:
    """Turn ConvInteger and MatMulInteger on dynamically quantised inputs into fp32 Conv and MatMul.

    DynamicQuantizeLinear takes one scale for the whole batch, so that a face's embedding would depend
    on the faces beside it (up to 11 % of its largest number). The weights keep their int8 values.
    """
    graph, constants = model.graph, _constants(model)
    made_by = {name: node for node in graph.node for name in node.output}
    read_by: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            read_by.setdefault(name, []).append(node)
    for node in [n for n in graph.node if n.op_type in ("ConvInteger", "MatMulInteger")]:
        x, weights, *zeros = node.input
        (cast,) = read_by[node.output[0]]
        (scaled,) = read_by[cast.output[0]]
        scales = made_by[next(name for name in scaled.input if name != cast.output[0])]
        scale = next(constants[name] for name in scales.input if name in constants)
        quantise = made_by[x]
        if quantise.op_type != "DynamicQuantizeLinear" or cast.op_type != "Cast" or scaled.op_type != "Mul":
            raise ModelError(
                f"The {node.op_type} node is quantised in a way that the converter does not know."
            )
        zero = constants[zeros[1]] if len(zeros) > 1 else np.zeros((), np.float32)
        axis = 0 if node.op_type == "ConvInteger" else -1
        value = dequantise(constants[weights], scale, np.broadcast_to(zero, scale.shape), axis, 0)
        name = _add(model, f"{weights}_fp32", value)
        real = helper.make_node(
            node.op_type.removesuffix("Integer"), [quantise.input[0], name], scaled.output
        )
        real.attribute.extend(node.attribute)
        graph.node.insert(list(graph.node).index(scaled), real)
        for old in (node, cast, scaled):
            graph.node.remove(old)
    drop_unread(model)


def drop_unread(model: Any) -> None:
    """Take out nodes whose outputs nothing reads, from the back."""
    kept = {o.name for o in model.graph.output}
    for node in reversed(list(model.graph.node)):
        if any(name in kept for name in node.output):
            kept.update(node.input)
        else:
            model.graph.node.remove(node)


def drop_identities(model: Any) -> None:
    """Take out Identity and Dropout (inference), joining what is before and behind them."""
    graph = model.graph
    outputs = {o.name for o in graph.output}
    for node in list(graph.node):
        if node.op_type in ("Identity", "Dropout") and node.output[0] not in outputs:
            for other in graph.node:
                for i, name in enumerate(other.input):
                    if name == node.output[0]:
                        other.input[i] = node.input[0]
            graph.node.remove(node)


def rewrite_prelu(model: Any) -> None:
    """`PReLU(x) = a x + (1 - a) relu(x)`, exact but for rounding (largest difference 1e-6).

    ONNX Runtime leaves its blocked layout at a PReLU: it cost 15 of SFace's 28 ms.
    """
    constants = _constants(model)
    nodes = []
    for i, node in enumerate(model.graph.node):
        slope = constants.get(node.input[1]) if node.op_type == "PRelu" else None
        if slope is None:
            nodes.append(node)
            continue
        x, y, p = node.input[0], node.output[0], f"prelu_{i}"
        slope = slope.astype(np.float32)
        a, b = _add(model, f"{p}_a", slope), _add(model, f"{p}_b", (1 - slope).astype(np.float32))
        nodes += [
            helper.make_node("Relu", [x], [f"{p}_relu"]),
            helper.make_node("Mul", [x, a], [f"{p}_ax"]),
            helper.make_node("Mul", [f"{p}_relu", b], [f"{p}_bx"]),
            helper.make_node("Add", [f"{p}_ax", f"{p}_bx"], [y]),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def resize_sizes_to_scales(model: Any) -> None:
    """Resize nodes with fixed target sizes become factors, so that the graph takes any input size.

    ModelError if a target is no whole multiple of its source.
    """
    constants = _constants(model)
    shapes: dict[str, list[int]] = {}
    inferred = onnx.shape_inference.infer_shapes(model)
    for info in inferred.graph.value_info:
        shapes[info.name] = [d.dim_value for d in info.type.tensor_type.shape.dim]
    for node in model.graph.node:
        if node.op_type != "Resize" or len(node.input) < 4 or node.input[3] not in constants:
            continue
        target, source = constants[node.input[3]], shapes.get(node.input[0], [])
        if (
            len(source) != 4
            or any(s <= 0 for s in source)
            or any(t % s for t, s in zip(target, source, strict=True))
        ):
            raise ModelError("A Resize node's target is no whole multiple of its source.")
        scales = np.array([t // s for t, s in zip(target, source, strict=True)], np.float32)
        name = _add(model, f"{node.output[0]}_scales", scales)
        del node.input[2:]  # region of interest stays: opset 11 wants it, empty as it is
        node.input.append(name)


def drop_unused(model: Any) -> None:
    """Take out constants that nothing reads, and graph inputs that are initialisers or unread."""
    graph = model.graph
    read = {name for node in graph.node for name in node.input} | {o.name for o in graph.output}
    for node in list(graph.node):
        if node.op_type == "Constant" and node.output[0] not in read:
            graph.node.remove(node)
    for tensor in list(graph.initializer):
        if tensor.name not in read:
            graph.initializer.remove(tensor)
    held = {t.name for t in graph.initializer}
    for value in list(graph.input):
        if value.name in held or value.name not in read:
            graph.input.remove(value)
    # Initialisers that are no inputs came with version 4 of the format.
    model.ir_version = max(model.ir_version, 4)


def free_dimensions(model: Any, *, size: bool) -> None:
    """Name the batch N (and with `size` height H and width W), and keep it through every Reshape.

    A Reshape to (1, ...) is a batch of one written down: 0 copies the input's first dimension
    instead. What this assumes is proven at pull: a batch of two must equal two of one.
    """
    graph, constants = model.graph, _constants(model)
    given = {t.name for t in graph.initializer}
    for value in graph.input:
        if value.name not in given:
            _name_dimensions(value, {0: "N", 2: "H", 3: "W"} if size else {0: "N"})
    for value in graph.output:
        _name_dimensions(value, {0: "N", 1: f"A_{value.name}"} if size else {0: "N"})
    for node in graph.node:
        if node.op_type != "Reshape" or node.input[1] not in constants:
            continue
        shape = constants[node.input[1]].copy()
        if len(shape) < 2 or shape[0] != 1:
            continue
        shape[0] = 0
        if size and len(shape) == 3 and shape[1] > 0:
            shape[1] = -1
        node.input[1] = _add(model, f"{node.output[0]}_shape", shape)
    del graph.value_info[:]


def _name_dimensions(value: Any, names: dict[int, str]) -> None:
    dims = value.type.tensor_type.shape.dim
    for i, name in names.items():
        if i < len(dims):
            dims[i].dim_param = name
