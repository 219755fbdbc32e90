"""The whole path: bytes to faces, embeddings and attributes."""

import dataclasses
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from numpy.typing import NDArray

from mien.kit.errors import BadPhoto, ModelError, SetupError, TooLarge, UnsupportedFormat
from mien.vision.analyzer import Analyzer
from mien.vision.decode import DecodeLimits
from mien.vision.models.packs import recognition_pack
from mien.vision.models.store import ModelStore
from mien.vision.recipe import Recipe
from mien.vision.runtimes.base import RuntimeChoice
from mien.vision.runtimes.openvino import computes_in_bf16
from mien.vision.suite import Once, detector, open_analyzer
from mien.vision.values import DETECT_ONLY, Analysis, AnalyzeRequest, Embedding
from tests.photos import photo
from tests.stored_models import model_path, store
from tests.unit.vision.conftest import CPU

Encode = Callable[..., bytes]
GetPixels = Callable[[str], NDArray[np.uint8]]
PLAIN = AnalyzeRequest(quality=False)


@lru_cache(maxsize=4)
def analyzer(pack: str = "sface", choice: RuntimeChoice = CPU) -> Analyzer:
    for name in recognition_pack(pack).models:
        model_path(name)
    return open_analyzer(store(), recognition_pack(pack), choice=choice)


def embedding(analysis: Analysis, face: int = 0) -> Embedding:
    found = analysis.faces[face].embedding
    assert found is not None
    return found


def test_six_people_of_a_photo() -> None:
    analysis = analyzer().analyze(photo("six_faces").read_bytes(), AnalyzeRequest())
    assert (analysis.width, analysis.height) == (1280, 886)
    assert len(analysis.faces) == 6
    for i in range(6):
        face = analysis.faces[i]
        assert face.quality is not None
        assert (face.liveness, face.eyes, face.emotion) == (None, None, None)
        assert 0.6 <= face.face.confidence <= 1
        assert embedding(analysis, i).space == analyzer().space
        assert embedding(analysis, i).runtime == "onnxruntime-fp32"
        for j in range(i):
            assert embedding(analysis, i).score(embedding(analysis, j)) < 0.37
    assert set(analysis.timings_ms) == {"decode", "detect", "align", "embed", "quality"}


def test_only_what_was_asked_for_is_done() -> None:
    data = photo("astronaut").read_bytes()
    faces_only = analyzer().analyze(data, DETECT_ONLY)
    assert set(faces_only.timings_ms) == {"decode", "detect"}
    assert (faces_only.faces[0].embedding, faces_only.faces[0].quality) == (None, None)
    graded = analyzer().analyze(data, AnalyzeRequest(embed=False))
    assert graded.faces[0].embedding is None
    assert graded.faces[0].quality is not None


def test_a_photo_without_faces_is_an_empty_answer() -> None:
    analysis = analyzer().analyze(photo("coffee").read_bytes(), AnalyzeRequest(pose=True))
    assert analysis.faces == ()


def test_filters_keep_the_largest() -> None:
    data = photo("six_faces").read_bytes()
    everyone = analyzer().analyze(data, DETECT_ONLY).faces
    two = analyzer().analyze(data, dataclasses.replace(DETECT_ONLY, max_faces=2)).faces
    assert [f.face.box for f in two] == [f.face.box for f in everyone[:2]]
    sizes = [f.face.box.size_px for f in everyone]
    large = analyzer().analyze(data, dataclasses.replace(DETECT_ONLY, min_face_px=sorted(sizes)[3])).faces
    assert len(large) == 3
    sure = sorted(f.face.confidence for f in everyone)[3]
    certain = analyzer().analyze(data, dataclasses.replace(DETECT_ONLY, min_confidence=sure - 1e-4)).faces
    assert len(certain) == 3


@pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
def test_the_format_hardly_matters(pixels: GetPixels, encoded: Encode, name: str) -> None:
    source = pixels("astronaut")
    reference = embedding(analyzer().analyze(encoded(source, "PNG"), PLAIN))
    other = embedding(analyzer().analyze(encoded(source, name, quality=92), PLAIN))
    assert reference.score(other) > (0.999 if name in ("PNG", "BMP", "TIFF") else 0.97)


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_turned_photos_give_upright_boxes(pixels: GetPixels, encoded: Encode, orientation: int) -> None:
    source = pixels("astronaut")
    reference = analyzer().analyze(encoded(source, "PNG"), PLAIN)
    turns = {1: 0, 3: 2, 6: 1, 8: -1}[orientation]
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(np.rot90(source, turns))
    turned = analyzer().analyze(encoded(stored, "PNG", exif=exif.tobytes()), PLAIN)
    assert turned.faces[0].face.box.x == pytest.approx(reference.faces[0].face.box.x, abs=0.01)
    assert embedding(turned).score(embedding(reference)) > 0.9999


def enlarged(pixels: NDArray[np.uint8], width: int, height: int) -> NDArray[np.uint8]:
    return np.array(PIL.Image.fromarray(pixels).resize((width, height), PIL.Image.Resampling.BICUBIC))


def test_twelve_megapixels_give_the_same_face(pixels: GetPixels, encoded: Encode) -> None:
    """The scaled decode finds the same box (within 2 px at 640) and the same person."""
    source = np.ascontiguousarray(pixels("astronaut")[:384])
    small = analyzer().analyze(encoded(source, "JPEG", quality=95), PLAIN)
    big = analyzer().analyze(encoded(enlarged(source, 4000, 3000), "JPEG", quality=92), PLAIN)
    assert (big.width, big.height) == (4000, 3000)
    zoom = 4000 / 512
    ours, theirs = big.faces[0].face.box, small.faces[0].face.box
    assert ours.x / zoom == pytest.approx(theirs.x, abs=2)
    assert ours.width / zoom == pytest.approx(theirs.width, abs=3)
    assert embedding(big).score(embedding(small)) > 0.95


def test_small_faces_in_big_photos_are_cut_from_the_full_decode(pixels: GetPixels, encoded: Encode) -> None:
    source = pixels("astronaut")
    crowd = np.full((3000, 4000, 3), 128, np.uint8)
    crowd[1200:1712, 1500:2012] = source  # a face of 90 px
    alone = analyzer().analyze(encoded(source, "JPEG", quality=95), PLAIN)
    lost = analyzer().analyze(encoded(crowd, "JPEG", quality=95), PLAIN)
    thorough = dataclasses.replace(PLAIN, thorough=True)
    found = analyzer().analyze(encoded(crowd, "JPEG", quality=95), thorough)
    assert len(lost.faces) == len(found.faces) == 1
    assert embedding(found).score(embedding(alone)) > 0.95
    assert embedding(lost).score(embedding(alone)) > 0.95  # found at 14 px, refined


@pytest.mark.skipif(not computes_in_bf16(), reason="OpenVINO is not installed, or this CPU has no bfloat16")
@pytest.mark.parametrize("pack", ["sface", "faceplugin-512", "fused"])
def test_both_runtimes_give_one_space_from_bytes_on(pack: str) -> None:
    """Detection in bfloat16 included: members of a compatibility class agree by more than 0.999."""
    for name in ("six_faces", "astronaut", "portrait"):
        data = photo(name).read_bytes()
        ours = analyzer(pack, CPU).analyze(data, PLAIN)
        theirs = analyzer(pack, RuntimeChoice(name="openvino")).analyze(data, PLAIN)
        assert len(ours.faces) == len(theirs.faces)
        assert embedding(theirs).runtime.startswith("openvino-")
        for face in range(len(ours.faces)):
            nearest = max(embedding(ours, face).score(embedding(theirs, j)) for j in range(len(theirs.faces)))
            assert nearest > 0.999


def test_attributes_come_with_their_models() -> None:
    for name in ("faceplugin-pose", "faceplugin-eyes", "faceplugin-liveness", "fer-xception", "nanodet"):
        model_path(name)
    request = AnalyzeRequest(pose=True, eyes=True, liveness=True, emotion=True, objects=True)
    analysis = analyzer().analyze(photo("astronaut").read_bytes(), request)
    (face,) = analysis.faces
    assert face.eyes is not None
    assert face.eyes.left_open > 0.5
    assert face.liveness is not None
    assert face.emotion is not None
    assert face.emotion.label == "happy"
    assert any(seen.label == "person" for seen in analysis.objects)
    assert {"attributes", "objects"} <= set(analysis.timings_ms)


def test_many_threads_get_what_one_gets() -> None:
    names = ("six_faces", "astronaut", "portrait")
    data = {name: photo(name).read_bytes() for name in names}
    expected = {name: analyzer().analyze(data[name], AnalyzeRequest()) for name in names}
    wrong: list[str] = []

    def work(start: int) -> None:
        for n in range(6):
            name = names[(start + n) % 3]
            got = analyzer().analyze(data[name], AnalyzeRequest())
            if (
                len(got.faces) != len(expected[name].faces)
                or embedding(got).score(embedding(expected[name])) < 0.9999
            ):
                wrong.append(name)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_bad_photos_say_why() -> None:
    for data, error in (
        (b"", BadPhoto),
        (b"hello, text", UnsupportedFormat),
        (b"\xff\xd8\xff\xe0", BadPhoto),
    ):
        with pytest.raises(error):
            analyzer().analyze(data, AnalyzeRequest())
    for name in recognition_pack("sface").models:
        model_path(name)
    tight = open_analyzer(
        store(), recognition_pack("sface"), choice=CPU, limits=DecodeLimits(max_pixels=1000)
    )
    with pytest.raises(TooLarge):
        tight.analyze(photo("astronaut").read_bytes(), DETECT_ONLY)


def test_missing_models_and_unknown_families_say_so(tmp_path: Path) -> None:
    empty = ModelStore(tmp_path, offline=True)
    with pytest.raises(ModelError, match="mien models pull"):
        open_analyzer(empty, recognition_pack("sface"))
    session = analyzer()
    with pytest.raises(SetupError, match="detect no faces"):
        detector("sface", session)  # type: ignore[arg-type]
    with pytest.raises(SetupError):
        Recipe(detect_px=100)


def test_once_makes_one_and_tries_again_after_a_failure() -> None:
    made: list[object] = []

    def make() -> object:
        made.append(object())
        if len(made) == 1:
            raise ModelError("not there yet")
        return made[-1]

    once = Once(make)
    with pytest.raises(ModelError):
        once()
    assert once() is once()
    assert len(made) == 2
