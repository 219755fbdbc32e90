"""The peers that `make bench` compares with; runs in `.venv-bench`, one peer to a process.

Usage: python -P peers.py PEER MODELS_DIR, then one JSON object a line on stdin: {"photo": path, "rounds": n}.
Answers one line each: {"faces": n, "cpu_ms": [...]}: processor time of the whole process per photo, from
encoded bytes to embeddings, pinned to one processor so that no peer's threads run beside.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

Work = Callable[[bytes], int]


def opencv(models: Path) -> Work:
    """FaceDetectorYN and FaceRecognizerSF at the photo's own size, as DeepFace and most scripts use them."""
    import cv2
    import numpy as np

    cv2.setNumThreads(1)
    detector = cv2.FaceDetectorYN.create(str(models / "yunet.onnx"), "", (320, 320))
    recogniser = cv2.FaceRecognizerSF.create(str(models / "sface.onnx"), "")

    def work(data: bytes) -> int:
        image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        detector.setInputSize((image.shape[1], image.shape[0]))
        found = detector.detect(image)[1]
        faces = [] if found is None else list(found)
        for face in faces:
            recogniser.feature(recogniser.alignCrop(image, face))
        return len(faces)

    return work


def insightface(models: Path) -> Work:
    """The `insightface` package: SCRFD at 640x640 and ArcFace on the same weights that we are given."""
    import cv2
    import numpy as np
    from insightface.app.common import Face
    from insightface.model_zoo import get_model

    cv2.setNumThreads(1)
    detector = get_model(str(models / "scrfd_500m_bnkps.onnx"), providers=["CPUExecutionProvider"])
    recogniser = get_model(str(models / "arcface_w600k_mbf_int8.onnx"), providers=["CPUExecutionProvider"])
    detector.prepare(-1, input_size=(640, 640))
    recogniser.prepare(-1)

    def work(data: bytes) -> int:
        image: Any = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        boxes, points = detector.detect(image, max_num=0)
        for box, five in zip(boxes, points, strict=True):
            recogniser.get(image, Face(bbox=box[:4], kps=five, det_score=box[4]))
        return len(boxes)

    return work


def face_recognition(models: Path) -> Work:
    """The `face_recognition` package (dlib): HOG detection, 128-D encodings, its defaults."""
    import io

    import face_recognition as package

    def work(data: bytes) -> int:
        image = package.load_image_file(io.BytesIO(data))
        places = package.face_locations(image)
        return len(package.face_encodings(image, places))

    return work


PEERS: dict[str, Callable[[Path], Work]] = {
    "opencv": opencv,
    "insightface": insightface,
    "face_recognition": face_recognition,
}


def main() -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # peers print; the answers' channel stays clean
    warnings.simplefilter("ignore")
    work = PEERS[sys.argv[1]](Path(sys.argv[2]))
    for line in sys.stdin:
        order = json.loads(line)
        data = Path(order["photo"]).read_bytes()
        faces, times = 0, []
        for _ in range(order["rounds"]):
            start = time.process_time()
            faces = work(data)
            times.append((time.process_time() - start) * 1e3)
        answers.write(json.dumps({"faces": faces, "cpu_ms": times}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
