"""Time the WIDER FACE scorer against plain per-prediction loops, on the same data in one run.

    python tests/benchmarks/widerface_scoring.py [DATA]

DATA is the folder with ``wider/`` in it; default: $SCRFDCONV_DATA or ../shared/data. Exits 1 where
the two disagree or the scorer needs more than a twentieth of the loops' time.
"""

import os
import runpy
import sys
import time
from pathlib import Path

from scrfdconv.checks.widerface import protocol as widerface
from scrfdconv.checks.widerface.result_files import load_results
from scrfdconv.checks.widerface.truth import SUBSETS, load_ground_truth

ROOT = Path(__file__).resolve().parents[2]
ORACLE = runpy.run_path(str(ROOT / "tests/checks/widerface_oracle.py"))
LIMIT = 1 / 20
REPEATS = 3  # of the scorer, the median counts; the loops run once


def main() -> int:
    default = os.environ.get("SCRFDCONV_DATA", ROOT.parent / "shared" / "data")
    wider = Path(sys.argv[1] if len(sys.argv) > 1 else default) / "wider"
    (truth, results), loading = timed(load, wider)

    measured = [timed(widerface.evaluate, truth, results) for _ in range(REPEATS)]
    evaluation, fast = sorted(measured, key=lambda pair: pair[1])[REPEATS // 2]
    expected, slow = timed(plain_loops, truth, results)

    print(f"{evaluation.images} images, {evaluation.predictions} predictions")
    print(f"loading  {loading:8.3f} s (both)")
    print(f"loops    {slow:8.3f} s")
    print(f"evaluate {fast:8.3f} s, {slow / fast:.0f} times faster, {fast / slow:.4f} of the time")
    for subset, ap in evaluation.ap.items():
        print(f"{subset:8} {100 * ap:9.6f}  loops {100 * expected[subset]:9.6f}")
    same = all(abs(ap - expected[subset]) < 1e-12 for subset, ap in evaluation.ap.items())
    return 0 if same and fast <= LIMIT * slow else 1


def timed(function, *arguments):
    start = time.perf_counter()
    value = function(*arguments)
    return value, time.perf_counter() - start


def load(wider):
    archive = wider / "retinaface_mobilenet0.25_results.zip"
    return load_ground_truth(wider), load_results(archive)


def plain_loops(truth, results):
    return {
        subset: ORACLE["evaluate"](
            [(image.boxes, image.counts[row], results[image.name]) for image in truth.images]
        )[0]
        for row, subset in enumerate(SUBSETS)
    }


if __name__ == "__main__":
    sys.exit(main())
