"""Faces in 200 photographs: `detect` against the loop of insightface, and the runtime alone.

    pip install insightface        # into an environment of its own: it brings another OpenCV
    python tests/benchmarks/folder.py [DATA] [ROUNDS]

Ours reads, prepares, runs and decodes side by side. The loop does one after the other with
insightface's SCRFD class, and ONNX Runtime's own threads. The runtime's own time is that of its
runs alone, on one thread for each core, with inputs in memory. All take turns; printed are the
fastest rounds and the ratio by rounds. Targets: 1.5 times as fast as the loop on two cores, or
within 5 % of the runtime's own time.
"""

import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from scrfdconv.checks.faces.images import find_images
from scrfdconv.converters.system.machine import cpu_name, usable_cores
from scrfdconv.recipes.artifacts.sources import open_source
from scrfdconv.recipes.faces.detection import DetectOptions, detect_pictures, open_detectors

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("det_2.5g", "det_500m")
SIZE = (640, 640)
PICTURES, ROUNDS = 200, 3


def main():
    default = os.environ.get("SCRFDCONV_DATA", ROOT.parent / "shared" / "data")
    data = Path(sys.argv[1] if len(sys.argv) > 1 else default)
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else ROUNDS
    pictures = find_images([data / "images"])
    paths = (pictures * (PICTURES // len(pictures) + 1))[:PICTURES]
    print(f"{cpu_name()}, {usable_cores()} cores, {PICTURES} photographs")
    for model in MODELS:
        compare(data / f"onnx/{model}.onnx", paths, rounds)


def compare(model, paths, rounds):
    turns = {"ours": ours(model, paths), "runtime": runtime(model)}
    if loop := insightface_loop(model, paths):
        turns["insightface"] = loop
    seconds = {name: [] for name in turns}
    for _ in range(rounds):
        for name, run in turns.items():
            begun = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - begun)
    found = {name: np.array(values) for name, values in seconds.items()}
    print(f"{model.name}: " + ", ".join(f"{n} {v.min():.2f} s" for n, v in found.items()))
    for name in found.keys() - {"ours"}:
        by_round = found[name] / found["ours"]
        print(f"  {name} / ours {found[name].min() / found['ours'].min():.2f} of the fastest, "
              f"{by_round.min():.2f} to {by_round.max():.2f} by rounds")  # fmt: skip


def ours(model, paths):
    detectors = open_detectors(open_source(str(model)), DetectOptions(SIZE), len(paths))
    return lambda: [len(item.faces) for item in detect_pictures(detectors, paths)]


def runtime(model):
    detectors = open_detectors(open_source(str(model)), DetectOptions(SIZE), PICTURES)
    image = np.random.default_rng(0).uniform(-1, 1, (1, 3, *SIZE)).astype(np.float32)

    def alone(detector):
        for _ in range(PICTURES // len(detectors)):
            detector.runner.run_fed(image)

    def run():
        with ThreadPoolExecutor(len(detectors)) as pool:
            list(pool.map(alone, detectors))

    return run


def insightface_loop(model, paths):
    import cv2

    try:
        from insightface.model_zoo.scrfd import SCRFD
    except ImportError:
        print("insightface is not installed: its loop was not measured")
        return None
    theirs = SCRFD(str(model))
    theirs.prepare(-1, input_size=SIZE, det_thresh=0.5, nms_thresh=0.4)
    return lambda: [theirs.detect(cv2.imread(str(path)))[0] for path in paths]


if __name__ == "__main__":
    main()
