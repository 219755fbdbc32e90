"""A Keras HDF5 file of the mini-XCEPTION kind to ONNX.

Knows the layers of face_classification's mini-XCEPTION (Conv2D, SeparableConv2D,
BatchNormalization, Activation, MaxPooling2D, Add, GlobalAveragePooling2D, Dropout), in the
functional form that Keras 1 and 2 wrote. The graph takes (N, C, H, W).
"""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from mien.kit.errors import ModelError

Float = NDArray[np.float32]


class _Weights:
    """The arrays of a layer, by Keras's own names ("kernel", "gamma", ...)."""

    def __init__(self, root: Any) -> None:
        self._root = root

    def of(self, layer: str) -> dict[str, Float]:
        found: dict[str, Float] = {}

        def visit(path: str, item: Any) -> None:
            if isinstance(item, h5py.Dataset):
                found[path.split("/")[-1].split(":")[0]] = np.asarray(item[()], np.float32)

        self._root[layer].visititems(visit)
        return found


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.initialisers: list[Any] = []

    def constant(self, name: str, value: Float) -> str:
        self.initialisers.append(numpy_helper.from_array(np.ascontiguousarray(value, np.float32), name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def layer(self, kind: str, name: str, config: dict[str, Any], w: dict[str, Float], x: list[str]) -> str:
        """Add the nodes of one Keras layer; returns the name of its output."""
        padding = "SAME_UPPER" if config.get("padding") == "same" else "VALID"
        bias = [self.constant(f"{name}_bias", w["bias"])] if config.get("use_bias") else []
        match kind:
            case "Conv2D":
                kernel = self.constant(f"{name}_kernel", w["kernel"].transpose(3, 2, 0, 1))
                return self.node(
                    "Conv", [x[0], kernel, *bias], name, strides=config["strides"], auto_pad=padding
                )
            case "SeparableConv2D":
                depth = w["depthwise_kernel"]  # (h, w, channels, 1)
                if depth.shape[3] != 1:
                    raise ModelError("A depth multiplier other than 1 is not known to the converter.")
                kernel = self.constant(f"{name}_depthwise", depth.transpose(2, 3, 0, 1))
                point = self.constant(f"{name}_pointwise", w["pointwise_kernel"].transpose(3, 2, 0, 1))
                middle = self.node(
                    "Conv", [x[0], kernel], f"{name}_middle",
                    group=depth.shape[2], strides=config["strides"], auto_pad=padding,
                )  # fmt: skip
                return self.node("Conv", [middle, point, *bias], name)
            case "BatchNormalization":
                arrays = ("gamma", "beta", "moving_mean", "moving_variance")
                inputs = [x[0], *(self.constant(f"{name}_{a}", w[a]) for a in arrays)]
                return self.node("BatchNormalization", inputs, name, epsilon=config["epsilon"])
            case "Activation" if config["activation"] == "relu":
                return self.node("Relu", x, name)
            case "Activation" if config["activation"] == "softmax":
                return self.node("Softmax", x, name, axis=1)
            case "MaxPooling2D":
                return self.node(
                    "MaxPool", x, name,
                    kernel_shape=config["pool_size"], strides=config["strides"], auto_pad=padding,
                )  # fmt: skip
            case "Add" | "Merge":
                return self.node("Add", x, name)
            case "GlobalAveragePooling2D":
                return self.node("Flatten", [self.node("GlobalAveragePool", x, f"{name}_pool")], name)
            case "Dropout":
                return x[0]
            case _:
                raise ModelError(f"The Keras layer {kind} is not known to the converter.")


def convert(path: Path) -> Any:
    """The ONNX model; ModelError if a layer is not known."""
    with h5py.File(path, "r") as file:
        text = file.attrs["model_config"]
        layers = json.loads(text if isinstance(text, str) else text.decode())["config"]["layers"]
        weights = _Weights(file["model_weights"])
        graph, made, shape, last = _Graph(), {}, [None] * 4, ""
        for layer in layers:
            name, config = layer["name"], layer["config"]
            if layer["class_name"] == "InputLayer":
                made[name], shape = "input", config["batch_input_shape"]
                continue
            inputs = [made[link[0]] for link in layer["inbound_nodes"][0]]
            last = graph.layer(layer["class_name"], name, config, weights.of(name), inputs)
            made[name] = last
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", shape[3], shape[1], shape[2]])
    result = helper.make_tensor_value_info(last, TensorProto.FLOAT, ["N", "classes"])
    built = helper.make_graph(graph.nodes, "keras", [given], [result], graph.initialisers)
    return helper.make_model(built, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
