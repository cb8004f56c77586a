"""Verification on photographs: each model runs once on each, one photograph at a time."""

from __future__ import annotations

import weakref

import cv2
import numpy as np
import onnx
import pytest
from faults import FAULTS, plant

from scrfdconv.checks import parity
from scrfdconv.checks import verification as verify
from scrfdconv.checks.tolerances import limits_for
from scrfdconv.checks.verification import Demand, compare_opened
from scrfdconv.converters.errors import InputFileError
from scrfdconv.converters.formats.onnx import OnnxOptions, building
from scrfdconv.converters.formats.pytorch.runner import EagerRunner
from scrfdconv.converters.graph.model_file import serialised
from scrfdconv.converters.graph.onnx_runner import OnnxRunner

SIZE = (96, 128)


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr(parity, "DYNAMIC_SHAPES", ((1, *SIZE),))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Five pictures of noise, in which ``tiny`` finds what it takes for faces."""
    folder, draw = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    paths = [folder / f"{i}.png" for i in range(5)]
    for path in paths:
        cv2.imwrite(str(path), draw.integers(0, 256, (90, 120, 3), np.uint8))
    return tuple(paths)


class Counting(EagerRunner):
    """Remembers what it has seen, in order."""

    def __init__(self, checkpoint):
        super().__init__(checkpoint)
        self.runs = []

    def _run(self, images):
        self.runs.append(hash(images.tobytes()))
        return super()._run(images)


def test_each_model_runs_once_on_each_picture(tiny, photographs):
    want, got = Counting(tiny), Counting(tiny)

    results = compare_opened(want, got, Demand(photographs), "fp32")

    assert len(want.runs) == len(set(want.runs)) == len(photographs) + len(parity.STIMULI)
    assert got.runs == want.runs
    assert {r.check for r in results} == {"parity", "faces"}
    assert all(r.passed for r in results)
    assert {r.subject for r in results} >= {"faces"}
    assert any(r.subject.startswith("faces_") for r in results)  # of one stride


def test_no_two_photographs_are_in_memory_at_once(tiny, photographs, monkeypatch):
    seen, most = [], []

    def watched(path, size, normalization):
        most.append(sum(picture() is not None for picture in seen))
        picture = original(path, size, normalization)
        seen.append(weakref.ref(picture))
        return picture

    original = verify.model_input
    monkeypatch.setattr(verify, "model_input", watched)

    compare_opened(EagerRunner(tiny), EagerRunner(tiny), Demand(photographs), "fp32")

    assert len(most) == len(photographs)
    assert max(most) <= 1


def test_a_file_that_is_no_picture_is_an_input_error(tiny, photographs, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    demand = Demand((*photographs[:1], tmp_path / "text.jpg"))

    with pytest.raises(InputFileError, match=r"text\.jpg"):
        compare_opened(EagerRunner(tiny), EagerRunner(tiny), demand, "fp32")


@pytest.mark.parametrize("fault", [f for f in FAULTS if "10 % too large" in f.name], ids=str)
def test_faces_tell_of_boxes_that_are_too_large(fault, tiny, tiny_onnx, photographs, tmp_path):
    path = tmp_path / "planted.onnx"
    onnx.save(plant(onnx.load(tiny_onnx), fault), path)

    results = compare_opened(EagerRunner(tiny), OnnxRunner(path), Demand(photographs), "int8")

    with_faces = {r.subject for r in results if r.check == "faces"} - {"faces"}
    stride = fault.name.rpartition(" ")[2]
    failed = {r.subject for r in results if r.check == "faces" and not r.passed}
    if f"faces_{stride}" in with_faces or not stride.isdigit():
        assert failed
    assert {r.subject for r in results if not r.passed} & set(fault.touches)


def test_outputs_without_faces_in_them_fail_and_the_rest_is_still_measured(tiny, photographs):
    class Broken(EagerRunner):
        def _run(self, images):
            outputs = super()._run(images)
            outputs[0] = outputs[0] * np.float32("nan")
            return outputs

    results = compare_opened(EagerRunner(tiny), Broken(tiny), Demand(photographs), "fp32")

    assert [r.metric for r in results if r.check == "faces"] == ["decoded"] * len(photographs)
    assert any(r.subject == "bbox_8" and r.metric == "sqnr" for r in results)


@pytest.mark.parametrize(
    ("height", "foreign", "factor"), [(1280, True, 2), (1280, False, 1), (320, True, 1)]
)
def test_limits_grow_with_the_size_where_one_model_adds_whole_maps_up(
    height, foreign, factor, tiny_gn, tmp_path, monkeypatch
):
    if foreign:  # InstanceNormalization, as exporters write GroupNorm
        monkeypatch.setattr(building, "write_group_norms", lambda model: None)
    path = tmp_path / "model.onnx"
    options = OnnxOptions(shape=(height, 640))
    path.write_bytes(serialised(building.onnx_from_checkpoint(tiny_gn, options)))

    results = compare_opened(EagerRunner(tiny_gn), OnnxRunner(path), Demand(), "fp32")

    limit = next(r.limit for r in results if (r.subject, r.metric) == ("score_8", "mean_abs"))
    assert limit == pytest.approx(factor * limits_for("fp32", "score_8").mean_abs)
    assert all(result.passed for result in results)


def test_the_norms_of_equal_models_earn_no_wider_limits(tiny_gn, tmp_path, monkeypatch):
    monkeypatch.setattr(building, "write_group_norms", lambda model: None)
    path = tmp_path / "model.onnx"
    options = OnnxOptions(shape=(1280, 640))
    path.write_bytes(serialised(building.onnx_from_checkpoint(tiny_gn, options)))

    results = compare_opened(OnnxRunner(path), OnnxRunner(path), Demand(), "fp32")

    limit = next(r.limit for r in results if (r.subject, r.metric) == ("score_8", "mean_abs"))
    assert limit == limits_for("fp32", "score_8").mean_abs
