"""Where the numbers of `vision/quality.py` and `vision/data/occlusion.json` come from.

Usage: fit_quality.py LFW_TRAIN MASKS MODELS [--write]

LFW_TRAIN is a folder of LFW photos with `pairsDevTrain.txt`; MASKS holds pictures of medical masks
(`mask_*.jpg` of the insightface wheel's data/images); MODELS is the model store's cache. Genuine pairs
get one photo degraded (blur, size, light, noise, JPEG, covers, cuts) and scored against the untouched
mate with SFace; `overall` is fitted to that score. Half of the people fit, the other half test. Prints
the weights and what dropping the worst photos gains (error versus discard, P. Grother and E. Tabassi,
Performance of Biometric Quality Measures, PAMI 2007). With --write the occlusion table is replaced.
About three minutes of one core.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mien.vision import quality
from mien.vision.align import chip
from mien.vision.models.sface import sface
from mien.vision.models.yunet import YuNet
from mien.vision.occlusion import comparisons
from mien.vision.runtimes.base import RuntimeChoice
from mien.vision.runtimes.choose import open_session
from mien.vision.values import Box, Face, Image, Pixels

Floats = NDArray[np.float64]
FIXED = {"yaw": 0.5, "pitch": 0.2, "roll": 2.5, "dark": 0.15, "flat": 0.15, "small": 0.08, "cut": 1.2}
TABLE = Path(quality.__file__).parent / "data" / "occlusion.json"
rng = np.random.default_rng(7)


class Models:
    """Detector and embedder, straight on their files."""

    def __init__(self, root: Path) -> None:
        choice = RuntimeChoice(name="onnxruntime")
        self.detect = YuNet(open_session(next((root / "yunet").glob("*/model.onnx")), choice))
        self.embed = sface(open_session(next((root / "sface").glob("*/model.onnx")), choice))

    def face(self, image: Image) -> Face | None:
        """The face nearest to the middle."""
        height, width = image.pixels.shape[:2]
        zoom = 320 / max(height, width)
        small = cv2.resize(image.pixels, (round(width * zoom), round(height * zoom)))
        canvas = np.zeros((-(-small.shape[0] // 32) * 32, -(-small.shape[1] // 32) * 32, 3), np.uint8)
        canvas[: small.shape[0], : small.shape[1]] = small
        seen = self.detect(canvas, 0.6).mapped((1 / zoom, 1 / zoom), (0.0, 0.0))
        if not len(seen):
            return None
        off = np.abs(seen.boxes[:, :2] + seen.boxes[:, 2:] / 2 - (width / 2, height / 2)).sum(axis=1)
        i = int(off.argmin())
        return Face(Box(*map(float, seen.boxes[i])), seen.landmarks[i], float(seen.scores[i]))


def image_of(pixels: Any) -> Image:
    whole = np.ascontiguousarray(np.clip(pixels, 0, 255).astype(np.uint8))
    return Image(whole, (whole.shape[1], whole.shape[0]))


def read(path: Path) -> Image:
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR)
    if pixels is None:
        raise SystemExit(f"{path} can't be read")
    return image_of(pixels[:, :, ::-1])


def covered(pixels: Pixels, face: Face, kind: str, masks: list[Pixels]) -> Any:
    """A mask (a picture of one, or painted), glasses, or a patch, drawn onto a face."""
    box, points, out = face.box, face.landmarks, pixels.copy()
    light = np.clip(
        pixels[int(points[2, 1]) % len(pixels), int(points[2, 0]) % pixels.shape[1]].mean() / 170, 0.25, 1.1
    )
    colour = [int(c) for c in np.clip(rng.integers(0, 256, 3) * light, 0, 255)]
    x, y, w, h = box.x, box.y, box.width, box.height
    if kind == "mask":
        top = points[2, 1] - rng.uniform(0.0, 0.12) * h
        onto = np.array(
            [[x, top], [x + w, top], [x + w * 0.82, y + h * 1.02], [x + w * 0.18, y + h * 1.02]], np.float32
        )
        texture = masks[int(rng.integers(len(masks) + 1)) - 1] if masks and rng.random() < 0.7 else None
        if texture is None:
            cv2.fillPoly(out, [onto.astype(np.int32)], colour)
        else:
            th, tw = texture.shape[:2]
            matrix = cv2.getPerspectiveTransform(
                np.array([[0, 0], [tw, 0], [tw, th], [0, th]], np.float32), onto
            )
            worn = (texture * light).clip(0, 255).astype(np.uint8)
            cv2.warpPerspective(worn, matrix, out.shape[1::-1], out, borderMode=cv2.BORDER_TRANSPARENT)
    elif kind == "glasses":
        apart = float(np.hypot(*(points[1] - points[0])))
        dark = [int(c) for c in rng.integers(0, 60, 3)]
        grow = rng.uniform(0.0, 0.15)
        for ex, ey in points[:2].tolist():
            axes = (int(apart * (0.3 + grow)), int(apart * (0.2 + grow)))
            cv2.ellipse(out, (int(ex), int(ey)), axes, 0, 0, 360, dark, -1)
    else:
        if kind == "hand":
            colour = [
                int(c)
                for c in pixels[int(points[2, 1]) - 4 : int(points[2, 1]) + 4].reshape(-1, 3).mean(axis=0)
            ]
        pw, ph = w * rng.uniform(0.35, 0.8), h * rng.uniform(0.3, 0.5)
        px, py = x + rng.random() * (w - pw) + pw / 2, y + rng.random() * (h - ph) + ph / 2
        cv2.ellipse(out, (int(px), int(py)), (int(pw / 2), int(ph / 2)), 0, 0, 360, colour, -1)
    return out


def degradations(masks: list[Pixels]) -> dict[str, Callable[[Pixels, Face, float], Any]]:
    """Each makes a photo worse; the strength is 0..1."""

    def motion(p: Pixels, _: Face, s: float) -> Any:
        n = int(3 + 18 * s)
        kernel, angle, middle = np.zeros((n, n), np.float32), rng.random() * np.pi, (n - 1) / 2
        for t in np.linspace(-middle, middle, 4 * n):
            kernel[round(middle + t * np.sin(angle)), round(middle + t * np.cos(angle))] = 1
        return cv2.filter2D(p, -1, kernel / kernel.sum())

    def jpeg(p: Pixels, _: Face, s: float) -> Any:
        data = cv2.imencode(".jpg", p, [cv2.IMWRITE_JPEG_QUALITY, int(40 - 38 * s)])[1]
        return cv2.imdecode(data, cv2.IMREAD_COLOR)

    def cut(p: Pixels, f: Face, s: float) -> Any:
        share, b = 0.05 + 0.5 * s, f.box
        edges = [
            p[:, int(max(0, b.x + b.width * share)) :],
            p[:, : int(b.x + b.width * (1 - share))],
            p[int(max(0, b.y + b.height * share)) :],
            p[: int(b.y + b.height * (1 - share))],
        ]
        return edges[int(rng.integers(4))]

    def small(p: Pixels, _: Face, s: float) -> Any:
        k = 1 + 9 * s
        return cv2.resize(p, (int(p.shape[1] / k), int(p.shape[0] / k)), interpolation=cv2.INTER_AREA)

    return {
        "none": lambda p, f, s: p,
        "blur": lambda p, f, s: cv2.GaussianBlur(p, (0, 0), 0.5 + 4.5 * s),
        "motion": motion,
        "small": small,
        "dark": lambda p, f, s: p * 0.5 * 0.04**s + rng.normal(0, 3 * rng.random(), p.shape),
        "bright": lambda p, f, s: p * (1 + 3 * s) + 60 * s,
        "flat": lambda p, f, s: 128 + (p - 128.0) * (1 - 0.95 * s),
        "noise": lambda p, f, s: p + rng.normal(0, 60 * s, p.shape),
        "jpeg": jpeg,
        "cut": cut,
        "mask": lambda p, f, s: covered(p, f, "mask", masks),
        "glasses": lambda p, f, s: covered(p, f, "glasses", masks),
        "patch": lambda p, f, s: covered(p, f, "patch", masks),
        "hand": lambda p, f, s: covered(p, f, "hand", masks),
    }


COVERS = ("mask", "glasses", "patch", "hand")


def logistic(x: Floats, target: Floats, offset: Floats, weight: Floats, ridge: float) -> Floats:
    """Newton's method; `target` may be a share. The last coefficient is the bias."""
    a = np.hstack([x, np.ones((len(x), 1))])
    p, w = np.zeros(a.shape[1]), weight / weight.sum()
    damp = np.diag([*np.full(x.shape[1], ridge), 1e-9])
    for _ in range(50):
        s = 1 / (1 + np.exp(-(a @ p + offset)))
        p -= np.linalg.solve(
            (a * (w * s * (1 - s))[:, None]).T @ a + damp, a.T @ (w * (s - target)) + damp @ p
        )
    return np.asarray(p)


def discard(figure: Floats, scores: Floats, threshold: float = 0.364) -> str:
    """FNMR at a score after dropping the lowest shares."""
    ordered = scores[np.argsort(figure, kind="stable")]
    shares = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3)
    return "  ".join(f"{d:.0%}: {(ordered[int(len(ordered) * d) :] < threshold).mean():.2%}" for d in shares)


def genuine(root: Path) -> Iterator[tuple[str, Path, Path]]:
    for line in (root / "pairsDevTrain.txt").read_text().splitlines()[1:]:
        parts = line.split("\t")
        if len(parts) == 3:
            name, one, two = parts
            first, second = (root / name / f"{name}_{int(i):04d}.jpg" for i in (one, two))
            yield name, first, second


def fit_occlusion(chips: list[Pixels], kinds: NDArray[Any], train: NDArray[np.bool_], *, write: bool) -> None:
    x = np.array([comparisons(c) for c in chips], np.float64)
    is_covered, plain = np.isin(kinds, COVERS), kinds == "none"
    for label, rows in (("half of the people", train), ("all", np.ones(len(x), bool))):
        usual, spread = np.median(x[rows & plain], axis=0), x[rows & plain].std(axis=0) * 2
        z = np.hstack([x, np.abs(x - usual) / spread])
        mean, scale = z[rows].mean(axis=0), z[rows].std(axis=0) + 1e-9
        balance = np.where(is_covered, 1 / is_covered[rows].sum(), 1 / (~is_covered)[rows].sum())
        scaled: Floats = np.asarray(((z - mean) / scale)[rows], np.float64)
        truth: Floats = np.asarray(is_covered[rows], np.float64)
        fitted = logistic(scaled, truth, np.zeros(len(truth)), balance[rows], 1e-3)
        weights = fitted[:-1] / scale
        odds = z @ weights
        at = float(np.quantile(odds[rows & plain], 0.95))
        if label != "all":
            print("occlusion: flagged at 5 % of bare faces, people not fitted on:")
            for kind in sorted(set(kinds.tolist())):
                of = odds[~train & (kinds == kind)]
                print(f"  {kind:8} {(of > at).mean():.1%} of {len(of)}")
    if write:
        rounded = {
            k: [round(float(v), 4) for v in a]
            for k, a in (("usual", usual), ("spread", spread), ("weights", weights))
        }
        about = json.loads(TABLE.read_text("utf-8"))["about"]
        TABLE.write_text(
            json.dumps({"about": about, **rounded, "bias": round(-at, 4)}, indent=1) + "\n", "utf-8"
        )


def main() -> None:
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("lfw", type=Path)
    args.add_argument("masks", type=Path)
    args.add_argument("models", type=Path)
    args.add_argument("--write", action="store_true")
    given = args.parse_args()
    models = Models(given.models)
    ways = degradations([read(p).pixels for p in sorted(given.masks.glob("mask_*.jpg"))])
    names, kinds, scores, amiss, chips = [], [], [], [], []
    for name, path, mate_path in genuine(given.lfw):
        image, mate = read(path), read(mate_path)
        face, mate_face = models.face(image), models.face(mate)
        if face is None or mate_face is None:
            continue
        vector = models.embed(chip(mate, mate_face.landmarks)[None])[0]
        for kind in ["none", *rng.choice(list(ways)[1:], 6)]:
            worse = image_of(ways[kind](image.pixels, face, float(rng.random())))
            seen = models.face(worse)
            if seen is None:
                continue
            cut_out = chip(worse, seen.landmarks)
            pose = quality.pose_from_points(seen.landmarks)
            names.append(name)
            kinds.append(str(kind))
            chips.append(cut_out)
            scores.append(float(models.embed(cut_out[None])[0] @ vector))
            amiss.append(list(quality.deficits(worse, seen, pose, cut_out).values()))
    people = sorted(set(names))
    train = np.isin(names, people[::2])
    of, s, x = np.array(kinds), np.array(scores), np.array(amiss)
    fit_occlusion(chips, of, train, write=given.write)
    keys = list(quality.WEIGHTS)
    free = [i for i, k in enumerate(keys) if k not in FIXED]
    held = -x @ np.array([FIXED.get(k, 0.0) for k in keys])
    target = np.clip(s / 0.72, 0.02, 0.98)
    ones = np.ones(len(x))
    fitted = logistic(-x[train][:, free], target[train], held[train], ones[train], 1e-6)
    print(
        "weights:",
        {keys[i]: round(float(w), 3) for i, w in zip(free, fitted, strict=False)},
        "bias:",
        fitted[-1],
    )
    shipped = np.array([quality.overall_of(dict(zip(keys, row, strict=True))) for row in x])
    print("shipped overall, people not fitted on, FNMR at 0.364 after discarding the worst:")
    print("  degraded:", discard(shipped[~train], s[~train]))
    for low in np.arange(0.0, 1.0, 0.1):
        rows = ~train & (shipped >= low) & (shipped < low + 0.1 + 1e-9 * (low > 0.85))
        if rows.any():
            fnmr = (s[rows] < 0.364).mean()
            print(f"  overall {low:.1f}: {rows.sum():5d} photos, score {s[rows].mean():.3f}, FNMR {fnmr:.1%}")
    natural(models, given.lfw)


def natural(models: Models, root: Path) -> None:
    """All genuine pairs of the photos as they are, at most 40 of a person; the worse photo counts."""
    figure: Any = []
    scores: list[float] = []
    for folder in sorted(p for p in root.iterdir() if p.is_dir()):
        known = []
        for path in sorted(folder.glob("*.jpg")) if len(list(folder.iterdir())) > 1 else ():
            image = read(path)
            face = models.face(image)
            if face is not None:
                cut_out = chip(image, face.landmarks)
                known.append(
                    (models.embed(cut_out[None])[0], quality.assess(image, face, None, cut_out).overall)
                )
        pairs = list(combinations(known, 2))
        for i in rng.permutation(len(pairs))[:40]:
            one, two = pairs[i]
            scores.append(float(one[0] @ two[0]))
            figure.append(min(one[1], two[1]))
    print(f"  {len(scores)} natural pairs:", discard(np.array(figure), np.array(scores)))


if __name__ == "__main__":
    main()
