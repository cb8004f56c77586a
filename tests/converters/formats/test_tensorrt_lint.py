"""What the lint finds before a build, and that our own models pass it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.formats.tensorrt.lint import by_rule, lint


@pytest.fixture
def model(tiny_onnx):
    return onnx.load(str(tiny_onnx))


def fatal(model):
    return {finding.rule for finding in lint(model) if finding.fatal}


@pytest.mark.sampled(4)
@pytest.mark.parametrize("opset", [11, 13, 17, 20])
@pytest.mark.parametrize("shape", [None, (64, 96)])
def test_our_exports_pass(tiny, opset, shape):
    model = onnx_from_checkpoint(tiny, OnnxOptions(opset=opset, shape=shape))

    assert lint(model) == []
    assert all(finding.passed for finding in by_rule([]))


def test_group_normalisation_passes(tiny_gn):
    assert lint(onnx_from_checkpoint(tiny_gn, OnnxOptions())) == []


def with_sizes(node, sizes):
    """A Resize as released models have it: empty roi and scales, then sizes."""
    empty = node.input[1]
    node.input[:] = [node.input[0], empty, empty, sizes]


def test_opset_11_gets_a_remark_on_a_resize_by_sizes_with_the_cure(tiny):
    model = onnx_from_checkpoint(tiny, OnnxOptions(opset=11))
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 8, 8, 12]), "sizes"))
    for node in model.graph.node:
        if node.op_type == "Resize":
            with_sizes(node, "sizes")

    findings = [finding for finding in lint(model) if finding.rule == "resize"]

    assert len(findings) == 2
    assert "--opset 13" in str(findings[0])
    assert not findings[0].fatal  # released models are so, and run
    assert all(finding.passed for finding in by_rule(findings))


def test_a_resize_that_depends_on_values_is_found(model):
    (first, *_) = (node for node in model.graph.node if node.op_type == "Resize")
    with_sizes(first, first.input[0])

    assert fatal(model) == {"resize"}


@pytest.mark.parametrize("opset", [8, 21])
def test_an_opset_outside_of_the_table_is_found(model, opset):
    model.opset_import[0].version = opset

    assert "opset" in fatal(model)


def test_operators_of_onnx_runtime_are_found(model):
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.node[0].domain = "com.microsoft"

    assert fatal(model) == {"opset"}


def test_unsupported_operators_are_fatal_and_unknown_ones_are_remarks(model):
    model.graph.node[1].op_type, model.graph.node[3].op_type = "QLinearConv", "Erfinv"

    findings = {(f.where, f.fatal) for f in lint(model) if f.rule == "operators"}

    assert findings == {("1 QLinearConv", True), ("1 Erfinv", False)}


def test_doubles_are_found(model):
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(3), "twice"))

    assert fatal(model) == {"types"}


def test_an_integer_image_is_found(model):
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.UINT8

    assert fatal(model) == {"types"}


def test_shared_axis_names_are_found(model):
    dims = model.graph.input[0].type.tensor_type.shape.dim
    dims[2].dim_param = dims[3].dim_param = "side"

    assert fatal(model) == {"axes"}


def test_upstreams_question_marks_are_a_remark(model):
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim in dims[2], dims[3]:
        dim.dim_param = "?"

    assert [(f.rule, f.fatal) for f in lint(model)] == [("axes", False)]


def test_a_name_that_two_nodes_write_is_found(model):
    model.graph.node[1].output[0] = model.graph.node[0].output[0]

    assert "names" in fatal(model)


def quantized(zero, kind=np.int8, scale=0.1):
    """x -> Q -> DQ with this zero point."""
    tensors = [
        numpy_helper.from_array(np.array(scale, np.float32), "scale"),
        numpy_helper.from_array(np.array(zero, kind), "zero"),
    ]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], "Q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["y"], "DQ"),
    ]
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", values[:1], values[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])


def test_symmetric_int8_passes():
    assert lint(quantized(0)) == []


@pytest.mark.parametrize(
    ("zero", "kind", "scale", "said"),
    [
        (3, np.int8, 0.1, "zero point is not 0"),
        (0, np.uint8, 0.1, "works in uint8"),
        (0, np.int8, 0.0, "no positive constant"),
        (0, np.int8, np.nan, "no positive constant"),
    ],
)
def test_other_quantization_is_found(zero, kind, scale, said):
    findings = [str(f) for f in lint(quantized(zero, kind, scale)) if f.fatal]

    assert any(said in text for text in findings)


def test_a_quantize_without_a_zero_point_is_found():
    model = quantized(0)
    model.graph.node[0].input.pop()

    assert any("makes uint8" in str(finding) for finding in lint(model))


def test_an_int32_bias_is_found():
    model = quantized(0)
    bias = numpy_helper.from_array(np.zeros(3, np.int32), "bias_q")
    model.graph.initializer.append(bias)
    model.graph.node.append(helper.make_node("DequantizeLinear", ["bias_q", "scale"], ["b"], "B"))

    assert any("an INT32 bias" in str(finding) for finding in lint(model))
