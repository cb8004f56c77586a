"""Timing: percentiles, ratios by round, and threads that are really limited."""

from __future__ import annotations

import os
from functools import partial

import numpy as np
import pytest
from two_arithmetics import TwoArithmetics

from scrfdconv.checks.benchmark import (
    Timing,
    Workload,
    bench_environment,
    measure,
    peak_memory,
    ratio,
)
from scrfdconv.converters.checkpoint.loading import seeded_checkpoint
from scrfdconv.converters.formats import open_artifact
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.graph.model_file import serialised
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.network.architecture import BUILTIN
from scrfdconv.converters.system.machine import cpu_name


def timing(*milliseconds, batch=1):
    seconds = np.array(milliseconds) / 1e3
    return Timing("m", seconds, seconds / 2, 1, batch)


def test_percentiles_are_runs_that_happened():
    measured = timing(*range(1, 101))

    assert measured.median == pytest.approx(0.0505)
    assert measured.percentile(90) == pytest.approx(0.091)
    assert measured.percentile(99) == pytest.approx(0.100)
    assert measured.cores == pytest.approx(0.5)


def test_throughput_counts_the_images_of_a_batch():
    assert timing(10, 30, batch=4).throughput == pytest.approx(4 * 2 / 0.04)


def test_the_ratio_compares_runs_of_the_same_round():
    first, other = timing(10, 100, 1000), timing(20, 200, 2000)

    compared = ratio(other, first)

    assert (compared.low, compared.median, compared.high) == pytest.approx((2, 2, 2))


def test_the_machine_is_named_with_its_libraries():
    said = bench_environment([3])

    assert said["threads"] == 3
    assert said["cpu"] == cpu_name() != ""
    assert {"torch", "onnxruntime", "numpy"} <= said["libraries"].keys()


def test_peak_memory_is_that_of_this_process():
    assert 1e7 < peak_memory() < 1e12


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor: nothing to limit")
@pytest.mark.parametrize("kind", ["checkpoint", "onnx"])
def test_one_thread_uses_one_processor(kind, tmp_path):
    checkpoint = seeded_checkpoint(BUILTIN["scrfd_500m"])
    if kind == "onnx":
        path = tmp_path / "m.onnx"
        path.write_bytes(serialised(onnx_from_checkpoint(checkpoint, OnnxOptions())))
    else:
        import torch

        path = tmp_path / "m.pth"
        torch.save({"state_dict": dict(checkpoint.weights)}, path)
    workload = Workload(1, (320, 320), runs=5, warm_up=2)

    (measured,), _ = measure({"m": partial(open_artifact, path, 1)}, lambda _: workload, threads=1)

    assert len(measured.seconds) == 5
    assert measured.cores < 1.1  # two threads would use up to 2


def test_a_file_with_two_arithmetics_is_timed_in_both(tiny_onnx):
    workload = Workload(1, (64, 64), runs=2, warm_up=1)
    models = {"one": partial(OnnxRunner, tiny_onnx), "two": partial(TwoArithmetics, tiny_onnx)}
    seen = []

    timings, _ = measure(models, lambda found: seen.append(len(found)) or workload, twins=True)

    assert seen == [2]
    assert [(t.name, t.precision) for t in timings] == [
        ("one", "fp32"), ("two", "fp32"), ("two", "fp32, bf16")
    ]  # fmt: skip
