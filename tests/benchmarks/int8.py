"""INT8 against float: faces kept, and time on one thread, for every model that matters.

    python tests/benchmarks/int8.py [DATA]

DATA is the folder with ``checkpoints/`` and ``images/`` in it; default: $SCRFDCONV_DATA or
../shared/data. Calibrates on images/calibration, and for trained models also on eight crops of
single faces from there, and measures on images/test. Exits 1 below the floors.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import onnxruntime

from scrfdconv.checks.detections import agreement
from scrfdconv.checks.faces import detect
from scrfdconv.checks.images import find_images, letterbox, normalise, read_image
from scrfdconv.converters.formats.onnx import Onnx, OnnxOptions, OnnxRunner
from scrfdconv.recipes.convert import SourceOptions, open_source
from scrfdconv.recipes.int8 import int8
from scrfdconv.recipes.int8_request import Int8Recipe

SHAPE = (640, 640)
FLOORS = {  # one thread, times as fast as the float model
    "scrfd_2.5g_kps": 2.7, "scrfd_10g_kps": 3.5, "scrfd_2.5g": 2.5, "scrfd_500m_kps": 1.1,
}  # fmt: skip
SEEDED = ("scrfd_1g", "scrfd_2.5g", "scrfd_10g", "scrfd_10g_kps", "scrfd_34g")
ROUNDS = 15  # float and int8 take turns; the best of each counts: other processes only add
PORTRAITS, SMALLEST, MARGIN = 8, 60, 1.0  # pixels on the canvas, and of a side around the centre


def main() -> int:
    root = Path(__file__).resolve().parents[2]
    default = os.environ.get("SCRFDCONV_DATA", root.parent / "shared" / "data")
    data = Path(sys.argv[1] if len(sys.argv) > 1 else default)
    good = True
    with tempfile.TemporaryDirectory() as folder:
        for source in (*sorted((data / "checkpoints").glob("*.pth")), *SEEDED):
            good &= measured(str(source), data, Path(folder))
    return 0 if good else 1


def measured(source, data, folder):
    opened = open_source(source, SourceOptions())
    name, trained = opened.architecture.name, not opened.seeded
    parent = Onnx().convert(opened, folder / "float.onnx", OnnxOptions(SHAPE), None).path
    photographs = tuple(find_images([data / "images/calibration"]))
    start = time.perf_counter()
    made = int8(opened, folder / "int8.onnx", Int8Recipe(photographs, SHAPE), None)
    took = time.perf_counter() - start
    floor = FLOORS.get(name, 1.0)
    speed = speedup(parent, folder / "int8.onnx")
    print(f"{opened.name}: {speed:.2f} times as fast, floor {floor}; built in {took:.0f} s")
    good = speed >= floor
    if trained:
        good &= faces(parent, folder / "int8.onnx", data, "photographs", 0.99, 0.99)
        crops = portraits(parent, photographs, folder)
        made = int8(opened, folder / "poor.onnx", Int8Recipe(crops, SHAPE), None)
        good &= bool(made.warnings)
        good &= faces(parent, folder / "poor.onnx", data, "eight portraits", 0.95, 0.0)
    return good


def faces(parent, int8_path, data, what, recall, precision):
    pictures = [inputs(path) for path in find_images([data / "images/test"])]
    reference, artifact = OnnxRunner(parent), OnnxRunner(int8_path)
    found = agreement((detect(reference, p), detect(artifact, p)) for p in pictures)
    print(
        f"  {what}: {found.reference_faces} faces, recall {found.recall:.4f}, precision "
        f"{found.precision:.4f}, AP50 {found.ap50:.4f}, mean IoU {found.mean_iou:.4f}",
        flush=True,
    )
    return found.recall >= recall and found.precision >= precision


def inputs(path):
    return normalise(letterbox(read_image(path), SHAPE)[0])[0]


def portraits(parent, photographs, folder):
    """Eight crops of one face each, drawn with a seed."""
    import cv2

    runner, crops = OnnxRunner(parent), []
    for path in photographs:
        image = read_image(path)
        scale = letterbox(image, SHAPE)[1]
        found = detect(runner, inputs(path)).above(0.7)
        for x1, y1, x2, y2 in found.boxes:
            side = max(x2 - x1, y2 - y1)
            if side >= SMALLEST:
                cx, cy, reach = (x1 + x2) / 2, (y1 + y2) / 2, MARGIN * side
                edges = np.array([cy - reach, cy + reach, cx - reach, cx + reach]) / scale
                top, bottom, left, right = np.maximum(edges, 0).astype(int)
                crops.append(image[top:bottom, left:right])
    chosen = np.random.default_rng(0).permutation(len(crops))[:PORTRAITS]
    paths = [folder / f"portrait{i}.png" for i in range(len(chosen))]
    for path, i in zip(paths, chosen, strict=True):
        cv2.imwrite(str(path), crops[i])
    return tuple(paths)


def speedup(*paths):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    sessions = [
        onnxruntime.InferenceSession(str(p), options, providers=["CPUExecutionProvider"])
        for p in paths
    ]
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, *SHAPE)).astype(np.float32)
    times = []
    for _ in range(ROUNDS):
        for session in sessions:
            start = time.perf_counter()
            session.run(None, {"input.1": image})
            times.append(time.perf_counter() - start)
    first, second = np.array(times).reshape(-1, 2)[2:].T
    return first.min() / second.min()


if __name__ == "__main__":
    sys.exit(main())
