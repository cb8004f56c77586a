"""INT8: what is quantized, what stays float, and that the same table gives the same bytes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from scrfdconv.checks.precision import audit
from scrfdconv.checks.stimuli import stimuli
from scrfdconv.converters.checkpoint.loading import seeded_checkpoint
from scrfdconv.converters.errors import ArtifactError, UsageError
from scrfdconv.converters.formats import formats
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.graph.model_file import load_onnx, serialised
from scrfdconv.converters.graph.norms import norm_nodes
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.network.architecture import BUILTIN
from scrfdconv.converters.precision.int8.calibration import (
    CalibrationTable,
    chosen_ranges,
    extremes,
    widest,
)
from scrfdconv.converters.precision.int8.conversion import (
    Int8Settings,
    before_rounding,
    int8_from_float,
    needs_reduced_range,
)
from scrfdconv.converters.precision.int8.float_nodes import (
    AFFINE_REASON,
    BEHIND_REASON,
    DISTRIBUTION_REASON,
    JOINED_REASON,
    LEAN_REASON,
    RELU_REASON,
    SCORE_REASON,
    float_nodes,
)
from scrfdconv.converters.precision.int8.quantization import quantizable
from scrfdconv.converters.precision.int8.sensitivity import layer_sqnr

IMAGES = np.concatenate([stimuli(1, 96, 128, seed) for seed in range(4)])


def pictures():
    return (image[None] for image in IMAGES)


def table_of(path, calibrator="minmax"):
    model = quantizable(load_onnx(path))
    whole = widest(extremes(model, pictures))
    means = {name: values.tolist() for name, values in whole.mean.items()}
    ranges = chosen_ranges(model, whole.ranges("input.1", (-1, 1)), calibrator, pictures)
    return CalibrationTable("source", "images", len(IMAGES), (96, 128), calibrator, ranges, means)


def exported(checkpoint, path, **options):
    path.write_bytes(serialised(onnx_from_checkpoint(checkpoint, OnnxOptions(**options))))
    return path


def built(path, out, **options):
    parent = formats()["onnx"].artifact_at(path)
    out.write_bytes(serialised(int8_from_float(parent, Int8Settings(**options))))
    return out


def makers(model):
    return {name: node for node in model.graph.node for name in node.output}


@pytest.fixture(scope="module")
def table(tiny_onnx):
    return table_of(tiny_onnx)


def test_only_the_heads_and_the_first_convolution_stay_float(tiny_onnx, table, tmp_path):
    path = built(tiny_onnx, tmp_path / "int8.onnx", table=table)

    counted = audit(path)

    assert counted.convolutions["fp32"] == 4  # three strides
    assert counted.share("int8") > 0.7
    assert OnnxRunner(path).precision == "int8"


def test_no_output_is_a_quantized_number(tiny_onnx, table, tmp_path):
    model = onnx.load(built(tiny_onnx, tmp_path / "int8.onnx", table=table))
    before = makers(model)

    for output in model.graph.output:
        node = before[output.name]
        while node.op_type not in ("Conv", "DequantizeLinear"):
            node = before[node.input[0]]
        assert node.op_type == "Conv", output.name


def test_the_interface_stays(tiny_onnx, table, tmp_path):
    path = built(tiny_onnx, tmp_path / "int8.onnx", table=table)
    parent, int8 = onnx.load(tiny_onnx), onnx.load(path)

    assert [str(v) for v in int8.graph.input] == [str(v) for v in parent.graph.input]
    assert [str(v) for v in int8.graph.output] == [str(v) for v in parent.graph.output]
    want, got = OnnxRunner(tiny_onnx).metadata, OnnxRunner(path).metadata
    assert {k: got[k] for k in want if k != "precision"} == {
        k: v for k, v in want.items() if k != "precision"
    }
    assert (got["calibrator"], got["target"], got["calibration_images"]) == ("minmax", "cpu", "4")


def test_the_same_table_gives_the_same_bytes(tiny_onnx, table, tmp_path):
    first = built(tiny_onnx, tmp_path / "a.onnx", table=table).read_bytes()

    assert built(tiny_onnx, tmp_path / "b.onnx", table=table).read_bytes() == first


@pytest.mark.sampled(2)
@pytest.mark.parametrize("calibrator", ["minmax", "entropy", "percentile"])
def test_every_calibrator_gives_a_model_near_the_float_one(tiny_onnx, calibrator, tmp_path):
    path = built(tiny_onnx, tmp_path / "int8.onnx", table=table_of(tiny_onnx, calibrator))

    want, got = OnnxRunner(tiny_onnx).run(IMAGES), OnnxRunner(path).run(IMAGES)

    for name, value in want.items():
        noise = np.square(got[name] - value).sum()
        assert noise < 0.2 * np.square(value - value.mean()).sum(), name


def test_tensorrt_gets_symmetric_pairs_and_float_biases(tiny_onnx, table, tmp_path):
    model = onnx.load(built(tiny_onnx, tmp_path / "trt.onnx", table=table, target="tensorrt"))
    constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}

    zeros = [constants[n.input[2]] for n in model.graph.node if "Linear" in n.op_type]

    assert zeros
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    assert Counter(n.op_type for n in model.graph.node)["Relu"] > 0


@pytest.mark.parametrize("target", ["cpu", "openvino", "tensorrt"])
def test_distributions_of_boxes_stay_float(target, tiny, tmp_path):
    network = seeded_checkpoint(replace(tiny.architecture, box_bins=9))
    model = quantizable(load_onnx(exported(network, tmp_path / "dfl.onnx")))

    kept = float_nodes(model, network.architecture.output_names, target)

    floats = {name for entry in kept for name in entry.nodes}
    rows = {tensor.name: tensor.dims[0] for tensor in model.graph.initializer if tensor.dims}
    logits = (n for n in model.graph.node if n.op_type == "Conv" and rows[n.input[1]] == 2 * 4 * 9)
    last = {node.name for node in logits}
    assert len(last) == 3
    assert last <= floats
    told = [len(entry.nodes) for entry in kept if entry.reason == DISTRIBUTION_REASON]
    assert told == ([] if target == "cpu" else [3])


def test_group_norm_stays_float(tiny_gn, tmp_path):
    path = exported(tiny_gn, tmp_path / "gn.onnx")
    model = quantizable(load_onnx(path))

    kept = {
        entry.reason: entry.nodes for entry in float_nodes(model, OnnxRunner(path).output_names)
    }
    int8 = onnx.load(built(path, tmp_path / "int8.onnx", table=table_of(path)))

    assert kept.keys() >= {SCORE_REASON, JOINED_REASON, BEHIND_REASON, AFFINE_REASON, RELU_REASON}
    norms = norm_nodes(int8)
    bytes_back = {
        n.output[0] for n in int8.graph.node if n.op_type == "DequantizeLinear" and n.output
    }
    assert norms
    for node in int8.graph.node:
        assert node.name not in norms or not bytes_back & set(node.input)


def test_an_old_opset_is_raised_and_the_rest_stays(tiny, tmp_path):
    path = exported(tiny, tmp_path / "old.onnx", opset=11, shape=(96, 128))
    int8 = built(path, tmp_path / "int8.onnx", table=table_of(path))

    model = onnx.load(int8)

    assert model.opset_import[0].version == 13
    assert OnnxRunner(int8).interface == OnnxRunner(path).interface


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("scrfd_500m_kps", "/backbone/layer1/layer1.1/layer1.1.0/Conv"),
        ("scrfd_2.5g_kps", "/backbone/stem/stem.0/Conv"),
        ("scrfd_10g_kps", None),  # 28 channels at half size are more than the image
    ],
)
def test_bytes_begin_where_there_are_no_more_values_than_in_the_image(name, last):
    model = onnx_from_checkpoint(seeded_checkpoint(BUILTIN[name]), OnnxOptions())
    names = [node.name for node in model.graph.node if node.op_type == "Conv"]

    kept = {e.reason: e.nodes for e in float_nodes(model, [v.name for v in model.graph.output])}

    assert list(kept.get(LEAN_REASON, ())) == names[: names.index(last) + 1 if last else 0]


def test_the_graph_for_tensorrt_is_not_arranged(tiny_onnx, table, tmp_path):
    path = built(tiny_onnx, tmp_path / "trt.onnx", table=table, target="tensorrt")

    operators = [Counter(n.op_type for n in onnx.load(p).graph.node) for p in (tiny_onnx, path)]

    for name in ("Conv", "AveragePool", "Split"):
        assert operators[0][name] == operators[1][name]


def test_a_layer_with_a_range_far_too_small_is_the_most_sensitive_one(tiny_onnx, table, tmp_path):
    model = quantizable(load_onnx(tiny_onnx))
    victim = next(n for n in model.graph.node if n.op_type == "Conv" and "conv2" in n.name)
    name = victim.input[0]
    ranges = {**table.ranges, name: tuple(v / 50 for v in table.ranges[name])}
    broken = CalibrationTable("", "", 4, (96, 128), "minmax", ranges)
    int8 = onnx.load(built(tiny_onnx, tmp_path / "int8.onnx", table=broken))

    exact = before_rounding(model, OnnxRunner(tiny_onnx).output_names, Int8Settings(broken))
    levels = layer_sqnr(exact, int8, pictures)

    readers = {n.name for n in model.graph.node if n.op_type == "Conv" and name in n.input}
    assert next(iter(levels)) in readers
    assert levels[victim.name] < 10 < np.median(list(levels.values()))


@pytest.mark.parametrize(
    ("machine", "flags", "reduced"),
    [
        ("x86_64", "sse2 avx2 avx512f", True),
        ("x86_64", "avx512f avx512_vnni", False),
        ("AMD64", "avx2 avx_vnni", False),
        ("x86_64", None, True),  # no such file, not Linux: right on every processor
        ("aarch64", "asimd", False),
    ],
)
def test_weights_of_7_bits_are_for_x86_without_vnni(machine, flags, reduced, monkeypatch, tmp_path):
    monkeypatch.setattr("platform.machine", lambda: machine)
    monkeypatch.setattr("scrfdconv.converters.system.machine.CPU_INFO", tmp_path / "cpuinfo")
    if flags:
        (tmp_path / "cpuinfo").write_text(f"flags\t\t: fpu {flags}\n")

    assert needs_reduced_range() is reduced


def test_reduced_weights_have_7_bits(tiny_onnx, table, tmp_path):
    model = onnx.load(built(tiny_onnx, tmp_path / "int8.onnx", table=table, reduce_range=True))

    weights = [numpy_helper.to_array(t) for t in model.graph.initializer if len(t.dims) == 4]

    rounded = [weight for weight in weights if weight.dtype == np.int8]
    assert rounded
    assert max(np.abs(weight.astype(int)).max() for weight in rounded) <= 64


@pytest.mark.parametrize("asked", ["Conv", None])
def test_what_is_asked_for_stays_float(tiny_onnx, table, tmp_path, asked):
    name = asked or "/neck/lateral_convs.0/conv/Conv"
    path = built(tiny_onnx, tmp_path / "int8.onnx", table=table, keep_float=(name,))

    counted = audit(path)

    expected = sum(counted.convolutions.values()) if asked else 5
    assert counted.convolutions["fp32"] == expected


def test_an_unknown_node_is_named_with_those_that_are_close(tiny_onnx, table, tmp_path):
    with pytest.raises(UsageError, match=r"--keep-float Konv: .* close are Conv"):
        built(tiny_onnx, tmp_path / "int8.onnx", table=table, keep_float=("Konv",))


def test_a_quantized_model_is_refused(tiny_onnx, table, tmp_path):
    once = built(tiny_onnx, tmp_path / "int8.onnx", table=table)

    with pytest.raises(ArtifactError, match="is int8 already"):
        built(once, tmp_path / "twice.onnx", table=table)


def test_a_table_of_another_model_is_refused(tiny_onnx, table, tmp_path):
    other = CalibrationTable("", "", 4, (96, 128), "minmax", {"no.such": (0.0, 1.0)})

    with pytest.raises(UsageError, match=r"another model.*no\.such"):
        built(tiny_onnx, tmp_path / "int8.onnx", table=other)
