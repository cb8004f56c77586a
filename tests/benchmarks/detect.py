"""Time the whole way from a picture to faces against insightface's own SCRFD class.

    pip install insightface        # into an environment of its own: it brings another OpenCV
    python tests/benchmarks/detect.py [DATA]

DATA is the folder with ``onnx/`` and ``images/``; default: $SCRFDCONV_DATA or ../shared/data. Both
get the same ONNX, picture (in memory), size and thresholds, in turns. Exits 1 where we cost more,
find other faces, or spend 15 % of the time or more outside ONNX Runtime on the 2.5G model.

On a machine that does other work: `taskset -c 0 python tests/benchmarks/detect.py` gives both one
processor and counts processor time.
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
WARM_UP, ROUNDS = 5, 100
UNDISTURBED = 10  # percentile of the runs: other programs only ever add time
LARGEST_RATIO = 1.0
LARGEST_DISTANCE = 0.01  # pixels
LARGEST_SHARE = 0.15  # outside ONNX Runtime, 2.5G
ONE_PROCESSOR = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) == 1
CLOCK = time.process_time if ONE_PROCESSOR else time.perf_counter


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
    for number in range(WARM_UP + ROUNDS):
        if theirs and number % 2:  # who goes first meets what the other left running
            other.append(timed(theirs.detect, image)[0])
        inside.clear()
        seconds, (faces,) = timed(detector.detect, [image])
        ours.append(seconds)
        shares.append(1 - inside[0] / seconds)
        if theirs and not number % 2:
            other.append(timed(theirs.detect, image)[0])
    share = float(np.median(shares[WARM_UP:]))
    print(f"{model.name}: {1e3 * np.median(ours[WARM_UP:]):.1f} ms, {len(faces)} faces, "
          f"{share:.1%} outside ONNX Runtime")  # fmt: skip
    fine = share < LARGEST_SHARE or model.stem != "det_2.5g"
    if not theirs:
        print("insightface is not installed: its cost was not measured")
        return not fine
    ours, other = np.array(ours[WARM_UP:]), np.array(other[WARM_UP:])
    ratio = np.percentile(ours, UNDISTURBED) / np.percentile(other, UNDISTURBED)
    low, median, high = np.percentile(ours / other, (10, 50, 90))
    found, _ = theirs.detect(image)
    apart = float(np.abs(faces.boxes - found[:, :4]).max())
    print(f"  insightface {1e3 * np.median(other):.1f} ms; ratio {ratio:.3f} of undisturbed runs, "
          f"{median:.3f} ({low:.3f}-{high:.3f}) by rounds")  # fmt: skip
    print(f"  boxes at most {apart:.0e} pixels apart")
    return not (fine and ratio <= LARGEST_RATIO and apart < LARGEST_DISTANCE)


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
    start = CLOCK()
    value = function(*arguments)
    return CLOCK() - start, value


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
