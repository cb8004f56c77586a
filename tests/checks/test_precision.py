"""The audit: multiply-adds by the precision that they really run in."""

from __future__ import annotations

import math

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from scrfdconv.checks.precision import audit
from scrfdconv.converters.metadata import PREFIX

# An 8x8 image through two 3x3 convolutions, 3 -> 4 -> 2 channels.
FIRST, SECOND = 4 * 8 * 8 * 27, 2 * 8 * 8 * 36


def convolution(name, source, channels, kind=np.float32):
    weight = numpy_helper.from_array(np.ones((*channels, 3, 3), kind), f"{name}.w")
    return helper.make_node("Conv", [source, weight.name], [name], name, pads=[1] * 4), weight


def saved(path, nodes, weights, claimed=None, dims=(1, 3, 8, 8), last="b"):
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, dims)
    output = helper.make_tensor_value_info(last, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [image], [output], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if claimed:
        helper.set_model_props(model, {PREFIX + "precision": claimed})
    onnx.save(model, path)
    return path


def two_floats(path, **options):
    a, wa = convolution("a", "x", (4, 3))
    b, wb = convolution("b", "a", (2, 4))
    return saved(path, [a, b], [wa, wb], **options)


def one_half(path, **options):
    a, wa = convolution("a", "x", (4, 3))
    b, wb = convolution("b", "half", (2, 4), np.float16)
    b.output[0] = "c"
    casts = [helper.make_node("Cast", ["a"], ["half"], to=TensorProto.FLOAT16),
             helper.make_node("Cast", ["c"], ["b"], to=TensorProto.FLOAT)]  # fmt: skip
    return saved(path, [a, casts[0], b, casts[1]], [wa, wb], **options)


def quantized(path, *, weight_too, **options):
    a, wa = convolution("a", "x.dq", (4, 3))
    scale = numpy_helper.from_array(np.array(0.1, np.float32), "s")
    zero = numpy_helper.from_array(np.array(0, np.int8), "z")
    nodes = [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["x.q"]),
             helper.make_node("DequantizeLinear", ["x.q", "s", "z"], ["x.dq"])]  # fmt: skip
    if weight_too:
        wa = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.int8), "a.q")
        nodes.append(helper.make_node("DequantizeLinear", ["a.q", "s", "z"], ["a.w"]))
    return saved(path, [*nodes, a], [wa, scale, zero], last="a", **options)


def test_multiply_adds_are_counted_without_bias(tmp_path):
    found = audit(two_floats(tmp_path / "m.onnx"))

    assert found.multiply_adds == {"fp32": FIRST + SECOND}
    assert found.convolutions == {"fp32": 2}
    assert found.shape == (8, 8)


def test_a_mixed_graph_is_split_by_the_type_of_its_weights(tmp_path):
    found = audit(one_half(tmp_path / "m.onnx", claimed="fp16"))

    assert found.multiply_adds == {"fp32": FIRST, "fp16": SECOND}
    assert found.share("fp16") == pytest.approx(SECOND / (FIRST + SECOND))
    assert all(result.passed for result in found.results())
    assert "fp16" in found.sentence()


def test_int8_needs_both_inputs_dequantized(tmp_path):
    whole = audit(quantized(tmp_path / "a.onnx", weight_too=True))
    half = audit(quantized(tmp_path / "b.onnx", weight_too=False))

    assert whole.convolutions == {"int8": 1}
    assert half.convolutions == {"fp32": 1}
    assert half.precision == "fp32"  # all that is in bytes is the image, which costs nothing


@pytest.mark.parametrize("claimed", ["fp16", "int8"])
def test_a_claim_that_no_convolution_keeps_fails(claimed, tmp_path):
    results = list(audit(two_floats(tmp_path / "m.onnx", claimed=claimed)).results())

    assert not results[0].passed
    assert any("numbers are fp32" in result.detail for result in results if not result.passed)


def test_a_foreign_file_claims_nothing(tmp_path):
    found = audit(two_floats(tmp_path / "m.onnx"))

    assert found.claimed is None
    assert all(result.passed for result in found.results())


def test_a_dynamic_model_is_counted_at_the_size_that_is_asked_for(tmp_path):
    path = two_floats(tmp_path / "m.onnx", dims=("n", 3, "h", "w"))

    assert audit(path).shape == (640, 640)
    assert audit(path, (64, 96)).multiply_adds["fp32"] == (FIRST + SECOND) * 96


def test_shares_of_nothing_are_nan(tmp_path):
    relu = helper.make_node("Relu", ["x"], ["b"])
    found = audit(saved(tmp_path / "m.onnx", [relu], []))

    assert math.isnan(found.share("fp32"))
    assert not all(result.passed for result in found.results())
