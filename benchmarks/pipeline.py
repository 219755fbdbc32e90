"""Our pipeline against its own models, against itself on two cores, and on larger photos.

    python -m benchmarks.pipeline [--rounds 25] [--json out.json]

All ratios come from one run: what is compared takes turns within each round, and medians of processor
time are divided, so that a slow minute falls on both sides. Only "two at once" needs wall-clock time
(best of several) and an otherwise idle machine.
"""

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import platformdirs
from numpy.typing import NDArray

from benchmarks.photos import BenchPhoto, one_face, six_faces, twelve_megapixels, two_megapixels
from mien.vision.align import chip
from mien.vision.analyzer import FIRST_LONG_SIDE_PX, Analyzer
from mien.vision.decode import open_photo
from mien.vision.models.packs import recognition_pack
from mien.vision.models.planes import to_planes
from mien.vision.models.store import ModelStore
from mien.vision.runtimes.base import RuntimeChoice
from mien.vision.runtimes.choose import open_session
from mien.vision.runtimes.openvino import computes_in_bf16
from mien.vision.suite import open_analyzer
from mien.vision.values import AnalyzeRequest

Work = Callable[[], object]
EMBED = AnalyzeRequest(quality=False)
FULL = AnalyzeRequest()


def in_turns(works: Mapping[str, Work], rounds: int) -> dict[str, float]:
    """Median processor ms of each, taken in turns after two rounds of warming up."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for n in range(rounds + 2):
        for name, work in works.items():
            start = time.process_time()
            work()
            if n >= 2:
                times[name].append((time.process_time() - start) * 1e3)
    return {name: median(spent) for name, spent in times.items()}


def raw_models(store: ModelStore, choice: RuntimeChoice, photo: BenchPhoto) -> Work:
    """The same two graphs in the same runtimes on prepared arrays: one detection, one run per face.

    The detection's input is of the size that the pipeline fits the photo to.
    """
    exact = RuntimeChoice(name="onnxruntime", threads=choice.threads)
    yunet, sface = open_session(store.path("yunet"), exact), open_session(store.path("sface"), choice)
    image = open_photo(photo.path.read_bytes()).image(FIRST_LONG_SIDE_PX).pixels
    zoom = 640 / max(image.shape[:2])
    width, height = (-(-round(v * zoom) // 32) * 32 for v in image.shape[1::-1])
    canvas = to_planes(np.asarray(cv2.resize(image, (width, height)), np.uint8), bgr=True)
    faces = [np.full((1, 3, 112, 112), 100.0 + i, np.float32) for i in range(photo.faces)]

    def work() -> None:
        yunet.run({yunet.inputs[0].name: canvas})
        for face in faces:
            sface.run({sface.inputs[0].name: face})

    return work


def opencv(store: ModelStore, photo: BenchPhoto) -> Work:
    """This environment's OpenCV (5) on the same files: `FaceDetectorYN` at the photo's size (as most use
    it) and `FaceRecognizerSF`. A hint; `make bench` compares with OpenCV 4 in its own environment."""
    detector = cv2.FaceDetectorYN.create(str(store.path("yunet")), "", (320, 320), 0.6)
    recogniser = cv2.FaceRecognizerSF.create(str(store.path("sface")), "")
    data = np.frombuffer(photo.path.read_bytes(), np.uint8)

    def work() -> None:
        image: Any = cv2.imdecode(data, cv2.IMREAD_COLOR)
        detector.setInputSize((image.shape[1], image.shape[0]))
        rows = detector.detect(image)[1]
        for row in () if rows is None else rows:
            recogniser.feature(recogniser.alignCrop(image, row))

    return work


def two_at_once(analyzer: Analyzer, data: bytes, seconds: float = 2.0, tries: int = 3) -> float:
    """How many times one thread's throughput two threads reach; the best of some tries."""

    def rate(threads: int) -> float:
        counts = [0] * threads
        end = time.perf_counter() + seconds

        def work(i: int) -> None:
            while time.perf_counter() < end:
                analyzer.analyze(data, EMBED)
                counts[i] += 1

        running = [threading.Thread(target=work, args=(i,)) for i in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        return sum(counts) / seconds

    return max(rate(2) / rate(1) for _ in range(tries))


def scaled_decode(photo: BenchPhoto) -> Mapping[str, Work]:
    """Decoding alone, in whole and for the first look, and the warp of one face."""
    data = photo.path.read_bytes()
    image = open_photo(data).image(FIRST_LONG_SIDE_PX)
    points: NDArray[np.float32] = np.array(
        [[40, 50], [73, 50], [56, 71], [42, 92], [70, 92]], np.float32
    ) * np.float32(4.0)
    return {
        "decode in whole": lambda: open_photo(data).image(),
        "decode for the first look": lambda: open_photo(data).image(FIRST_LONG_SIDE_PX),
        "align": lambda: chip(image, points),
    }


def run(store: ModelStore, rounds: int = 25) -> dict[str, dict[str, float]]:
    """{what: {figure: value}}: processor ms (medians) and ratios."""
    results: dict[str, dict[str, float]] = {}
    choices = {"onnxruntime": RuntimeChoice(name="onnxruntime")}
    if computes_in_bf16():
        choices["openvino"] = RuntimeChoice(name="openvino", precision="bf16")
    for name, choice in choices.items():
        analyzer = open_analyzer(store, recognition_pack("sface"), choice=choice)
        for photo in (one_face(), six_faces()):
            data = photo.path.read_bytes()
            took = in_turns(
                {
                    "raw models": raw_models(store, choice, photo),
                    "pipeline": lambda data=data, of=analyzer: of.analyze(data, EMBED),  # type: ignore[misc]
                    "pipeline and quality": lambda data=data, of=analyzer: of.analyze(data, FULL),  # type: ignore[misc]
                    "OpenCV 5": opencv(store, photo),
                },
                rounds,
            )
            took["share of raw speed"] = took["raw models"] / took["pipeline"]
            took["times OpenCV 5"] = took["OpenCV 5"] / took["pipeline"]
            results[f"{photo.name}, {name}"] = took
        sizes = {p.name: p.path.read_bytes() for p in (two_megapixels(), twelve_megapixels())}
        took = in_turns(
            {n: lambda data=d, of=analyzer: of.analyze(data, EMBED) for n, d in sizes.items()},  # type: ignore[misc]
            max(5, rounds // 2),
        )
        two, twelve = took.values()
        results[f"large photos, {name}"] = {**took, "12 MP to 2 MP": twelve / two}
        results[f"two at once, {name}"] = {"to one": two_at_once(analyzer, one_face().path.read_bytes())}
    results["decode, 12 MP"] = in_turns(scaled_decode(twelve_megapixels()), max(5, rounds // 2))
    return results


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25)
    parser.add_argument("--models", type=Path, default=platformdirs.user_cache_path("mien") / "models")
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    results = run(ModelStore(given.models, offline=True), given.rounds)
    for what, figures in results.items():
        print(what)
        for figure, value in figures.items():
            print(f"  {figure:<28} {value:8.2f}")
    if given.json:
        given.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
