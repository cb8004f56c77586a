"""Biases that take back what rounded weights do to the mean."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from scrfdconv.converters.precision.int8.rounding import with_corrected_biases

CHANNELS = 4


def convolution(weight, bias, group):
    nodes = [helper.make_node("Conv", ["x", "w", "b"], ["y"], "conv", group=group)]
    tensors = [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(bias, "b")]
    values = [helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in "xy"]
    return helper.make_model(helper.make_graph(nodes, "one", values[:1], values[1:], tensors))


def bias_of(model):
    return numpy_helper.to_array(next(t for t in model.graph.initializer if t.name == "b"))


@pytest.mark.parametrize("group", [1, CHANNELS])
@pytest.mark.parametrize("largest", [127, 64])
def test_rounded_weights_and_the_corrected_bias_have_the_float_mean(group, largest):
    draw = np.random.default_rng(0)
    weight = draw.normal(size=(CHANNELS, CHANNELS // group, 3, 3)).astype(np.float32)
    bias, mean = draw.normal(size=CHANNELS).astype(np.float32), draw.uniform(1, 2, CHANNELS)
    step = np.abs(weight).max(axis=(1, 2, 3), keepdims=True) / largest
    rounded = np.round(weight / step) * step

    def output(kernel, offset):  # at a place where every input is its mean
        inputs = mean if group == 1 else mean[:, None]
        return (kernel.sum(axis=(2, 3)) * inputs).sum(axis=1) + offset

    model = convolution(weight, bias, group)
    result = with_corrected_biases(model, {"x": mean}, (), reduce_range=largest == 64)

    moved = np.abs(output(rounded, bias) - output(weight, bias)).max()
    left = np.abs(output(rounded, bias_of(result)) - output(weight, bias)).max()
    assert left < 1e-5
    assert moved > 1e-2


@pytest.mark.parametrize(("means", "keep"), [({}, ()), ({"x": [1.0] * CHANNELS}, ("conv",))])
def test_float_and_unmeasured_convolutions_keep_their_bias(means, keep):
    weight = np.random.default_rng(0).normal(size=(CHANNELS, CHANNELS, 1, 1)).astype(np.float32)
    model = convolution(weight, np.ones(CHANNELS, np.float32), 1)

    result = with_corrected_biases(model, means, keep)

    np.testing.assert_array_equal(bias_of(result), bias_of(model))
