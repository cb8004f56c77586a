"""FP16: valid for every network, nothing clamped, and float32 exactly where it is needed."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from scrfdconv.checks.parity import compare, samples_for
from scrfdconv.converters.checkpoint.loading import seeded_checkpoint
from scrfdconv.converters.errors import ArtifactError, UsageError
from scrfdconv.converters.formats import formats
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import OPSETS, onnx_from_checkpoint
from scrfdconv.converters.graph.edits import prepared as prepared_for_edits
from scrfdconv.converters.graph.kept_float import kept_float
from scrfdconv.converters.graph.model_file import opset_of, serialised
from scrfdconv.converters.graph.norms import norm_nodes
from scrfdconv.converters.graph.number_types import convolutions, precision_of
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.network.architecture import BUILTIN
from scrfdconv.converters.precision.fp16 import Fp16Options
from scrfdconv.converters.precision.fp16 import half as float16
from scrfdconv.converters.precision.fp16.conversion import Fp16Settings
from scrfdconv.converters.precision.fp16.range import LARGEST

SHAPE = (64, 96)  # small: most tests look at the graph, not at accuracy
SMALLEST = "scrfd_500m_kps"
GROUP_NORM = "scrfd_500m"
# Seeding and exporting these takes seconds each; the others have every kind of layer.
HEAVY = ("scrfd_10g", "scrfd_34g", "scrfd_10g_kps", "scrfd_1gbn")


@cache
def checkpoint_of(name):
    return seeded_checkpoint(BUILTIN[name])


def export(name, path, **options):
    model = onnx_from_checkpoint(checkpoint_of(name), OnnxOptions(**options))
    path.write_bytes(serialised(model))
    return path


def convert(path, images=None, **options):
    out = path.with_name(f"{path.stem}_fp16.onnx")
    settings = Fp16Settings(Fp16Options(**options), images)
    onnx_format = formats()["onnx"]
    onnx_format.convert(onnx_format.artifact_at(path), out, settings, None, "fp16")
    return out


def failures(reference, artifact, **options):
    samples = samples_for(reference.interface, artifact.interface)
    found = list(compare(reference, artifact, samples, precision="fp16", **options))
    assert found
    return [result for result in found if not result.passed]


def kept(path):
    return kept_float(OnnxRunner(path).metadata)


def weight_of(model, node):
    return next(t for t in model.graph.initializer if t.name == node.input[1])


def scale_weight(model, node, factor, *, bias=True):
    for name in node.input[1 : 3 if bias else 2]:
        tensor = next(t for t in model.graph.initializer if t.name == name)
        array = numpy_helper.to_array(tensor) * np.float32(factor)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def convs_of(model):
    return [node for node in model.graph.node if node.op_type == "Conv"]


def save(model, path):
    path.write_bytes(serialised(model))
    return path


@pytest.fixture(scope="session")
def parent(tmp_path_factory):
    return export(SMALLEST, tmp_path_factory.mktemp("fp16") / "kps.onnx", shape=SHAPE)


@pytest.fixture(scope="session")
def group_norm(tmp_path_factory):
    return export(GROUP_NORM, tmp_path_factory.mktemp("fp16") / "gn.onnx", shape=SHAPE)


# ---------------------------------------------------------------- the graph


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        pytest.param(
            name, shape, marks=[pytest.mark.slow] if name in HEAVY or (not shape and i > 0) else []
        )
        for i, name in enumerate(BUILTIN)
        for shape in (None, SHAPE)
    ],
)
def test_every_network_converts_loads_and_keeps_its_interface(name, shape, tmp_path):
    path = export(name, tmp_path / "m.onnx", shape=shape)
    out = convert(path)
    before, after = onnx.load(path), onnx.load(out)

    onnx.checker.check_model(after, full_check=True)
    assert list(before.graph.input) == list(after.graph.input)
    assert list(before.graph.output) == list(after.graph.output)
    assert opset_of(before) == opset_of(after)
    image = np.zeros((1, 3, *SHAPE), np.float32)
    assert all(value.dtype == np.float32 for value in OnnxRunner(out).run(image).values())
    precisions = Counter(precision for _, precision in convolutions(after))
    assert precisions["fp32"] <= 1
    assert precisions["fp16"] >= 50


@pytest.mark.parametrize("name", [SMALLEST])
def test_an_fp16_network_stays_within_its_limits_at_every_shape(name, tmp_path):
    path = export(name, tmp_path / "m.onnx")

    assert not failures(OnnxRunner(path), OnnxRunner(convert(path)))


@pytest.mark.slow
@pytest.mark.parametrize("all_fp16", [False, True])
@pytest.mark.parametrize("name", BUILTIN)
def test_every_network_stays_within_its_limits(name, all_fp16, tmp_path):
    path = export(name, tmp_path / "m.onnx")

    assert not failures(OnnxRunner(path), OnnxRunner(convert(path, all_fp16=all_fp16)))


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("name", "opset"),
    [(SMALLEST, OPSETS.start), (SMALLEST, 13), (GROUP_NORM, OPSETS.start), (GROUP_NORM, 18),
     (SMALLEST, OPSETS.stop - 1)],
)  # fmt: skip
def test_every_opset_converts_and_is_kept(name, opset, tmp_path):
    path = export(name, tmp_path / "m.onnx", opset=opset, shape=SHAPE)
    out = convert(path)

    onnx.checker.check_model(onnx.load(out), full_check=True)
    assert opset_of(onnx.load(out)) == opset
    OnnxRunner(out).run(np.zeros((1, 3, *SHAPE), np.float32))


def test_the_same_input_gives_the_same_bytes(group_norm, tmp_path):
    first = convert(group_norm).read_bytes()

    assert convert(group_norm).read_bytes() == first


def test_half_the_bytes_remain(parent):
    assert convert(parent).stat().st_size < 0.55 * parent.stat().st_size


def test_float16_io_changes_types_and_nothing_else(parent):
    before, after = onnx.load(parent), onnx.load(convert(parent, io="float16"))

    for old, new in zip(
        (*before.graph.input, *before.graph.output),
        (*after.graph.input, *after.graph.output),
        strict=True,
    ):
        assert new.type.tensor_type.elem_type == TensorProto.FLOAT16
        assert (new.name, new.type.tensor_type.shape) == (old.name, old.type.tensor_type.shape)
    assert not failures(OnnxRunner(parent), OnnxRunner(convert(parent, io="float16")))


def test_metadata_are_the_parents_with_precision_and_what_stayed_float(parent):
    before, after = OnnxRunner(parent).metadata, OnnxRunner(convert(parent)).metadata
    added = {"precision", "io", "kept_float", "parent_sha256"}

    assert {k: v for k, v in after.items() if k not in added} == {
        k: v for k, v in before.items() if k not in added
    }
    assert after["precision"] == "fp16"
    assert after["parent_sha256"] == formats()["onnx"].artifact_at(parent).digest
    assert json.loads(after["kept_float"])


# ---------------------------------------------------------------- the library's bugs


def test_scales_of_a_resize_stay_float(tmp_path, parent):
    model = onnx.load(parent)
    for node in model.graph.node:
        if node.op_type == "Resize":
            name = f"{node.name}.scales"
            model.graph.initializer.append(
                numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), name)
            )
            node.input[:] = [node.input[0], "", name]
    path = save(model, tmp_path / "scales.onnx")
    converted = onnx.load(convert(path))

    tensors = {t.name: t.data_type for t in converted.graph.initializer}
    resizes = [node for node in converted.graph.node if node.op_type == "Resize"]
    assert resizes
    assert all(tensors[node.input[2]] == TensorProto.FLOAT for node in resizes)
    assert not failures(OnnxRunner(path), OnnxRunner(convert(path)))


def test_an_output_that_is_read_inside_keeps_its_name_and_type(tmp_path, parent):
    model = onnx.load(parent)
    score = model.graph.output[0]
    model.graph.node.append(helper.make_node("Neg", [score.name], ["negated"]))
    model.graph.node.append(helper.make_node("Neg", ["negated"], ["score_again"]))
    model.graph.output[0].name = "score_again"
    final = onnx.ModelProto()
    final.CopyFrom(model)
    final.graph.output.append(score)
    final.graph.output[-1].name = "score_8"
    del final.graph.output[0]
    final.graph.output.insert(0, final.graph.output.pop())
    prepared = prepared_for_edits(final)

    result = float16.half_from_float(prepared, [])

    onnx.checker.check_model(result, full_check=True)
    onnx.shape_inference.infer_shapes(result, strict_mode=True)
    assert result.graph.output[0].name == "score_8"


def test_unnamed_nodes_get_names_of_their_own(tmp_path, parent):
    model = onnx.load(parent)
    for node in model.graph.node:
        node.name = ""
    out = convert(save(model, tmp_path / "unnamed.onnx"))

    names = [node.name for node in onnx.load(out).graph.node]
    assert len(set(names)) == len(names)
    assert all(names)


def test_a_weight_that_fp16_and_float_nodes_share_becomes_two(tmp_path, group_norm):
    model = onnx.load(group_norm)
    shared = [n for n in convs_of(model) if n.input[1] == convs_of(model)[-1].input[1]]
    assert len(shared) > 1
    out = convert(group_norm, keep_float=(shared[0].name,))

    converted = onnx.load(out)
    types = {t.name: t.data_type for t in converted.graph.initializer}
    nodes = {node.name: node for node in converted.graph.node}
    assert types[nodes[shared[0].name].input[1]] == TensorProto.FLOAT
    assert types[nodes[shared[1].name].input[1]] == TensorProto.FLOAT16
    assert not failures(OnnxRunner(group_norm), OnnxRunner(out))


def test_a_cast_of_the_source_keeps_its_type(tmp_path, parent):
    model = onnx.load(parent)
    conv = convs_of(model)[-1]
    index = list(model.graph.node).index(conv)
    source = conv.input[0]
    conv.input[0] = "back"
    for offset, (a, b, to) in enumerate(
        ((source, "wide", TensorProto.DOUBLE), ("wide", "back", TensorProto.FLOAT))
    ):
        model.graph.node.insert(index + offset, helper.make_node("Cast", [a], [b], to=to))
    path = save(model, tmp_path / "cast.onnx")

    assert not failures(OnnxRunner(path), OnnxRunner(convert(path)))


# ---------------------------------------------------------------- what stays float


def test_group_norm_stays_float_with_its_scale_and_shift(group_norm):
    entry = kept(convert(group_norm))["normalisation"]
    model = onnx.load(group_norm)
    operators = Counter(n.op_type for n in model.graph.node if n.name in entry)

    norms = operators["Sqrt"]
    assert norms > 0
    assert set(entry) == norm_nodes(model)
    assert operators["Sub"] == operators["Div"] == norms
    assert operators["Mul"] == operators["Add"] == 2 * norms


def test_all_fp16_keeps_only_squares_that_come_near_the_end_of_its_range(group_norm):
    out = convert(group_norm, all_fp16=True)

    names = [name for nodes in kept(out).values() for name in nodes]
    # The simplifier gives a new name to a mean whose axis it moved.
    assert all("/variance/" in name or name.startswith("ReduceMean") for name in names)
    tensors = onnx.load(out).graph.initializer
    floats = {tensor.name for tensor in tensors if tensor.data_type == TensorProto.FLOAT}
    assert floats == {"neck.Resize.scales"}  # the standard has no others


def test_keep_float_takes_nodes_and_operators(parent):
    conv = convs_of(onnx.load(parent))[5].name
    entry = kept(convert(parent, keep_float=(conv, "Sigmoid")))["asked for (--keep-float)"]

    assert conv in entry
    assert sum("Sigmoid" in name for name in entry) == 3


def test_an_unknown_node_is_refused_with_close_ones(parent):
    with pytest.raises(UsageError, match=r"Sigmod.*Sigmoid") as error:
        convert(parent, keep_float=("Sigmod",))
    assert error.value.exit_code == 2


def test_weights_beyond_the_range_stay_float_and_exact(tmp_path, parent):
    model = onnx.load(parent)
    conv = next(n for n in convs_of(model) if n.name.endswith("lateral_convs.0/conv/Conv"))
    array = numpy_helper.to_array(weight_of(model, conv)).copy()
    array[0, 0, 0, 0] = 1e5
    weight_of(model, conv).CopyFrom(numpy_helper.from_array(array, conv.input[1]))
    out = convert(save(model, tmp_path / "m.onnx"))

    reasons = kept(out)
    assert any("weights reach 1e+05" in reason for reason in reasons)
    stored = next(t for t in onnx.load(out).graph.initializer if t.name == conv.input[1])
    assert np.array_equal(numpy_helper.to_array(stored), array)


@pytest.mark.parametrize("factor", [1e5, 1e-7], ids=["overflow", "underflow"])
def test_activations_that_fp16_cannot_hold_stay_float(factor, tmp_path, parent):
    # ReLU passes the factor on, and the next layer divides by it: the same function
    model = onnx.load(parent)
    first, second = convs_of(model)[6:8]
    scale_weight(model, first, factor)
    scale_weight(model, second, 1 / factor, bias=False)
    path = save(model, tmp_path / "scaled.onnx")
    out = convert(path)

    entries = [name for names in kept(out).values() for name in names]
    assert first.name in entries
    assert second.name in entries
    assert not failures(OnnxRunner(parent), OnnxRunner(out))


def test_a_switched_off_channel_is_no_reason_to_keep_a_layer(tmp_path, parent):
    model = onnx.load(parent)
    conv = convs_of(model)[8]
    for name in conv.input[1:3]:
        tensor = next(t for t in model.graph.initializer if t.name == name)
        array = numpy_helper.to_array(tensor).copy()
        array[0] *= np.float32(1e-9)
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    reasons = kept(convert(save(model, tmp_path / "m.onnx")))

    assert list(reasons) == ["first depthwise convolution"]


def test_given_pictures_are_measured_too(tmp_path, parent):
    seen = []

    def pictures():
        seen.append(1)
        yield np.zeros((1, 3, *SHAPE), np.float32)

    convert(parent, images=pictures)

    assert seen


def test_pictures_of_another_shape_are_refused(parent):
    with pytest.raises(UsageError, match="64x64"):
        convert(parent, images=lambda: [np.zeros((1, 3, 64, 64), np.float32)])


def test_no_weight_is_clamped_or_infinite(parent):
    before = {t.name: numpy_helper.to_array(t) for t in onnx.load(parent).graph.initializer}
    for tensor in onnx.load(convert(parent)).graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            array = numpy_helper.to_array(tensor)
            assert np.abs(array.astype(np.float32)).max() < LARGEST
            assert np.array_equal(array, before[tensor.name].astype(np.float16))


# ---------------------------------------------------------------- refusals


def test_an_fp16_model_is_refused(parent, tmp_path):
    out = convert(parent)
    twice = out.with_name("twice.onnx")
    twice.write_bytes(out.read_bytes())

    with pytest.raises(ArtifactError, match="fp16 already") as error:
        convert(twice)
    assert error.value.exit_code == 3
    assert not out.with_name("twice_fp16.onnx").exists()


def test_a_quantized_model_is_refused(parent, tmp_path):
    model = onnx.load(parent)
    conv = convs_of(model)[3]
    source = conv.input[0]
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.1, np.float32), "q.scale"))
    model.graph.initializer.append(numpy_helper.from_array(np.array(0, np.uint8), "q.zero"))
    index = list(model.graph.node).index(conv)
    conv.input[0] = "q.out"
    for offset, (operator, a, b) in enumerate(
        (("QuantizeLinear", source, "q.in"), ("DequantizeLinear", "q.in", "q.out"))
    ):
        node = helper.make_node(operator, [a, "q.scale", "q.zero"], [b])
        model.graph.node.insert(index + offset, node)

    with pytest.raises(ArtifactError, match="int8 already"):
        convert(save(model, tmp_path / "q.onnx"))


def test_a_model_that_is_no_scrfd_is_refused(tmp_path):
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 3, *SHAPE])
    outputs = [helper.make_tensor_value_info(f"y{i}", TensorProto.FLOAT, None) for i in range(6)]
    nodes = [helper.make_node("GlobalAveragePool", ["x"], [f"y{i}"]) for i in range(6)]
    graph = helper.make_graph(nodes, "other", [image], outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "other.onnx"
    onnx.save(model, path)

    with pytest.raises(ArtifactError, match="not an SCRFD") as error:
        convert(path)
    assert error.value.exit_code == 3


def test_precision_is_read_from_the_graph(parent):
    assert precision_of(onnx.load(parent)) == "fp32"
    assert precision_of(onnx.load(convert(parent))) == "fp16"
    assert OnnxRunner(convert(parent)).precision == "fp16"


# ---------------------------------------------------------------- real models


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    ["det_500m", "det_2.5g", "scrfd_500m", "scrfd_500m_bnkps_shape320x320",
     "scrfd_500m_bnkps_shape640x640"],
)  # fmt: skip
def test_released_models_convert_and_stay_within_their_limits(name, data, tmp_path):
    path = tmp_path / f"{name}.onnx"
    path.write_bytes((data / "onnx" / path.name).read_bytes())
    out = convert(path)

    onnx.checker.check_model(onnx.load(out))
    assert OnnxRunner(out).output_names == OnnxRunner(path).output_names
    assert not failures(OnnxRunner(path), OnnxRunner(out))


def test_an_architecture_of_ones_own_converts(tmp_path):
    own = replace(BUILTIN[SMALLEST], name="own", keypoints=0)
    model = onnx_from_checkpoint(seeded_checkpoint(own), OnnxOptions(shape=SHAPE))
    path = save(model, tmp_path / "own.onnx")

    assert not failures(OnnxRunner(path), OnnxRunner(convert(path)))
