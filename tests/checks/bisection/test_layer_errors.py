"""The first layer that is at fault is named, and none of a right model."""

from __future__ import annotations

from itertools import islice, product

import faults
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from scrfdconv.checks import parity
from scrfdconv.checks.bisection.layer_errors import bisect
from scrfdconv.converters.formats import formats
from scrfdconv.converters.formats.onnx.layers import OnnxLayers
from scrfdconv.converters.precision.fp16 import Fp16Options
from scrfdconv.converters.precision.fp16.conversion import Fp16Settings, fp16_from_float

NAMED = 0.95  # share of faults whose layer must be named exactly
MANY = 6  # convolutions with a fault in each case
STEP = {"fp32": 2, "fp16": 3}  # of the convolutions with a fault


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr(parity, "DYNAMIC_SHAPES", ((1, 128, 160), (2, 96, 64)))


@pytest.fixture(scope="module")
def want(tiny_onnx):
    return OnnxLayers(tiny_onnx)


@pytest.fixture(scope="module")
def models(tiny_onnx):
    source = formats()["onnx"].artifact_at(tiny_onnx)
    return {
        "fp32": onnx.load(tiny_onnx),
        "fp16": fp16_from_float(source, Fp16Settings(Fp16Options(), None)),
    }


def found_in(model, want, tmp_path):
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    return bisect(want, OnnxLayers(path))


# ---------------------------------------------------------------- faults of one layer

WEIGHTS = {
    "noise of 1 %": lambda w, draw: w * (1 + 0.01 * draw.standard_normal(w.shape)),
    "10 % too large": lambda w, draw: w * 1.1,
    "channels in another order": lambda w, draw: w[[1, 0, *range(2, len(w))]],
    "a channel of zeros": lambda w, draw: w * (np.arange(len(w)) > 0)[:, None, None, None],
    "mirrored": lambda w, draw: w[:, :, :, ::-1],
    "one weight": lambda w, draw: w + (np.arange(w.size) == w.size // 2).reshape(w.shape),
}
SAYS = {
    "10 % too large": "scale: its weights are 1.1 times",
    "channels in another order": "channel order",
    "one weight": "weights differ:",
}


def planted(model, edit):
    """For each convolution with weights of its own: its name, and the model with an edit there."""
    tensors = {t.name: t for t in model.graph.initializer}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    readers = [node.input[1] for node in convs]
    for node in convs:
        weights = numpy_helper.to_array(tensors[node.input[1]])
        changed = edit(weights.astype(np.float32), np.random.default_rng(0)).astype(weights.dtype)
        if readers.count(node.input[1]) == 1 and (changed != weights).any():
            copy = onnx.ModelProto()
            copy.CopyFrom(model)
            tensor = next(t for t in copy.graph.initializer if t.name == node.input[1])
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed), tensor.name))
            yield node.name, copy


@pytest.mark.sampled(12)
@pytest.mark.parametrize("case", list(product(WEIGHTS, ("fp32", "fp16"))), ids=" ".join)
def test_a_convolution_with_other_weights_is_named(case, want, models, tmp_path):
    kind, precision = case
    exact, cases = 0, 0
    for name, model in islice(planted(models[precision], WEIGHTS[kind]), 0, None, STEP[precision]):
        found = found_in(model, want, tmp_path)

        cases += 1
        assert len(found.faulty) == 1, (name, [layer.line() for layer in found.faulty])
        exact += found.faulty[0].layer == name
        assert SAYS.get(kind, "") in found.line()
    assert cases > MANY
    assert exact >= NAMED * cases


@pytest.mark.parametrize(
    ("precision", "step"),
    [("fp32", 8), ("fp16", 9), pytest.param("fp32", 1, marks=pytest.mark.slow)],
)
def test_a_fault_of_an_output_is_named_by_the_output(precision, step, want, models, tmp_path):
    # Scores of an untrained model are so low that a cut-off changes none.
    table = [fault for fault in faults.OF_ONE_STRIDE if "cut off" not in fault.name]
    for fault in table[::step]:
        found = found_in(faults.plant(models[precision], fault), want, tmp_path)

        assert {layer.layer for layer in found.faulty} == set(fault.touches), fault
    assert len(table) == 57


def test_a_fault_of_the_input_is_named_by_the_first_convolution(want, models, tmp_path):
    first = next(node.name for node in models["fp32"].graph.node if node.op_type == "Conv")
    for fault in faults.OF_THE_INPUT:
        found = found_in(faults.plant(models["fp32"], fault), want, tmp_path)

        assert [layer.layer for layer in found.faulty] == [first], fault
    assert faults.OF_THE_INPUT


# ---------------------------------------------------------------- faults between two layers


def changed(model, operator, place, edit):
    """A copy in which the node number ``place`` of a kind was edited, and the readers' names."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    node = [node for node in copy.graph.node if node.op_type == operator][place]
    edit(node)
    return copy, convolutions_behind(copy, node.output[0])


def convolutions_behind(model, value):
    """The convolutions that read a value, with nothing but other operators between."""
    names, values = set(), {value}
    for node in model.graph.node:
        if values & set(node.input):
            if node.op_type == "Conv":
                names.add(node.name)
            else:
                values |= set(node.output)
    return names


def replaced_by(operator, **attributes):
    def edit(node):
        del node.attribute[:]
        node.op_type = operator
        node.attribute.extend(helper.make_attribute(*one) for one in attributes.items())

    return edit


def resized_linearly(node):
    for attribute in node.attribute:
        if attribute.name == "mode":
            attribute.s = b"linear"


EDITS = {
    "an activation is missing": ("Relu", replaced_by("Identity"), ""),
    "another activation": ("Relu", replaced_by("LeakyRelu", alpha=0.2), ""),
    "resized linearly": ("Resize", resized_linearly, "resize mode"),
    "subtracted": ("Add", replaced_by("Sub"), ""),
}


@pytest.mark.parametrize("what", EDITS)
def test_an_operator_between_two_convolutions_is_named_by_the_next_one(
    what, want, models, tmp_path
):
    operator, edit, says = EDITS[what]
    count = sum(node.op_type == operator for node in models["fp32"].graph.node)
    for place in range(0, count, 4 if count > 4 else 1):
        model, behind = changed(models["fp32"], operator, place, edit)

        found = found_in(model, want, tmp_path)

        assert {layer.layer for layer in found.faulty} <= behind, place
        assert found.faulty[0].layer in behind
        assert says in found.line()


# ---------------------------------------------------------------- right models


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_no_layer_of_a_right_model_is_named(precision, want, models, tmp_path):
    found = found_in(models[precision], want, tmp_path)

    assert not found.faulty
    assert not found.unaligned
    assert len(found.layers) > 30


def test_every_fault_is_listed_in_the_order_of_the_network(want, models, tmp_path):
    edits = dict(planted(models["fp32"], lambda w, draw: w * 1.1))
    names = list(edits)
    both = edits[names[2]]
    (second,) = [t for n, t in weights_by_convolution(edits[names[9]]) if n == names[9]]
    next(t for t in both.graph.initializer if t.name == second.name).CopyFrom(second)

    found = found_in(both, want, tmp_path)

    assert [layer.layer for layer in found.faulty] == [names[2], names[9]]


def weights_by_convolution(model):
    tensors = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv":
            yield node.name, tensors[node.input[1]]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["det_500m", "det_2.5g", "scrfd_500m"])
def test_no_layer_of_a_released_file_is_named(name, data, tmp_path):
    from scrfdconv.converters.checkpoint.loading import load_source
    from scrfdconv.recipes.bisection import bisected

    checkpoint = {"det_500m": "scrfd_500m_bnkps", "det_2.5g": "scrfd_2.5g_bnkps"}.get(name, name)
    source = load_source(str(data / f"checkpoints/{checkpoint}.pth"))

    found = bisected(source, data / f"onnx/{name}.onnx")

    assert not found.faulty
    assert not found.unaligned
