"""Embedders against their references; what runtimes and fusions must keep."""

import threading
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from mien.kit.errors import ModelError, SetupError
from mien.vision.align import chip
from mien.vision.detect import FaceFinder
from mien.vision.models.arcface import faceplugin_512, insightface, unit
from mien.vision.models.base import Chips
from mien.vision.models.fused import FlipAveraged, Fused
from mien.vision.models.planes import to_planes
from mien.vision.models.sface import sface
from mien.vision.models.yunet import YuNet
from mien.vision.runtimes.base import RuntimeChoice, Session
from mien.vision.runtimes.choose import open_session
from mien.vision.runtimes.openvino import installed
from mien.vision.suite import embedder
from mien.vision.values import Face, Image
from tests.paths_to_data import shared_dir
from tests.stored_models import model_path
from tests.unit.vision.conftest import CPU

GetPixels = Callable[[str], NDArray[np.uint8]]
Opened = Callable[..., Session]


@pytest.fixture
def faces(opened: Opened, pixels: GetPixels) -> tuple[Image, list[Face]]:
    source = pixels("six_faces")
    image = Image(source, (source.shape[1], source.shape[0]))
    return image, FaceFinder(YuNet(opened("yunet"))).find(image, 0.6)


@pytest.fixture
def chips(faces: tuple[Image, list[Face]]) -> Chips:
    image, found = faces
    return np.stack([chip(image, face.landmarks) for face in found])


def test_sface_and_alignment_are_opencvs(opened: Opened, faces: tuple[Image, list[Face]]) -> None:
    """`cv2.FaceRecognizerSF` on the same file, photo and points: `alignCrop`, then `feature`."""
    image, found = faces
    reference = cv2.FaceRecognizerSF.create(str(model_path("sface")), "")
    bgr = np.ascontiguousarray(image.pixels[:, :, ::-1])
    ours = sface(opened("sface"))
    for face in found:
        box = [face.box.x, face.box.y, face.box.width, face.box.height]
        row = np.array([*box, *face.landmarks.ravel(), face.confidence], np.float32)
        aligned = reference.alignCrop(bgr, row)
        made = chip(image, face.landmarks)
        assert np.abs(aligned[:, :, ::-1].astype(int) - made).mean() < 1.5
        feature = unit(np.array(reference.feature(aligned), np.float32))[0]
        assert float(feature @ ours(made[None])[0]) > 0.999


def test_pixels_are_scaled_as_each_family_wants() -> None:
    pixels = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    raw = to_planes(pixels)
    assert raw.dtype == np.float32
    assert raw.flags.c_contiguous
    assert np.array_equal(raw, pixels.transpose(0, 3, 1, 2).astype(np.float32))
    assert np.array_equal(to_planes(pixels, bgr=True), raw[:, ::-1])
    assert np.array_equal(to_planes(pixels[0], bgr=True), raw[:1, ::-1])
    scaled = to_planes(pixels, mean=127.5, divisor=128.0)
    np.testing.assert_allclose(scaled, (raw - 127.5) / 128.0, rtol=1e-6)


@pytest.mark.parametrize("name", ["sface", "faceplugin-512"])
def test_several_faces_at_once_are_each_face_alone(opened: Opened, chips: Chips, name: str) -> None:
    embed = {"sface": sface, "faceplugin-512": faceplugin_512}[name](opened(name))
    together = embed(chips)
    assert together.shape == (6, embed.dim)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1.0, atol=1e-5)
    for i in range(6):
        assert float(together[i] @ embed(chips[i : i + 1])[0]) > 0.99999
    assert embed(chips[:0]).shape == (0, embed.dim)
    others = together @ together.T - np.eye(6)
    assert others.max() < 0.5  # six people


def test_insightface_tells_people_apart(chips: Chips) -> None:
    path = shared_dir("models-noncommercial", "arcface_w600k_mbf_int8.onnx")
    embed = insightface(open_session(path, CPU))
    vectors = embed(chips)
    assert vectors.shape == (6, 512)
    assert (vectors @ vectors.T - np.eye(6)).max() < 0.3
    softened = np.stack([cv2.GaussianBlur(c, (0, 0), 1.0) for c in chips])
    assert (np.einsum("ij,ij->i", vectors, embed(np.asarray(softened, np.uint8))) > 0.6).all()


def test_the_fused_score_is_the_weighted_mean_of_scores(opened: Opened, chips: Chips) -> None:
    a, b = sface(opened("sface")), faceplugin_512(opened("faceplugin-512"))
    fused = Fused([(0.7, a), (0.3, b)])
    assert fused.dim == 640
    assert fused.runtime == "onnxruntime-fp32"
    vectors, of_a, of_b = fused(chips), a(chips), b(chips)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    expected = 0.7 * of_a @ of_a.T + 0.3 * of_b @ of_b.T
    np.testing.assert_allclose(vectors @ vectors.T, expected, atol=1e-5)
    with pytest.raises(SetupError):
        Fused([(0.7, a), (0.7, b)])


def test_flip_averaging_does_not_care_for_mirrors(opened: Opened, chips: Chips) -> None:
    embed = FlipAveraged(sface(opened("sface")))
    mirrored = np.ascontiguousarray(chips[:, :, ::-1])
    np.testing.assert_allclose(embed(chips), embed(mirrored), atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(embed(chips), axis=1), 1.0, atol=1e-5)


def test_a_model_that_gives_nothing_is_an_error() -> None:
    for broken in (np.zeros((1, 4), np.float32), np.full((1, 4), np.nan, np.float32)):
        with pytest.raises(ModelError):
            unit(broken)


# Runtimes


@pytest.mark.skipif(not installed(), reason="OpenVINO is not installed")
@pytest.mark.parametrize("name", ["sface", "faceplugin-512"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino_and_onnxruntime_give_one_space(
    opened: Opened, chips: Chips, name: str, precision: str
) -> None:
    choice = RuntimeChoice(name="openvino", precision="bf16" if precision == "bf16" else "fp32")
    other = embedder(name, lambda of: opened(name, of), choice)
    assert other.runtime == f"openvino-{precision if name == 'sface' else 'fp32'}"
    reference = embedder(name, lambda of: opened(name, of), CPU)
    scores = np.einsum("ij,ij->i", reference(chips), other(chips))
    assert scores.min() > 0.999


CHOICES = [CPU, RuntimeChoice(name="openvino")]


@pytest.mark.parametrize("choice", CHOICES, ids=["onnxruntime", "openvino"])
def test_one_session_serves_many_threads(opened: Opened, chips: Chips, choice: RuntimeChoice) -> None:
    if choice.name == "openvino" and not installed():
        pytest.skip("OpenVINO is not installed")
    embed, detect = sface(opened("sface", choice)), YuNet(opened("yunet", choice))
    expected = embed(chips)
    canvases = [np.full((32 * n, 64, 3), 50 * n, np.uint8) for n in (2, 3, 4)]
    canvases[1][:64, :64] = cv2.resize(chips[0], (64, 64))
    seen = [detect(c, 0.3).scores.tolist() for c in canvases]
    wrong: list[object] = []

    def work(start: int) -> None:
        for n in range(12):
            i = (start + n) % 6
            if not np.allclose(embed(chips[i : i + 1])[0], expected[i], atol=1e-4):
                wrong.append(i)
            if not np.allclose(detect(canvases[i % 3], 0.3).scores, seen[i % 3], atol=1e-4):
                wrong.append(("canvas", i % 3))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("choice", CHOICES, ids=["onnxruntime", "openvino"])
def test_a_wrong_shape_and_a_broken_file_are_model_errors(
    opened: Opened, choice: RuntimeChoice, tmp_path: Path
) -> None:
    if choice.name == "openvino" and not installed():
        pytest.skip("OpenVINO is not installed")
    session = opened("sface", choice)
    with pytest.raises(ModelError) as caught:
        session.run({session.inputs[0].name: np.zeros((1, 3, 50, 50), np.float32)})
    assert "/" not in caught.value.message.replace("(", "")

    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"this is no graph")
    with pytest.raises(ModelError, match=r"model\.onnx") as caught:
        open_session(broken, choice)
    assert str(tmp_path) not in caught.value.message
    good = session.run({session.inputs[0].name: np.zeros((1, 3, 112, 112), np.float32)})
    assert good[0].shape == (1, 128)


def test_outputs_belong_to_the_caller(opened: Opened) -> None:
    for choice in CHOICES if installed() else CHOICES[:1]:
        session = opened("sface", choice)
        name = session.inputs[0].name
        first = session.run({name: np.full((1, 3, 112, 112), 10, np.float32)})[0]
        kept = first.copy()
        session.run({name: np.full((1, 3, 112, 112), 200, np.float32)})
        assert np.array_equal(first, kept)
        first[:] = 0  # and may be written to


def test_cuda_that_is_not_there_falls_back_to_the_cpu() -> None:
    session = open_session(model_path("sface"), RuntimeChoice(name="onnxruntime", device="cuda"))
    assert session.runtime in ("onnxruntime-fp32", "onnxruntime-cuda-fp32")
    assert session.batches == (session.runtime == "onnxruntime-cuda-fp32")


def test_choices_out_of_range_are_refused() -> None:
    for threads, parallel in ((0, 0), (1000, 0), (1, -1)):
        with pytest.raises(SetupError):
            RuntimeChoice(threads=threads, parallel=parallel)
