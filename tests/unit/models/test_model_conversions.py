"""Conversions against ONNX's own reference evaluator, and what is true of every stored model."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tests.stored_models import model_path

from mien.vision.models.catalog import CATALOG
from mien.vision.models.convert import onnx_graph
from mien.vision.models.packs import PACKS, licences, model_names, recognition_packs
from mien.vision.models.prove import canonical_input, deviation, load_proof, prove, summary
from mien.vision.runtimes.base import RuntimeChoice
from mien.vision.runtimes.choose import open_session

Array = np.ndarray[Any, Any]


def graph_of(
    nodes: list[Any], shape: list[int], out: list[int], constants: dict[str, Array], opset: int
) -> Any:
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def reference(model: Any, x: Array) -> Array:
    result: Array = ReferenceEvaluator(model).run(None, {"x": x})[0]
    return result


@pytest.mark.parametrize(("axis", "block"), [(0, 4), (1, 4), (1, 3), (0, 0), (1, 0)])
def test_dequantise_is_what_the_standard_says(axis: int, block: int) -> None:
    random = np.random.default_rng(axis * 10 + block)
    weights = random.integers(-128, 128, (8, 12)).astype(np.int8)
    shape = list(weights.shape)
    scales = [shape[axis]] if not block else [n // block if i == axis else n for i, n in enumerate(shape)]
    scale = random.random(scales).astype(np.float32) + 0.1
    zero = random.integers(-20, 20, scales).astype(np.int8)
    attributes = {"axis": axis, **({"block_size": block} if block else {})}
    node = helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], **attributes)
    add = helper.make_node("Add", ["x", "d"], ["y"])
    model = graph_of([node, add], [8, 12], [8, 12], {"w": weights, "s": scale, "z": zero}, 21)
    expected = reference(model, np.zeros((8, 12), np.float32))
    np.testing.assert_array_equal(onnx_graph.dequantise(weights, scale, zero, axis, block), expected)


def test_an_onnx_graph_keeps_its_numbers_and_takes_any_batch(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    constants: dict[str, Array] = {
        "w": random.integers(-128, 128, (6, 27)).astype(np.int8),
        "s": (random.random((6, 3)) / 100).astype(np.float32),
        "z": np.zeros((6, 3), np.int8),
        "shape": np.array([6, 3, 3, 3], np.int64),
        "slope": random.random((6, 1, 1)).astype(np.float32),
        "flat": np.array([1, -1], np.int64),
        "unused": np.ones(3, np.float32),
    }
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"], axis=1, block_size=9),
        helper.make_node("Reshape", ["wd", "shape"], ["wf"]),
        helper.make_node("Conv", ["x", "wf"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("PRelu", ["c", "slope"], ["p"]),
        helper.make_node("Dropout", ["p"], ["d"]),
        helper.make_node("Reshape", ["d", "flat"], ["y"]),
    ]
    model = graph_of(nodes, [1, 3, 5, 5], [1, 150], constants, 21)
    # As SFace's file does: a weight listed among the inputs.
    model.graph.input.append(helper.make_tensor_value_info("unused", TensorProto.FLOAT, [3]))
    onnx.save(model, str(tmp_path / "in.onnx"))
    model.graph.input.pop()
    cleaned = onnx_graph.convert(tmp_path / "in.onnx", dynamic_size=False)
    onnx.save(cleaned, str(tmp_path / "out.onnx"))
    assert {n.op_type for n in cleaned.graph.node} == {"Conv", "Relu", "Mul", "Add", "Reshape"}
    assert [i.name for i in cleaned.graph.input] == ["x"]
    assert "unused" not in {t.name for t in cleaned.graph.initializer}
    x = random.standard_normal((3, 3, 5, 5)).astype(np.float32)
    expected = np.concatenate([reference(model, x[i : i + 1]) for i in range(3)])
    (y,) = open_session(tmp_path / "out.onnx", RuntimeChoice(name="onnxruntime")).run({"x": x})
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)


def test_a_dynamically_quantised_graph_no_longer_depends_on_its_batch(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    real = random.standard_normal((4, 3, 3, 3)).astype(np.float32)
    scale = np.float32(np.abs(real).max() / 127)
    weights = np.round(real / scale + 128).clip(0, 255).astype(np.uint8)
    constants: dict[str, Array] = {
        "w": weights,
        "ws": np.array(scale),
        "wz": np.array(128, np.uint8),
        "b": np.ones((1, 4, 1, 1), np.float32),
    }
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "qs", "qz"]),
        helper.make_node("Mul", ["qs", "ws"], ["scale"]),
        helper.make_node("ConvInteger", ["q", "w", "qz", "wz"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Cast", ["c"], ["cf"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["cf", "scale"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["y"]),
    ]
    onnx.save(graph_of(nodes, [1, 3, 5, 5], [1, 4, 5, 5], constants, 13), str(tmp_path / "in.onnx"))
    cleaned = onnx_graph.convert(tmp_path / "in.onnx", dynamic_size=False)
    onnx.save(cleaned, str(tmp_path / "out.onnx"))
    assert [n.op_type for n in cleaned.graph.node] == ["Conv", "Add"]
    x = random.standard_normal((2, 3, 5, 5)).astype(np.float32)
    x[1] *= 50  # a loud neighbour would coarsen the other's scale
    session = open_session(tmp_path / "out.onnx", RuntimeChoice(name="onnxruntime"))
    (both,) = session.run({"x": x})
    (alone,) = session.run({"x": x[:1]})
    np.testing.assert_allclose(both[:1], alone, rtol=1e-5, atol=1e-6)
    quantised = open_session(tmp_path / "in.onnx", RuntimeChoice(name="onnxruntime")).run({"x": x[:1]})[0]
    assert np.abs(alone - quantised).max() < 0.05 * np.abs(quantised).max()


def test_canonical_inputs_do_not_change() -> None:
    # SplitMix64's published first outputs for seed 0 end in e220a8397b1dcdaf; ours start at seed 1 << 32.
    noise = canonical_input("noise", (1, 3, 2, 2), 0, 255).reshape(-1)
    waves = canonical_input("waves", (1, 2, 2, 2), -1, 1).reshape(-1)
    np.testing.assert_allclose(
        waves, np.sin([0, 0.07, 0.11, 0.18, 0.9, 0.97, 1.01, 1.08]).astype(np.float32), atol=1e-6
    )
    z = (((1 << 32) + 1) * 0x9E3779B97F4A7C15) % (1 << 64)
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) % (1 << 64)
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) % (1 << 64)
    z ^= z >> 31
    assert noise[0] == np.float32(255 * (z >> 40) / (1 << 24))


def test_a_deviation_sees_every_kind_of_difference() -> None:
    y = np.random.default_rng(0).standard_normal((1, 40, 50)).astype(np.float32)
    expected = summary(y)
    assert deviation(expected, y) == 0.0
    nothing_sampled = y.copy().reshape(-1)
    nothing_sampled[1] += 3.0  # between two samples
    swapped = np.ascontiguousarray(y.reshape(1, 50, 40).transpose(0, 2, 1))
    broken = y.copy()
    broken[0, 0, 0] = np.nan
    for other in (nothing_sampled.reshape(y.shape), swapped, -y, 1.01 * y, broken, y[:, :39], y[..., None]):
        assert deviation(expected, other) > 1e-3


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_every_stored_model_is_as_promised(name: str) -> None:
    path = model_path(name)
    graph = onnx.load(str(path)).graph
    assert len(graph.input) == 1
    assert not {n.op_type for n in graph.node} & {"PRelu", "DequantizeLinear", "ConvInteger", "Dropout"}
    spec = CATALOG[name]
    session = open_session(path, RuntimeChoice(name="onnxruntime"))
    shape = session.inputs[0].shape
    assert shape[0] is None
    if spec.conversion.dynamic == "batch+size":
        assert shape == (None, 3, None, None)
    # The numbers of another implementation, and a batch of two as its members.
    assert prove(spec, load_proof(name), path) < 1e-4


@pytest.mark.parametrize("name", ["yunet", "scrfd-500m"])
def test_a_detector_sees_the_same_in_half_of_the_picture(name: str) -> None:
    """Away from the cut the boxes of a 320 x 640 input are those of the 640 x 640 input it is a half of."""
    session = open_session(model_path(name), RuntimeChoice(name="onnxruntime"))
    low, high = (0, 255) if name == "yunet" else (-1, 1)
    whole = canonical_input("waves", (1, 3, 640, 640), low, high)
    half = np.ascontiguousarray(whole[:, :, :, :320])
    given = session.inputs[0].name
    seen = 0
    for a, b in zip(session.run({given: whole}), session.run({given: half}), strict=True):
        if a.shape[2] != 4:
            continue
        stride = {6400: 8, 12800: 8, 1600: 16, 3200: 16, 400: 32, 800: 32}[a.shape[1]]
        cells = 640 // stride
        left = (320 - 128) // stride
        wide = a.reshape(cells, cells, -1)[:, :left]
        narrow = b.reshape(cells, cells // 2, -1)[:, :left]
        assert np.corrcoef(wide.ravel(), narrow.ravel())[0, 1] > 0.99
        seen += 1
    assert seen == 3


def test_the_catalogue_is_whole() -> None:
    for name, spec in CATALOG.items():
        assert name == spec.name
        for file in spec.files:
            assert len(file.sha256) == 64
            assert file.size_bytes > 0
        assert load_proof(name).model == name
    assert len({spec.key for spec in CATALOG.values()}) == len(CATALOG)
    for pack in PACKS.values():
        assert set(pack.models) <= set(CATALOG)
    # Every clean model has a pack, and no default pack holds a non-commercial one.
    assert set(CATALOG) == set(model_names(PACKS))
    assert [licence.id for licence in licences(PACKS["insightface-s"].models)] == [
        "LicenseRef-InsightFace-NonCommercial"
    ]
    assert all(
        licence.commercial
        for p in PACKS.values()
        if p.name != "insightface-s"
        for licence in licences(p.models)
    )


def test_spaces_of_packs() -> None:
    keys = {pack.name: pack.space.key for pack in recognition_packs()}
    assert keys == {
        "sface": "sface.r1.arcface112.128",
        "faceplugin-512": "faceplugin-512.r1.arcface112.512",
        "fused": "sface70-faceplugin30.r1.arcface112.640",
        "retinaface-sface": "sface.r2.arcface112.128",
        "insightface-s": "arcface-w600k-mbf.r1.arcface112.512",
    }
    for pack in recognition_packs():
        spaces = [CATALOG[name].space for name, _ in pack.embedders]
        assert pack.space.dim == sum(space.dim for space in spaces if space is not None)
        assert sum(weight for _, weight in pack.embedders) == pytest.approx(1.0)


def test_a_proof_is_missing() -> None:
    from mien.kit.errors import ModelError

    with pytest.raises(ModelError, match="has no proof"):
        load_proof("nobody")
