"""The verifier must catch what goes wrong in practice: each fault is planted here."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from scrfdconv.checks import parity
from scrfdconv.checks.parity import common_shapes, compare, require_memory, samples_for
from scrfdconv.checks.results import Report
from scrfdconv.checks.stimuli import STIMULI, stimuli, stimulus
from scrfdconv.checks.tolerances import LIMITS, limits_for
from scrfdconv.checks.verification import Demand, verify
from scrfdconv.converters.checkpoint.loading import load_checkpoint, seeded_checkpoint
from scrfdconv.converters.errors import ArtifactError, MissingError, UsageError
from scrfdconv.converters.formats import formats
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.runner import Interface, Runner
from scrfdconv.recipes.artifacts.conversion import convert
from scrfdconv.recipes.artifacts.target import target_of


@pytest.fixture(scope="module")
def kps(tiny):
    """A network with all three kinds of outputs, small enough to verify many times."""
    return tiny


@pytest.fixture(autouse=True)
def small_pictures(request, monkeypatch):
    """A planted fault shows on small pictures, too."""
    if request.function is not test_common_shapes_follow_fixed_dimensions_and_the_coarser_grid:
        shapes = ((1, 128, 160), (2, 96, 64), (3, 64, 96))
        monkeypatch.setattr(parity, "DYNAMIC_SHAPES", shapes)


@pytest.fixture(scope="module")
def kps_model(kps):
    return onnx_from_checkpoint(kps, OnnxOptions())


def tensor(model, name):
    return next(t for t in model.graph.initializer if t.name == name)


def change(model, name, new):
    """A copy of ``model`` whose initializer ``name`` is ``new(old)``."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    old = tensor(copy, name)
    old.CopyFrom(numpy_helper.from_array(new(numpy_helper.to_array(old).copy()), name))
    return copy


def conv_weights(model):
    return [n.input[1] for n in model.graph.node if n.op_type == "Conv"]


def report_on(kps, model, tmp_path, **demand) -> Report:
    path = Path(tmp_path, "planted.onnx")
    onnx.save(model, path)
    return verify(kps, path, Demand(**demand))


def test_the_export_itself_passes(kps, kps_model, tmp_path):
    report = report_on(kps, kps_model, tmp_path)

    assert report.passed, report.summary()
    assert {r.check for r in report.results} == {"parity", "batch", "weights"}
    assert {r.subject for r in report.results} >= set(kps.architecture.output_names)


def test_swapped_color_channels_fail(kps, kps_model, tmp_path):
    first = conv_weights(kps_model)[0]
    swapped = change(kps_model, first, lambda w: w[:, ::-1].copy())

    assert not report_on(kps, swapped, tmp_path, weights=False).passed


def test_a_wrong_keypoint_order_fails(kps, kps_model, tmp_path):
    """The two eyes of both anchors exchanged, as a flip without its permutation leaves them."""
    name = next(n for n in conv_weights(kps_model) if tensor(kps_model, n).dims[0] == 20)
    order = [2, 3, 0, 1, *range(4, 10)]
    both = order + [i + 10 for i in order]
    bias = name.replace(".weight", ".bias")
    swapped = change(change(kps_model, name, lambda w: w[both]), bias, lambda b: b[both])

    report = report_on(kps, swapped, tmp_path, weights=False)

    assert {r.subject for r in report.failures} == {"kps_8"}


@pytest.mark.parametrize(
    ("a", "b"), [("score_8", "score_16"), ("bbox_8", "kps_8"), ("bbox_16", "bbox_32")]
)
def test_a_swapped_pair_of_outputs_fails(a, b, kps, kps_model, tmp_path):
    model = onnx.ModelProto()
    model.CopyFrom(kps_model)
    names = {a: b, b: a}
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
        node.input[:] = [names.get(name, name) for name in node.input]
    for value in model.graph.output:
        value.type.tensor_type.shape.dim[1].dim_param = "n"
        value.type.tensor_type.shape.dim[2].dim_param = "c"

    report = report_on(kps, model, tmp_path, weights=False)

    assert {r.subject for r in report.failures} >= {a, b}


def test_outputs_in_another_order_fail(kps, kps_model, tmp_path):
    """Right names at wrong positions: most consumers take outputs by position."""
    model = onnx.ModelProto()
    model.CopyFrom(kps_model)
    outputs = list(kps_model.graph.output)
    del model.graph.output[:]
    model.graph.output.extend([outputs[3], *outputs[1:3], outputs[0], *outputs[4:]])

    report = report_on(kps, model, tmp_path)

    assert "outputs come as bbox_8" in report.summary()


@pytest.mark.parametrize("index", [0, 5, 12, -4, -1])
def test_a_conv_changed_by_one_percent_fails_on_outputs_alone(index, kps, kps_model, tmp_path):
    changed = change(kps_model, conv_weights(kps_model)[index], lambda w: w * np.float32(1.01))

    assert not report_on(kps, changed, tmp_path, weights=False).passed


@pytest.mark.sampled(2)
@pytest.mark.parametrize("index", [0, 5, 12, -4, -1])
@pytest.mark.parametrize("rank", [0.0, 0.5, 1.0, 2.0])
def test_one_weight_changed_by_one_percent_fails(index, rank, kps, kps_model, tmp_path):
    """Also a small one, which no output may show: weights are compared at rest, too."""

    def perturb(weight):
        flat = weight.reshape(-1)
        order = np.argsort(-np.abs(flat))
        flat[order[int(rank * 0.5 * (flat.size - 1))]] *= np.float32(1.01)
        return weight

    changed = change(kps_model, conv_weights(kps_model)[index], perturb)

    assert not report_on(kps, changed, tmp_path).passed


@pytest.fixture(scope="module")
def half_model(kps, tmp_path_factory):
    path = tmp_path_factory.mktemp("half") / "half.onnx"
    convert(kps, target_of("onnx", "fp16"), path, None)
    return onnx.load(path)


def test_an_fp16_model_is_compared_weight_by_weight_too(kps, half_model, tmp_path):
    report = report_on(kps, half_model, tmp_path)

    assert report.passed, report.summary()
    assert "weights" in {r.check for r in report.results}


def test_one_weight_of_an_fp16_model_changed_by_one_percent_fails(kps, half_model, tmp_path):
    def perturb(weight):
        flat = weight.reshape(-1)
        flat[np.argsort(np.abs(flat))[flat.size // 2]] *= np.float16(1.01)
        return weight

    changed = change(half_model, conv_weights(half_model)[5], perturb)

    assert {r.check for r in report_on(kps, changed, tmp_path).failures} == {"weights"}


def test_a_foreign_export_with_its_batchnorms_unfolded_passes(kps, tmp_path):
    path = tmp_path / "unfolded.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            kps.model(), (torch.zeros(1, 3, 64, 96),), path, dynamo=False, opset_version=17,
            training=torch.onnx.TrainingMode.PRESERVE, do_constant_folding=False,
            input_names=["input.1"], output_names=list(kps.architecture.output_names),
        )  # fmt: skip
    assert "BatchNormalization" in {node.op_type for node in onnx.load(path).graph.node}

    report = verify(kps, path)

    assert report.passed, report.summary()


def test_weights_of_another_training_fail(kps, tmp_path):
    other = seeded_checkpoint(kps.architecture, 1)
    model = onnx_from_checkpoint(other, OnnxOptions())

    assert not report_on(kps, model, tmp_path, weights=False).passed


def test_another_baked_size_fails(kps, kps_model, tmp_path):
    """Upsampling to the sizes of 320x320 in a model that declares itself dynamic."""
    baked = onnx.ModelProto()
    baked.CopyFrom(kps_model)
    resizes = (node for node in baked.graph.node if node.op_type == "Resize")
    for node, side in zip(resizes, (20, 40), strict=True):  # strides 16 and 8
        sizes = np.array([1, kps.architecture.neck_channels, side, side])
        baked.graph.initializer.append(numpy_helper.from_array(sizes, f"sizes.{side}"))
        node.input[:] = [node.input[0], "", "", f"sizes.{side}"]

    report = report_on(kps, baked, tmp_path, weights=False)

    assert not report.passed
    assert any(r.metric == "runs" for r in report.failures)


def test_a_baked_batch_fails(kps, kps_model, tmp_path):
    fixed = onnx_from_checkpoint(kps, OnnxOptions(shape=(64, 96), batch=1))
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    for node in fixed.graph.node:
        if node.op_type == "Reshape":
            shape = tensor(fixed, node.input[1])
            values = numpy_helper.to_array(shape).copy()
            values[0] = 1
            shape.CopyFrom(numpy_helper.from_array(values, shape.name))
    for value in fixed.graph.output:
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
        value.type.tensor_type.shape.dim[1].dim_param = f"n_{value.name}"

    assert not report_on(kps, fixed, tmp_path, weights=False).passed


def test_metadata_of_another_size_fail(kps, tmp_path):
    fixed = onnx_from_checkpoint(kps, OnnxOptions(shape=(64, 96)))
    entry = next(p for p in fixed.metadata_props if p.key == "scrfdconv.shape")
    entry.value = "640x640"

    report = report_on(kps, fixed, tmp_path)

    assert "its metadata say 640x640, it takes 64x96" in report.summary()


@pytest.mark.parametrize("text", ['{"name": "x"', "[]", '{"name": "x"}', '{"fast": true}'])
def test_damaged_metadata_are_an_input_error(text, kps, kps_model, tmp_path):
    model = onnx.ModelProto()
    model.CopyFrom(kps_model)
    entry = next(p for p in model.metadata_props if p.key == "scrfdconv.architecture")
    entry.value = text

    with pytest.raises(ArtifactError, match=r"metadata scrfdconv\.architecture are damaged"):
        report_on(kps, model, tmp_path)


@pytest.mark.parametrize("drop", ["score_8", "kps_32"])
def test_a_missing_output_fails(drop, kps, kps_model, tmp_path):
    model = onnx.ModelProto()
    model.CopyFrom(kps_model)
    model.graph.output.remove(next(o for o in model.graph.output if o.name == drop))

    report = report_on(kps, model, tmp_path)

    assert f"missing {drop}" in report.summary()


class Constructed(Runner):
    """A runner whose outputs a test makes up."""

    def __init__(self, outputs, interface=None):
        super().__init__(interface or Interface(tuple(outputs)))
        self.outputs = outputs

    def _run(self, images):
        return [make(images) for make in self.outputs.values()]


def noise(images):
    rows = images.shape[2] * images.shape[3] // 32
    return np.random.default_rng(0).normal(size=(len(images), rows, 1)).astype(np.float32)


def nan(images):
    values = noise(images)
    values[-1, -1] = np.nan
    return values


BAD = {
    "NaN": (nan, "finite"),
    "infinite": (lambda i: noise(i) / 0, "finite"),
    "all zero": (lambda i: noise(i) * 0, "alive"),
    "constant": (lambda i: noise(i) * 0 + 0.5, "alive"),
    "short": (lambda i: noise(i)[:, 1:], "shape"),
    "rank": (lambda i: noise(i)[..., None], "runs"),  # read as maps, which they are not
    "empty": (lambda i: noise(i)[:, :0], "shape"),
}


@pytest.mark.parametrize("fault", BAD)
@pytest.mark.filterwarnings("ignore:divide by zero")
def test_an_output_that_cannot_be_measured_fails(fault):
    make, metric = BAD[fault]
    want, got = Constructed({"score_8": noise}), Constructed({"score_8": make})

    report = Report.of(compare(want, got, samples_for(want.interface, got.interface)))

    assert {r.metric for r in report.failures} >= {metric}


def test_a_reference_that_is_not_finite_fails():
    want, got = Constructed({"score_8": nan}), Constructed({"score_8": noise})

    assert not Report.of(compare(want, got, samples_for(want.interface, got.interface))).passed


def test_an_extra_output_fails():
    want = Constructed({"score_8": noise})
    got = Constructed({"score_8": noise, "bbox_8": noise})

    report = Report.of(compare(want, got, samples_for(want.interface, got.interface)))

    assert "extra bbox_8" in report.summary()


def test_models_without_a_common_shape_fail():
    want = Constructed({"score_8": noise}, Interface(("score_8",), 1, 320, 320))
    got = Constructed({"score_8": noise}, Interface(("score_8",), 1, 640, 640))

    report = Report.of(compare(want, got, samples_for(want.interface, got.interface)))

    assert not report.passed
    assert "share no input shape" in report.summary()


def test_a_model_with_fewer_outputs_than_it_declares_fails():
    want = Constructed({"score_8": noise, "bbox_8": noise})
    got = Constructed({"score_8": noise}, Interface(("score_8", "bbox_8")))

    report = Report.of(compare(want, got, samples_for(want.interface, got.interface)))

    assert not report.passed
    assert "returns 1 outputs, where 2 are declared" in report.summary()


def test_a_mix_up_of_batch_slots_fails(tiny):
    from scrfdconv.converters.formats.pytorch.runner import EagerRunner

    class Shuffled(EagerRunner):
        def _run(self, images):
            return [output[::-1] for output in super()._run(images)]

    want, got = EagerRunner(tiny), Shuffled(tiny)

    report = Report.of(compare(want, got, samples_for(want.interface, got.interface)))

    assert {r.subject for r in report.failures} == set(tiny.architecture.output_names)
    assert "slot" in report.summary()


def test_a_model_that_fails_to_run_fails_the_report_and_the_rest_is_still_measured(tiny):
    from scrfdconv.converters.formats.pytorch.runner import EagerRunner

    class Fails(EagerRunner):
        def _run(self, images):
            if len(images) > 1:
                raise ArtifactError("out of slots")
            return super()._run(images)

    want = EagerRunner(tiny)
    report = Report.of(compare(want, Fails(tiny), samples_for(want.interface, want.interface)))

    assert not report.passed
    assert any("out of slots" in r.detail for r in report.failures)
    assert any(r.subject == "score_8" and r.metric == "sqnr" for r in report.results)


def test_every_stimulus_differs_between_channels_slots_and_seeds():
    for kind in STIMULI:
        image = stimulus(kind, 64, 96, 0)
        assert image.dtype == np.float32
        assert np.abs(image).max() <= 1
        assert not np.allclose(image[0], image[2]), f"{kind}: a color swap would not show"
        assert not np.array_equal(image, stimulus(kind, 64, 96, 1))
    batch = stimuli(4, 64, 96, 0)
    assert all(not np.array_equal(batch[0], other) for other in batch[1:])


def test_common_shapes_follow_fixed_dimensions_and_the_coarser_grid():
    free, fixed = Interface(("score_8",)), Interface(("score_8",), 2, 96, 64)
    coarse = replace(free, size_multiple=128)

    assert common_shapes(free, free) == [(1, 640, 640), (2, 320, 256), (3, 64, 96)]
    assert common_shapes(free, fixed) == [(2, 96, 64)]
    assert common_shapes(free, coarse) == [(1, 640, 640), (2, 384, 384), (3, 256, 384)]
    assert common_shapes(coarse, fixed) == []


def test_five_strides_with_groupnorm_are_compared_where_their_norm_has_something_to_do(
    tiny_gn, tmp_path
):
    """One group per channel: on a map of one cell it gives a constant, by nature."""
    strides = (8, 16, 32, 64, 128)
    five = replace(tiny_gn.architecture, strides=strides, anchors=1, head_groups=8)
    checkpoint = seeded_checkpoint(five)

    report = report_on(checkpoint, onnx_from_checkpoint(checkpoint, OnnxOptions()), tmp_path)

    assert report.passed, report.summary()


def test_an_output_of_one_value_is_not_constant():
    def one(images):
        return images[:1, :1, 0, :1, None] + 1

    runner = Constructed({"score_8": one})
    report = Report.of(compare(runner, runner, samples_for(runner.interface, runner.interface)))

    assert not [r for r in report.failures if r.metric == "alive"]


def test_a_comparison_that_cannot_fit_into_memory_is_refused_before_it_starts():
    with pytest.raises(MissingError, match="choose a smaller shape"):
        require_memory(48.0, [(1, 200_000, 200_000)])


def test_limits_are_only_loosened_and_say_so():
    row = limits_for("fp32", "score_8", 10)

    assert row.max_abs == pytest.approx(10 * LIMITS["fp32", "score"].max_abs)
    assert row.sqnr == pytest.approx(LIMITS["fp32", "score"].sqnr - 20)
    assert "loosened 10 times" in row.reason
    for factor in (0.5, math.inf, math.nan):
        with pytest.raises(UsageError, match="1 or more"):
            limits_for("fp32", "score_8", factor)
    assert all(limits.reason for limits in LIMITS.values())


RELEASED = [
    ("scrfd_500m_bnkps", "det_500m"),
    ("scrfd_500m_bnkps", "scrfd_500m_bnkps_shape640x640"),
    ("scrfd_500m_bnkps", "scrfd_500m_bnkps_shape320x320"),
    ("scrfd_500m", "scrfd_500m"),
    ("scrfd_2.5g_bnkps", "det_2.5g"),
]


@pytest.mark.parametrize(("checkpoint", "released"), RELEASED)
def test_released_files_are_verified_against_their_checkpoints(checkpoint, released, data):
    images = tuple(sorted(data.glob("images/test/*.jpg"))[:1])
    reference = load_checkpoint(data / "checkpoints" / f"{checkpoint}.pth")

    report = verify(reference, data / "onnx" / f"{released}.onnx", Demand(images))

    assert report.passed, report.summary()
    assert {r.check for r in report.results} == {"parity", "weights", "faces"}


def test_released_files_of_other_models_are_told_apart(data):
    reference = load_checkpoint(data / "checkpoints" / "scrfd_500m_bnkps.pth")

    assert not verify(reference, data / "onnx" / "det_2.5g.onnx").passed
    other = formats()["onnx"].artifact_at(data / "onnx" / "scrfd_500m_bnkps_shape640x640.onnx")
    assert verify(other, data / "onnx" / "det_500m.onnx").passed


@pytest.mark.parametrize("released", ["det_500m", "scrfd_500m_bnkps_shape640x640"])
def test_released_files_with_outputs_out_of_order_fail(released, data, tmp_path):
    """Numeric names carry no meaning: a wrong position must not be repaired by the shape."""
    model = onnx.load(data / "onnx" / f"{released}.onnx")
    outputs = list(model.graph.output)
    order = [1, 0, *range(2, 9)]
    del model.graph.output[:]
    model.graph.output.extend(outputs[i] for i in order)
    path = tmp_path / "swapped.onnx"
    onnx.save(model, path)

    assert not verify(load_checkpoint(data / "checkpoints/scrfd_500m_bnkps.pth"), path).passed


def test_runner_names_are_canonical_for_released_files(data):
    for path in sorted(data.glob("onnx/*.onnx")):
        outputs = OnnxRunner(path).interface.outputs
        assert outputs[:4] == ("score_8", "score_16", "score_32", "bbox_8")
        assert len(outputs) in (6, 9)
