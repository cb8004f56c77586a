"""Time the whole way from a picture to faces against insightface's own SCRFD class.

    pip install insightface        # into an environment of its own: it brings another OpenCV
    python tests/benchmarks/detect.py [DATA]

DATA is the folder with ``onnx/`` and ``images/``; default: $SCRFDCONV_DATA or ../shared/data. Both
get the same ONNX, picture (in memory), size and thresholds, in turns. Exits 1 where we cost more,
find other faces, or spend 15 % of the time or more outside ONNX Runtime on the 2.5G model.

Most of either's time is one and the same run of ONNX Runtime. What differs is outside of it and
is printed, too: on a machine that does other work, it is seen where the whole is lost in noise.
There, `taskset -c 0 python tests/benchmarks/detect.py` gives both one processor and counts
processor time.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np

from scrfdconv.checks.benchmark import PAUSE_SECONDS
from scrfdconv.checks.faces.images import read_image
from scrfdconv.converters.formats import open_artifact
from scrfdconv.recipes.faces.detection import DetectOptions, Detector

ROOT = Path(__file__).resolve().parents[2]
MODELS = ("det_2.5g", "det_500m")
SIZE = (640, 640)
WARM_UP, ROUNDS = 5, 100
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
    ours = Stopwatch(detector.detect, [image]).inside(detector.runner, "run")
    theirs = insightface_detector(model)
    other = theirs and Stopwatch(theirs.detect, image).inside(session_of(theirs), "run")
    for number in range(WARM_UP + ROUNDS):
        turns = [watch for watch in (ours, other) if watch]
        # who goes first meets what the other left running
        for watch in turns if number % 2 else reversed(turns):
            watch.run()
            time.sleep(PAUSE_SECONDS)  # until the threads of one no longer slow the other down
    share = float(np.median(ours.outside / ours.whole))
    print(f"{model.name}: {ours}, {share:.1%} of the time")
    fine = share < LARGEST_SHARE or model.stem != "det_2.5g"
    if not other:
        print("insightface is not installed: its cost was not measured")
        return not fine
    # the fastest rounds: other programs only ever add time
    ratio = ours.whole.min() / other.whole.min()
    low, median, high = np.percentile(ours.whole / other.whole, (10, 50, 90))
    (faces,), (boxes, _) = ours.found, other.found
    apart = float(np.abs(faces.boxes - boxes[:, :4]).max())
    print(f"  insightface: {other}")
    print(f"  ratio {ratio:.3f} of the fastest, {median:.3f} ({low:.3f}-{high:.3f}) by rounds; "
          f"{len(faces)} faces, boxes at most {apart:.0e} pixels apart")  # fmt: skip
    return not (fine and ratio <= LARGEST_RATIO and apart < LARGEST_DISTANCE)


class Stopwatch:
    """Times a call, and within it the one call that is ONNX Runtime's."""

    def __init__(self, function, argument):
        self.function, self.argument, self.found = function, argument, None
        self._whole, self._inside = [], []

    def inside(self, thing, method):
        run = getattr(thing, method)

        def noted(*arguments):
            start = CLOCK()
            value = run(*arguments)
            self._inside.append(CLOCK() - start)
            return value

        setattr(thing, method, noted)
        return self

    def run(self):
        start = CLOCK()
        self.found = self.function(self.argument)
        self._whole.append(CLOCK() - start)

    @property
    def whole(self):
        return np.array(self._whole[WARM_UP:])

    @property
    def outside(self):
        return self.whole - self._inside[WARM_UP:]

    def __str__(self):
        milliseconds = 1e3 * np.array([np.median(self.whole), np.median(self.outside)])
        return "{:.1f} ms, {:.2f} ms outside ONNX Runtime".format(*milliseconds)


def insightface_detector(model):
    try:
        from insightface.model_zoo.scrfd import SCRFD
    except ImportError:
        return None
    theirs = SCRFD(str(model))
    theirs.prepare(-1, input_size=SIZE, det_thresh=0.5, nms_thresh=0.4)
    return theirs


def session_of(theirs):
    """The session that their detector runs at this size; older releases have only one."""
    find = getattr(theirs, "_session_for_input_size", None)
    return find(SIZE) if find else theirs.session


if __name__ == "__main__":
    sys.exit(main())
