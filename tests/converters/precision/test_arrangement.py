"""Arranged for bytes: another graph, the same function."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from scrfdconv.checks.stimuli import stimuli
from scrfdconv.converters.checkpoint.loading import seeded_checkpoint
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.network.architecture import BUILTIN
from scrfdconv.converters.precision.int8.arrangement import KERNEL_CHANNELS, arranged
from scrfdconv.converters.precision.int8.quantization import quantizable

IMAGES = stimuli(1, 96, 160, 0)
RESIDUAL, DEPTHWISE, SHARED = "scrfd_2.5g_kps", "scrfd_500m_kps", "scrfd_2.5g"


@cache
def exported(name):
    return onnx_from_checkpoint(seeded_checkpoint(BUILTIN[name]), OnnxOptions())


@pytest.fixture(scope="module", params=[RESIDUAL, DEPTHWISE, SHARED])
def pair(request):
    """A model and its outputs' names."""
    model = exported(request.param)
    return quantizable(model), [value.name for value in model.graph.output]


def outputs(model, path):
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return OnnxRunner(path).run(IMAGES)


def test_the_function_stays(pair, tmp_path):
    model, names = pair

    want = outputs(model, tmp_path / "a.onnx")
    got = outputs(arranged(model, names, ()), tmp_path / "b.onnx")

    assert list(got) == list(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, atol=1e-4, err_msg=name)


def test_each_head_ends_in_one_convolution(pair):
    model, names = pair

    result = arranged(model, names, ())

    before, after = (Counter(n.op_type for n in m.graph.node) for m in (model, result))
    assert after["Split"] == 3
    assert before["Conv"] - after["Conv"] == len(names) - 3


def test_heads_that_share_weights_share_the_joined_ones():
    model = quantizable(exported(SHARED))
    for node in model.graph.node:  # as where each stride's factor is a node of its own
        if node.op_type == "Conv":
            node.input[1:] = [re.sub(r"(\.0)_\d", r"\1", name) for name in node.input[1:]]

    result = arranged(model, [value.name for value in model.graph.output], ())

    before = {n.output[0]: n for n in result.graph.node}
    joined = [before[n.input[0]] for n in result.graph.node if n.op_type == "Split"]
    assert len(joined) == 3
    assert len({node.input[1] for node in joined}) == 1


def test_pools_before_pointwise_convolutions_are_folded_unless_kept():
    model = quantizable(exported(RESIDUAL))
    names = [value.name for value in model.graph.output]
    pools = [node.name for node in model.graph.node if node.op_type == "AveragePool"]

    counts = [
        Counter(node.op_type for node in arranged(model, names, keep).graph.node)["AveragePool"]
        for keep in ((), pools[:1], pools)
    ]

    assert counts == [0, 1, 3]


def test_channels_of_the_stem_are_filled_up_to_what_kernels_compute_at_once():
    model = quantizable(exported(RESIDUAL))
    result = arranged(model, [value.name for value in model.graph.output], ())

    stem = [t for t in result.graph.initializer if "stem" in t.name and len(t.dims) == 4]

    widths = [numpy_helper.to_array(tensor).shape[:2] for tensor in stem]
    assert sorted(widths) == [(KERNEL_CHANNELS, 3), (KERNEL_CHANNELS, 16), (24, KERNEL_CHANNELS)]
