"""Time the whole way from a picture to faces against insightface's own SCRFD class.

    pip install insightface        # into an environment of its own: it brings another OpenCV
    python tests/benchmarks/detect.py [DATA]

DATA is the folder with ``onnx/`` and ``images/``; default: $SCRFDCONV_DATA or ../shared/data. Both
get the same ONNX, picture (in memory), size and thresholds, in turns. Exits 1 where we cost more,
find other faces, or spend 15 % of the time or more outside ONNX Runtime on the 2.5G model.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np

from scrfdconv.checks.images import read_image
from scrfdconv.converters.formats import open_artifact
from scrfdconv.recipes.detect import DetectOptions, Detector

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("det_2.5g", "det_500m")
SIZE = (640, 640)
WARM_UP, ROUNDS = 5, 60
LARGEST_RATIO = 1.0
LARGEST_SHARE = 0.15  # outside ONNX Runtime, 2.5G


def main():
    default = os.environ.get("SCRFDCONV_DATA", ROOT.parent / "shared" / "data")
    data = Path(sys.argv[1] if len(sys.argv) > 1 else default)
    image = read_image(data / "images/test/insightface_t1.jpg")
    return max([compare(data / f"onnx/{model}.onnx", image) for model in MODELS])


def compare(model, image):
    detector = Detector(open_artifact(model), DetectOptions(SIZE))
    inside = timed_runs(detector.runner)
    theirs = insightface_detector(model)
    ours, other, shares = [], [], []
    for _ in range(WARM_UP + ROUNDS):
        inside.clear()
        seconds, (faces,) = timed(detector.detect, [image])
        ours.append(seconds)
        shares.append(1 - inside[0] / seconds)
        if theirs:
            seconds, found = timed(theirs.detect, image)
            other.append(seconds)
    share = float(np.median(shares[WARM_UP:]))
    print(f"{model.name}: {1e3 * np.median(ours[WARM_UP:]):.1f} ms, {len(faces)} faces, "
          f"{share:.1%} outside ONNX Runtime")  # fmt: skip
    fine = share < LARGEST_SHARE or model.stem != "det_2.5g"
    if not theirs:
        print("insightface is not installed: its cost was not measured")
        return not fine
    low, ratio, high = np.percentile(np.array(ours[WARM_UP:]) / other[WARM_UP:], (10, 50, 90))
    apart = float(np.abs(faces.boxes - found[0][:, :4]).max())
    print(f"  insightface {1e3 * np.median(other[WARM_UP:]):.1f} ms; ratio {ratio:.3f} "
          f"({low:.3f}-{high:.3f}), boxes at most {apart:.1e} pixels apart")  # fmt: skip
    return not (fine and ratio <= LARGEST_RATIO)


def timed_runs(runner):
    """Note the seconds of each run of a model."""
    seconds, run = [], runner.run

    def noted(images):
        took, outputs = timed(run, images)
        seconds.append(took)
        return outputs

    runner.run = noted
    return seconds


def timed(function, *arguments):
    start = time.perf_counter()
    value = function(*arguments)
    return time.perf_counter() - start, value


def insightface_detector(model):
    try:
        from insightface.model_zoo.scrfd import SCRFD
    except ImportError:
        return None
    theirs = SCRFD(str(model))
    theirs.prepare(-1, input_size=SIZE, det_thresh=0.5, nms_thresh=0.4)
    return theirs


if __name__ == "__main__":
    sys.exit(main())
