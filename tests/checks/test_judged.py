"""What a model is judged by: its live graph and its weights layer by layer, never what it says."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from scrfdconv.checks import parity
from scrfdconv.checks.stimuli import stimuli
from scrfdconv.checks.verification import Demand, verify
from scrfdconv.checks.weights import compare_weights
from scrfdconv.converters.formats import formats
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.graph.model_file import load_onnx
from scrfdconv.converters.graph.number_types import coarsest_of, output_precisions, precision_of
from scrfdconv.converters.precision.fp16 import Fp16Options
from scrfdconv.converters.precision.fp16.conversion import Fp16Settings, fp16_from_float
from scrfdconv.converters.precision.int8.calibration import (
    CalibrationTable,
    chosen_ranges,
    extremes,
    widest,
)
from scrfdconv.converters.precision.int8.conversion import Int8Settings, int8_from_float
from scrfdconv.converters.precision.int8.quantization import quantizable

FAKES = Path(__file__).parent.parent / "fakes"
F = runpy.run_path(str(FAKES / "faults.py"))
R = runpy.run_path(str(FAKES / "rearranged.py"))
IMAGES = np.concatenate([stimuli(1, 96, 128, seed) for seed in range(4)])


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    """A planted fault shows on small pictures, too."""
    monkeypatch.setattr(parity, "DYNAMIC_SHAPES", ((1, 128, 160), (2, 96, 64)))


@pytest.fixture(scope="module")
def model(tiny_onnx):
    return onnx.load(tiny_onnx)


@pytest.fixture(scope="module")
def half(tiny_onnx):
    source = formats()["onnx"].artifact_at(tiny_onnx)
    return fp16_from_float(source, Fp16Settings(Fp16Options(), None))


@pytest.fixture(scope="module", params=["cpu", "tensorrt"])
def int8(tiny_onnx, request):
    bare = quantizable(load_onnx(tiny_onnx))
    whole = widest(extremes(bare, lambda: (image[None] for image in IMAGES)))
    means = {name: values.tolist() for name, values in whole.mean.items()}
    ranges = chosen_ranges(
        bare, whole.ranges("input.1", (-1, 1)), "minmax", lambda: (image[None] for image in IMAGES)
    )
    table = CalibrationTable("source", "images", len(IMAGES), (96, 128), "minmax", ranges, means)
    source = formats()["onnx"].artifact_at(tiny_onnx)
    return int8_from_float(source, Int8Settings(table=table, target=request.param))


def saved(model, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return path


def report_on(reference, model, tmp_path):
    return verify(reference, saved(model, tmp_path), Demand())


# ---------------------------------------------------------------- what buys no limits

DISGUISES = [F["dead_dequantize"](), F["dead_cast"](), F["claimed"]("int8"), F["claimed"]("fp16")]
LIES = [
    F["weights_noisy"](0.01),
    F["one_weight_changed"](3, 1.01),
    *F["OF_ALL_STRIDES"],
]


# Every lie in one disguise, and every disguise; the rest of the table is slow.
IN_DISGUISE = [
    pytest.param(
        disguise, lie, id=f"{lie}-{disguise}",
        marks=[] if (row - column) % len(DISGUISES) == 0 else pytest.mark.slow,
    )
    for row, lie in enumerate(LIES)
    for column, disguise in enumerate(DISGUISES)
]  # fmt: skip


@pytest.mark.sampled(2)
@pytest.mark.parametrize(("disguise", "lie"), IN_DISGUISE)
def test_a_disguise_as_another_precision_hides_no_fault(disguise, lie, tiny, model, tmp_path):
    planted = F["plant"](model, F["together"]("both", disguise, lie))

    report = report_on(tiny, planted, tmp_path)

    assert not report.passed
    assert precision_of(planted) == "fp32"
    assert any(r.check in ("parity", "weights") for r in report.failures)


@pytest.mark.parametrize("disguise", DISGUISES[:2], ids=str)
def test_a_node_that_nothing_reads_changes_no_verdict(disguise, tiny, model, tmp_path):
    assert report_on(tiny, F["plant"](model, disguise), tmp_path).passed


def test_a_pair_of_q_and_dq_behind_the_image_earns_no_limits_of_int8(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    image = copy.graph.input[0].name
    for node in copy.graph.node:
        node.input[:] = ["image.back" if name == image else name for name in node.input]
    copy.graph.initializer.extend(
        [
            numpy_helper.from_array(np.array(1 / 128, np.float32), "s"),
            numpy_helper.from_array(np.array(0, np.int8), "z"),
        ]
    )
    copy.graph.node.insert(0, helper.make_node("QuantizeLinear", [image, "s", "z"], ["q"]))
    copy.graph.node.insert(1, helper.make_node("DequantizeLinear", ["q", "s", "z"], ["image.back"]))

    assert coarsest_of(copy) == "int8"
    assert precision_of(copy) == "fp32"


def test_an_output_that_no_reduced_layer_reaches_is_judged_as_float(model):
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    value = next(v for v in copy.graph.output if v.name == "score_8")
    for node in copy.graph.node:
        node.output[:] = ["score_8.fine" if name == value.name else name for name in node.output]
    copy.graph.node.extend(
        [
            helper.make_node("Cast", ["score_8.fine"], ["score_8.half"], to=TensorProto.FLOAT16),
            helper.make_node("Cast", ["score_8.half"], ["score_8"], to=TensorProto.FLOAT),
        ]
    )

    judged = output_precisions(copy)

    assert judged["score_8"] == "fp16"
    assert {judged[name] for name in judged if name != "score_8"} == {"fp32"}


# ---------------------------------------------------------------- weights at rest


def test_a_half_model_keeps_every_weight_within_the_rounding_of_halves(tiny, half, tmp_path):
    found = compare_weights(tiny, saved(half, tmp_path))

    assert not found.differ
    assert "fp16" in found.worst


def test_an_int8_model_keeps_every_weight_within_half_a_step(tiny, int8, tmp_path):
    found = compare_weights(tiny, saved(int8, tmp_path))

    assert not found.differ, [str(r) for r in found.results()]
    assert found.worst.keys() == {"int8", "fp32"}  # what stays float is compared exactly


@pytest.mark.parametrize("place", range(0, 30, 6))
def test_one_weight_of_an_int8_model_two_steps_off_is_found(place, tiny, int8, tmp_path):
    copy = onnx.ModelProto()
    copy.CopyFrom(int8)
    tensors = {t.name: t for t in copy.graph.initializer}
    names = [n for n in F["weight_tensors"](copy) if n in tensors]
    tensor = tensors[names[place % len(names)]]
    values = numpy_helper.to_array(tensor).copy()
    flat = values.reshape(-1)
    middle = np.argsort(np.abs(flat.astype(float)))[flat.size // 2]
    flat[middle] += 2 if values.dtype == np.int8 else np.abs(flat).max() / 50  # over two steps
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    assert compare_weights(tiny, saved(copy, tmp_path)).differ


@pytest.mark.parametrize("share", [0.01, 0.05])
def test_noise_on_the_weights_of_an_int8_model_is_found(share, tiny, int8, tmp_path):
    planted = F["plant"](int8, F["weights_noisy"](share))

    assert not report_on(tiny, planted, tmp_path).passed


# ---------------------------------------------------------------- equal functions


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", R["SAME_WEIGHTS"])
def test_the_same_weights_in_another_graph_pass_without_a_remark(name, tiny, model, tmp_path):
    report = report_on(tiny, R["SAME_WEIGHTS"][name](model), tmp_path)

    assert report.passed, report.summary()
    assert not any("arranged in another way" in note for note in report.notes)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("opset", [11, 12, 13, 14])
def test_a_foreign_export_of_an_old_opset_passes(opset, tiny, tmp_path):
    exported = onnx_from_checkpoint(tiny, OnnxOptions(opset=opset))

    report = report_on(tiny, R["renamed"](R["bare"](exported)), tmp_path)

    assert report.passed, report.summary()
    assert not any("arranged in another way" in note for note in report.notes)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", R["OTHER_WEIGHTS"])
def test_other_weights_that_make_the_same_function_pass_and_are_told(name, tiny, model, tmp_path):
    report = report_on(tiny, R["OTHER_WEIGHTS"][name](model), tmp_path)

    assert report.passed, report.summary()
    assert any("arranged in another way" in note for note in report.notes)


@pytest.mark.parametrize("name", R["EITHER"])
def test_a_file_with_fused_convolutions_passes(name, tiny, model, tmp_path):
    assert report_on(tiny, R["EITHER"][name](model), tmp_path).passed


@pytest.mark.parametrize("place", range(0, 30, 6))
def test_noise_of_0_3_percent_on_one_convolution_of_a_rearranged_model_fails(
    place, tiny, model, tmp_path
):
    changed = R["permuted"](model)
    names = [n.input[1] for n in changed.graph.node if n.op_type == "Conv"]
    tensor = next(t for t in changed.graph.initializer if t.name == names[place % len(names)])
    values = numpy_helper.to_array(tensor)
    noise = 1 + 0.003 * np.random.default_rng(place).standard_normal(values.shape)
    tensor.CopyFrom(numpy_helper.from_array((values * noise).astype(np.float32), tensor.name))

    assert not report_on(tiny, changed, tmp_path).passed


def test_external_data_passes(tiny, model, tmp_path):
    path = tmp_path / "external.onnx"
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, path, save_as_external_data=True, location="weights.bin", size_threshold=512)

    assert verify(tiny, path, Demand()).passed


# ---------------------------------------------------------------- stale lines


@pytest.mark.parametrize("io", ["float32", "float16"])
def test_halves_with_the_metadata_of_the_float_model_pass_and_the_stale_line_is_named(
    io, tiny, tiny_onnx, tmp_path
):
    source = formats()["onnx"].artifact_at(tiny_onnx)
    half = fp16_from_float(source, Fp16Settings(Fp16Options(io=io), None))
    F["claimed"]("fp32").edit(half)

    report = report_on(tiny, half, tmp_path)

    assert report.passed, report.summary()
    assert any("precision says fp32 and is stale" in note for note in report.notes)
