"""--input, --layout and --input-color: the same network, fed with what a camera gives."""

from __future__ import annotations

import runpy
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

from scrfdconv.checks.faces.images import normalise
from scrfdconv.checks.parity import compare, samples_for
from scrfdconv.checks.stimuli import stimuli
from scrfdconv.checks.weights import compare_weights
from scrfdconv.converters.errors import ArtifactError, UsageError
from scrfdconv.converters.formats import formats
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint, simplified
from scrfdconv.converters.formats.pytorch.runner import EagerRunner
from scrfdconv.converters.graph.inference import values_of_outputs
from scrfdconv.converters.graph.model_file import serialised
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.normalization import STANDARD, Normalization

FAKES = Path(__file__).parents[2] / "fakes"
prefaced = runpy.run_path(str(FAKES / "prefaced.py"))["prefaced"]
FRAME = {"input": "uint8", "layout": "nhwc", "input_color": "bgr"}
ASKED = [
    FRAME,
    {"input": "uint8"},
    {"input": "float", "layout": "nhwc"},
    {"input_color": "bgr"},
    {"layout": "nhwc", "input_color": "rgb"},
]
IMAGENET = Normalization((103.53, 116.28, 123.675), (57.375, 57.12, 58.395), "bgr")
SIZE = (64, 96)
ROUNDED = 2e-5  # of float32, where weights were multiplied by what is no power of two
CANVAS = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
STEM = "/backbone/stem/stem.0/Conv"


def trained_on(checkpoint, normalization):
    architecture = replace(checkpoint.architecture, normalization=normalization)
    return replace(checkpoint, architecture=architecture)


def written(checkpoint, path, **options):
    path.write_bytes(serialised(onnx_from_checkpoint(checkpoint, OnnxOptions(**options))))
    return path


@pytest.fixture(scope="module")
def frame_onnx(tiny, tmp_path_factory):
    return written(tiny, tmp_path_factory.mktemp("frame") / "frame.onnx", **FRAME)


@pytest.mark.parametrize(
    ("options", "normalization"),
    [*((options, STANDARD) for options in ASKED), (FRAME, IMAGENET), (ASKED[-1], IMAGENET)],
)
def test_every_form_gives_what_the_network_gives(tiny, tmp_path, options, normalization):
    checkpoint = trained_on(tiny, normalization)
    path = written(checkpoint, tmp_path / "form.onnx", **options)
    images = normalise(CANVAS, normalization)

    got = OnnxRunner(path).run(images)

    for name, values in EagerRunner(checkpoint).run(images).items():
        np.testing.assert_allclose(got[name], values, atol=ROUNDED, err_msg=name)
    assert not compare_weights(checkpoint, path, form=OnnxRunner(path).interface.form).differ


def test_a_frame_is_fed_as_it_is(tiny_onnx, frame_onnx):
    session = onnxruntime.InferenceSession(frame_onnx, providers=["CPUExecutionProvider"])

    found = session.run(["score_8", "bbox_8"], {"input.1": CANVAS[None]})

    wanted = OnnxRunner(tiny_onnx).run(normalise(CANVAS, STANDARD))
    np.testing.assert_allclose(found[0], wanted["score_8"], atol=ROUNDED)
    np.testing.assert_allclose(found[1], wanted["bbox_8"], atol=ROUNDED)


def test_the_default_writes_the_same_bytes_as_ever(tiny, tiny_onnx, tmp_path):
    asked = {"input": "float", "layout": "nchw", "input_color": "rgb"}

    assert written(tiny, tmp_path / "a.onnx", **asked).read_bytes() == tiny_onnx.read_bytes()


def test_a_mean_in_the_bias_is_wrong_along_the_borders(tiny, tmp_path):
    """Why the offset stays an operator: inside both are the same sum, but zeros pad pixels."""
    right = onnx.load(written(tiny, tmp_path / "bytes.onnx", input="uint8"))
    wrong = onnx.ModelProto()
    wrong.CopyFrom(right)
    tensors = {tensor.name: tensor for tensor in wrong.graph.initializer}
    (offset,) = (node for node in wrong.graph.node if node.op_type == "Sub")
    (stem,) = (node for node in wrong.graph.node if node.name == STEM)
    mean = numpy_helper.to_array(tensors[offset.input[1]])
    weight, bias = (numpy_helper.to_array(tensors[name]) for name in stem.input[1:])
    tensors[stem.input[2]].CopyFrom(
        numpy_helper.from_array(bias - (weight * mean).sum((1, 2, 3)), stem.input[2])
    )
    stem.input[0] = offset.input[0]

    maps = []
    for model in (right, wrong):
        del model.graph.output[:]
        model.graph.output.add().name = stem.output[0]
        image = CANVAS.transpose(2, 0, 1)[None].copy()
        maps.append(values_of_outputs(model, {"input.1": image})[stem.output[0]])
    away = np.abs(maps[0] - maps[1])

    assert away[:, :, 1:, 1:].max() < ROUNDED
    assert away[:, :, 0].max() > 0.01


def test_metadata_that_lie_fail_the_comparison(tiny_onnx, frame_onnx, tmp_path):
    model = onnx.load(frame_onnx)
    for entry in model.metadata_props:
        entry.value = entry.value.replace('"color": "BGR"', '"color": "RGB"')
    onnx.save(model, tmp_path / "lie.onnx")

    def failures(path):
        want, got = OnnxRunner(tiny_onnx), OnnxRunner(path)
        samples = list(samples_for(want.interface, got.interface))[-1:]
        return [result for result in compare(want, got, samples) if not result.passed]

    assert failures(tmp_path / "lie.onnx")
    assert not failures(frame_onnx)


def test_metadata_against_the_declared_input_are_damaged(frame_onnx, tmp_path):
    model = onnx.load(frame_onnx)
    for entry in model.metadata_props:
        entry.value = entry.value.replace("NHWC", "NCHW")
    onnx.save(model, tmp_path / "damaged.onnx")

    with pytest.raises(ArtifactError, match="its metadata say uint8 NCHW"):
        OnnxRunner(tmp_path / "damaged.onnx")


def test_pictures_for_bytes_are_whole_bytes_for_both(tiny_onnx, frame_onnx):
    pair = OnnxRunner(tiny_onnx).interface, OnnxRunner(frame_onnx).interface

    for sample in samples_for(*pair):
        pixels = sample.images * 128 + 127.5
        np.testing.assert_array_equal(pixels, np.clip(np.rint(pixels), 0, 255))


def test_a_fixed_size_is_that_of_the_picture(tiny, tmp_path):
    path = written(tiny, tmp_path / "a.onnx", shape=SIZE, batch=2, **FRAME)

    dims = onnx.load(path).graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims] == [2, *SIZE, 3]
    assert OnnxRunner(path).interface.shape == SIZE


def test_a_graph_gets_another_input_without_its_network(tiny_onnx, tmp_path):
    """Of a released file that is not lifted."""
    model = onnx.load(tiny_onnx)
    del model.metadata_props[:]
    path = tmp_path / "made.onnx"
    path.write_bytes(serialised(simplified(model, OnnxOptions(**FRAME))))
    images = STANDARD.whole_bytes(stimuli(2, *SIZE, 0))

    got = OnnxRunner(path).run(images)

    for name, values in OnnxRunner(tiny_onnx).run(images).items():
        np.testing.assert_allclose(got[name], values, atol=ROUNDED)


def test_a_second_form_over_the_first_is_refused(frame_onnx):
    with pytest.raises(UsageError, match="takes uint8 NHWC, BGR"):
        simplified(onnx.load(frame_onnx), OnnxOptions(input="uint8", layout="nchw"))


def test_openvino_takes_the_frame(tiny, frame_onnx, tmp_path):
    pytest.importorskip("openvino")
    one = formats()["openvino"]
    source = formats()["onnx"].artifact_at(frame_onnx)
    one.build(source, one.options(), tmp_path / "frame.xml", "fp32")
    images = normalise(CANVAS, STANDARD)

    runner = one.open(tmp_path / "frame.xml")

    assert runner.interface.form == OnnxRunner(frame_onnx).interface.form
    for name, values in EagerRunner(tiny).run(images).items():
        np.testing.assert_allclose(runner.run(images)[name], values, atol=ROUNDED)
    form = runner.interface.form
    assert not compare_weights(tiny, tmp_path / "frame.xml", form=form).differ


def test_openvino_says_what_a_foreign_graph_takes(tiny, tiny_onnx, tmp_path):
    pytest.importorskip("openvino")
    one = formats()["openvino"]
    source = formats()["onnx"].artifact_at(prefaced(tiny_onnx, tmp_path / "foreign.onnx", "frame"))
    one.build(source, one.options(), tmp_path / "foreign.xml", "fp32")
    images = normalise(CANVAS, STANDARD)

    got = one.open(tmp_path / "foreign.xml").run(images)

    for name, values in EagerRunner(tiny).run(images).items():
        np.testing.assert_allclose(got[name], values, atol=ROUNDED)


def test_halves_of_multiplied_weights_are_those_of_training(tiny, tmp_path):
    """Weights that absorbed 1 / 128 fall below the smallest normal number of FP16."""
    maker = formats()["openvino"]
    if missing := maker.why_not_built():
        pytest.skip(missing)
    key = next(key for key, value in tiny.weights.items() if value.ndim == 4)
    small = tiny.weights[key].clone()
    small[0, 0] = 1.03e-4
    checkpoint = replace(tiny, weights={**tiny.weights, key: small})
    source = formats()["onnx"].artifact_at(written(checkpoint, tmp_path / "frame.onnx", **FRAME))

    maker.convert(source, tmp_path / "frame.xml", maker.options(), None, "fp16")

    runner = maker.open(tmp_path / "frame.xml")
    at_rest = compare_weights(checkpoint, tmp_path / "frame.xml", "fp16", runner.interface.form)
    assert runner.interface.form.type == "uint8"
    assert not at_rest.differ
