"""Infer time of the eight published models at VGA, as ratios to PyTorch eager: a Markdown table.

    python tests/benchmarks/infer_time.py [--threads N] [--runs N] [MODEL...]

The weights are seeded, which takes the same time as trained ones. ONNX and TorchScript are what
`scrfdconv onnx` and `scrfdconv torchscript` write with --shape 480 640. The published milliseconds
are those of the authors' GPU: compare the rows of a column with each other, not the columns.

Times are processor time of interleaved runs, the median and in brackets 10 % - 90 % of the rounds:
with one thread that is the wall time of a machine on which nothing else runs.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np

from scrfdconv.checks.benchmark import bench_environment
from scrfdconv.converters.checkpoint.loading import seeded_checkpoint
from scrfdconv.converters.formats import formats
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.network.architecture import BUILTIN, PUBLISHED
from scrfdconv.converters.options import SizeOptions
from scrfdconv.recipes.artifacts.sources import SourceOptions
from scrfdconv.recipes.bench import BenchOptions, compare_speed, labels

VGA = (480, 640)  # height, width
OPTIONS = {"onnx": OnnxOptions(shape=VGA), "torchscript": SizeOptions(shape=VGA)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("models", nargs="*", default=list(PUBLISHED))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--runs", type=int, default=30)
    asked = parser.parse_args()
    print("| model | published ms (GPU) | PyTorch eager ms | ONNX | TorchScript |")
    print("|---|---|---|---|---|")
    for model in asked.models:
        print(row(model, asked), flush=True)
    print(f"\n{bench_environment([asked.threads])}")


def row(model, asked):
    contest = BenchOptions(shape=VGA, threads=(asked.threads,), runs=asked.runs)
    with tempfile.TemporaryDirectory() as folder:
        models = labels([model, *artifacts(model, folder)])
        compared, _ = compare_speed(models, SourceOptions(), contest)
    eager, *others = (found.timing.processor for found in compared)
    published = f"{PUBLISHED[model].milliseconds}{'*' if PUBLISHED[model].note else ''}"
    ratios = (ratio(other / eager) for other in others)
    cells = (PUBLISHED[model].label, published, f"{1e3 * np.median(eager):.0f}", *ratios)
    return f"| {' | '.join(cells)} |"


def ratio(rounds):
    low, median, high = np.percentile(rounds, (10, 50, 90))
    return f"{median:.2f} ({low:.2f}-{high:.2f})"


def artifacts(model, folder):
    checkpoint = seeded_checkpoint(BUILTIN[model])
    for name, options in OPTIONS.items():
        path = Path(folder) / f"{model}{formats()[name].suffix}"
        formats()[name].convert(checkpoint, path, options, None)
        yield str(path)


if __name__ == "__main__":
    main()
