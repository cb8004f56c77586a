"""Calibration tables: measured in a stream, saved and read back."""

from __future__ import annotations

import json

import numpy as np
import pytest

from scrfdconv.checks.stimuli import stimuli
from scrfdconv.converters.errors import InputFileError
from scrfdconv.converters.graph.model_file import load_onnx
from scrfdconv.converters.precision.int8.calibration import (
    CalibrationTable,
    chosen_ranges,
    extremes,
    load_table,
    widest,
)
from scrfdconv.converters.precision.int8.quantization import quantizable
from scrfdconv.converters.structured import to_plain

TABLE = CalibrationTable(
    "a", "b", 3, (64, 96), "percentile", {"x": (-0.1, 1 / 3)}, {"x": [0.7, 1e-9]}
)


def test_a_table_survives_its_file(tmp_path):
    TABLE.save(tmp_path / "table.json")

    assert load_table(tmp_path / "table.json") == TABLE


@pytest.mark.parametrize(
    "change",
    [{"version": 1}, {"ranges": {"x": [0, float("nan")]}}, {"calibrator": "mean"}, {"extra": 1},
     {"means": 3}, {"shape": [64]}],
)  # fmt: skip
def test_a_damaged_table_is_refused(tmp_path, change):
    path = tmp_path / "table.json"
    path.write_text(json.dumps({**to_plain(TABLE), **change}))

    with pytest.raises(InputFileError, match="no calibration table"):
        load_table(path)


@pytest.mark.parametrize("text", ["", "[1]", "{", "\xff"])
def test_other_files_are_refused(tmp_path, text):
    path = tmp_path / "table.json"
    path.write_bytes(text.encode("latin-1"))

    with pytest.raises(InputFileError):
        load_table(path)


def test_extremes_and_means_are_those_of_all_pictures(tiny_onnx):
    model = quantizable(load_onnx(tiny_onnx))
    images = stimuli(3, 64, 96, 0)

    parts = extremes(model, lambda: (image[None] for image in images))
    together = extremes(model, lambda: [images])

    whole = widest(parts)
    assert len(parts) == 3
    for name, value in together[0].high.items():
        np.testing.assert_allclose(whole.high[name], value, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(whole.mean[name], together[0].mean[name], rtol=1e-3, atol=1e-5)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("calibrator", ["percentile", "entropy"])
def test_other_rules_stay_within_the_extremes(tiny_onnx, calibrator):
    model = quantizable(load_onnx(tiny_onnx))
    images = stimuli(2, 64, 96, 0)
    extreme = widest(extremes(model, lambda: [images])).ranges("input.1", (-1, 1))

    chosen = chosen_ranges(model, extreme, calibrator, lambda: [images])

    assert chosen.keys() == extreme.keys()
    assert chosen["input.1"] == (-1, 1)
    assert all(low >= extreme[k][0] and high <= extreme[k][1] for k, (low, high) in chosen.items())
    assert sum(high - low for low, high in chosen.values()) < sum(
        high - low for low, high in extreme.values()
    )
