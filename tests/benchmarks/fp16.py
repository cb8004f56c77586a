"""FP16 against float: size, error, faces and CPU latency as ratios, on the real models.

    python tests/benchmarks/fp16.py [DATA]

DATA is the folder with ``checkpoints/`` and ``images/``; default: $SCRFDCONV_DATA or
../shared/data. Exits 1 where a face is lost or won, or a score moves too far.
"""

import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from scrfdconv.checks.faces.compare import model_input
from scrfdconv.checks.faces.decode import LOW_THRESHOLD, decode
from scrfdconv.checks.faces.images import find_images
from scrfdconv.checks.faces.matching import agreement
from scrfdconv.checks.precision import audit
from scrfdconv.converters.checkpoint.loading import load_checkpoint
from scrfdconv.converters.formats import formats
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.normalization import STANDARD
from scrfdconv.converters.precision.fp16 import Fp16Options
from scrfdconv.converters.precision.fp16.conversion import Fp16Settings

ROOT = Path(__file__).resolve().parents[2]
SIZE = (640, 640)
REPEATS = 9  # runs of each model in turn, on one thread; the median counts
LARGEST_SCORE_ERROR, BULK_SCORE_ERROR = 2e-2, 2e-3  # of any anchor, and at 99.9 %


def main() -> int:
    default = os.environ.get("SCRFDCONV_DATA", ROOT.parent / "shared" / "data")
    data = Path(sys.argv[1] if len(sys.argv) > 1 else default)
    images = [model_input(path, SIZE, STANDARD) for path in find_images([data / "images"])]
    print(f"{len(images)} photographs at {SIZE[0]}x{SIZE[1]}; ratios are fp16 / float")
    header = "size  latency  fp16 MACs  recall   precision  score max  99.9 %   worst IoU"
    print(f"{'model':30} {header}")
    ok = True
    for path in sorted((data / "checkpoints").glob("*.pth")):
        for all_fp16 in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                kept = measure(path, Path(folder), images, all_fp16=all_fp16)
            ok &= kept or all_fp16  # everything in FP16 is shown for comparison only
    return 0 if ok else 1


def measure(path, folder, images, *, all_fp16):
    parent = folder / "float.onnx"
    formats()["onnx"].convert(load_checkpoint(path), parent, OnnxOptions(shape=SIZE), None)
    made = folder / "fp16.onnx"
    options = Fp16Options(all_fp16=all_fp16)
    graph = formats()["onnx"]
    graph.convert(graph.artifact_at(parent), made, Fp16Settings(options), None, "fp16")
    reference, artifact = OnnxRunner(parent, threads=1), OnnxRunner(made, threads=1)

    pairs, differences = [], []
    for image in images:
        want, got = reference.run(image[None]), artifact.run(image[None])
        differences += [np.abs(want[k] - got[k]).ravel() for k in want if k.startswith("score")]
        pairs.append(tuple(decode(o, SIZE, threshold=LOW_THRESHOLD)[0] for o in (want, got)))
    found, errors = agreement(pairs), np.concatenate(differences)
    largest, bulk = errors.max(), np.percentile(errors, 99.9)
    print(
        f"{path.stem + (' --all-fp16' if all_fp16 else ''):30} "
        f"{made.stat().st_size / parent.stat().st_size:.2f}  "
        f"{latency_ratio(reference, artifact, images[0]):7.2f}  "
        f"{audit(made).share('fp16'):9.1%}  {found.recall:.4f}   {found.precision:.4f}     "
        f"{largest:.1e}    {bulk:.1e}  {found.worst_iou:.4f}",
        flush=True,
    )
    faces = round(found.recall, 3) == round(found.precision, 3) == 1
    return faces and largest < LARGEST_SCORE_ERROR and bulk < BULK_SCORE_ERROR


def latency_ratio(reference, artifact, image):
    """Runs take turns, so that a busy machine slows both."""
    times = ([], [])
    for _ in range(REPEATS):
        for runner, taken in zip((reference, artifact), times, strict=True):
            start = time.perf_counter()
            runner.run(image[None])
            taken.append(time.perf_counter() - start)
    return float(np.median(times[1]) / np.median(times[0]))


if __name__ == "__main__":
    sys.exit(main())
