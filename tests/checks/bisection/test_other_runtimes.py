"""The faulty layer of an OpenVINO or ncnn file is named, and none of a right file."""

from __future__ import annotations

import re
from itertools import product

import numpy as np
import pytest

from scrfdconv.checks import parity
from scrfdconv.checks.bisection.layer_errors import bisect
from scrfdconv.converters.artifact import digest_of
from scrfdconv.converters.formats import formats
from scrfdconv.converters.formats.ncnn.reading import CONVOLUTIONS, read_network
from scrfdconv.converters.formats.onnx.layers import OnnxLayers

MANY = 15  # planted faults for each runtime
TYPES = {"fp32": np.dtype("<f4"), "fp16": np.dtype("<f2")}


@pytest.fixture(scope="module", autouse=True)
def small_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parity, "DYNAMIC_SHAPES", ((1, 128, 160), (2, 96, 64)))
        yield


@pytest.fixture(scope="module")
def want(tiny_onnx):
    return OnnxLayers(tiny_onnx)


@pytest.fixture(scope="module")
def built(tiny_onnx, tmp_path_factory):
    """The files of the tiny network by format and precision, each made once."""
    source, found = formats()["onnx"].artifact_at(tiny_onnx), {}

    def file(name, precision):
        maker = formats()[name]
        if missing := maker.why_not_built() or maker.why_not_run():
            pytest.skip(missing)
        if (name, precision) not in found:
            out = tmp_path_factory.mktemp(f"{name}-{precision}") / f"tiny{maker.suffix}"
            maker.build(source, maker.options(), out, precision)
            found[name, precision] = out
        return found[name, precision]

    return file


def found_in(path, want):
    maker = next(one for one in formats().values() if path.suffix in one.suffixes)
    return bisect(want, maker.layers(path))


# ---------------------------------------------------------------- where the weights stand

GRAPHS = {"openvino": "xml", "ncnn": "param"}


def places_in_openvino(path, precision):
    """For each convolution: its name, and (offset, values) of weight and bias in the .bin."""
    text = path.read_text()
    constants = {
        number: tuple(map(int, place))
        for number, *place in re.findall(
            r'<layer id="(\d+)"[^>]*type="Const"[^>]*>\s*<data [^>]*offset="(\d+)" size="(\d+)"',
            text,
        )
    }
    kinds = dict(re.findall(r'<layer id="(\d+)" name="[^"]*" type="(\w+)"', text))
    sources = {
        (target, port): source
        for source, target, port in re.findall(
            r'<edge from-layer="(\d+)" from-port="\d+" to-layer="(\d+)" to-port="(\d+)"', text
        )
    }
    names = dict(re.findall(r'<layer id="(\d+)" name="([^"]*)"', text))

    def constant(layer):
        while layer is not None and kinds.get(layer) == "Convert":
            layer = sources.get((layer, "0"))
        return constants.get(layer)

    for layer, kind in kinds.items():
        add = next((t for (t, _), s in sources.items() if s == layer), None)
        if kind in ("Convolution", "GroupConvolution") and kinds.get(add) == "Add":
            weight, bias = constant(sources[layer, "1"]), constant(sources[add, "1"])
            if weight and bias:
                yield names[layer], weight, bias


def places_in_ncnn(path, precision):
    """The same for an ncnn network, whose weights stand in the order of its layers."""
    network, at = read_network(path), 0
    for layer in network.layers:
        arrays = network.weights[layer.name]
        if layer.kind in CONVOLUTIONS:
            weight, bias = arrays
            size = weight.size * TYPES[precision].itemsize
            start = at + 4
            after = start + size + (-(start + size)) % 4
            yield layer.name, (start, size), (after, bias.size * 4)
            at = after + bias.size * 4
        else:
            at += sum(values.nbytes for values in arrays)


PLACES = {"openvino": places_in_openvino, "ncnn": places_in_ncnn}

# ---------------------------------------------------------------- faults of one layer

FAULTS = {
    "20 % too large": lambda w, b: (w * 1.2, b * 1.2),
    "channels in another order": lambda w, b: (w[[1, 0, *range(2, len(w))]], b),
    "the bias is shifted": lambda w, b: (w, b + np.abs(b).max() + 0.1),
    "mirrored": lambda w, b: (w[:, ::-1], b),
    "one channel is silent": lambda w, b: (w * (np.arange(len(w)) > 0)[:, None], b),
    "one weight": lambda w, b: (
        w + 3 * np.abs(w).max() * (np.arange(w.size) == 1).reshape(w.shape),
        b,
    ),
}
SAYS = {
    "20 % too large": ("scale: its weights are 1.2 times",),
    "channels in another order": ("channel order",),
    "the bias is shifted": ("its bias differs",),
    "one weight": ("weights differ",),  # rounding to halves changes other small ones, too
}


def planted(path, precision, name, fault, folder):
    """A copy of the file in ``folder`` with a fault in the convolution ``name``."""
    runtime = next(key for key, suffix in GRAPHS.items() if path.suffix == f".{suffix}")
    content = bytearray(path.with_suffix(".bin").read_bytes())
    (weights, biases) = next(
        (w, b) for one, w, b in PLACES[runtime](path, precision) if one == name
    )
    kinds = [TYPES[precision], TYPES[precision] if runtime == "openvino" else TYPES["fp32"]]
    w, b = (
        np.frombuffer(bytes(content[at : at + size]), kind)
        for (at, size), kind in zip((weights, biases), kinds, strict=True)
    )
    changed = FAULTS[fault](w.astype(np.float32).reshape(len(b), -1), b.astype(np.float32))
    for (at, size), kind, values in zip((weights, biases), kinds, changed, strict=True):
        content[at : at + size] = np.ascontiguousarray(values).astype(kind).tobytes()
    out = folder / path.name
    out.with_suffix(".bin").write_bytes(content)
    digests = [digest_of(one.with_suffix(".bin")) for one in (path, out)]
    out.write_text(path.read_text().replace(*digests))
    return out if digests[0] != digests[1] else None


CASES = list(product(GRAPHS, ("fp32", "fp16"), FAULTS))


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=" ".join)
def test_a_convolution_with_a_fault_is_named(case, want, built, tmp_path):
    runtime, precision, fault = case
    path = built(runtime, precision)
    names = [name for name, _, _ in PLACES[runtime](path, precision)]
    assert len(names) >= MANY
    step = 2 * len(FAULTS) + 1  # other layers for each fault
    for name in names[list(FAULTS).index(fault) :: step]:
        faulty = planted(path, precision, name, fault, tmp_path)
        if faulty is None:
            continue
        found = found_in(faulty, want)

        assert [layer.layer for layer in found.faulty] == [name], fault
        assert all(words in found.line() for words in SAYS.get(fault, ()))


EDITS = {
    ("openvino", "resized linearly"): ('mode="nearest"', 'mode="linear_onnx"', "resize mode"),
    ("openvino", "another activation"): ('type="ReLU"', 'type="Abs"', ""),
    ("ncnn", "resized linearly"): (r"(Interp .*)0=1", r"\g<1>0=2", "resize mode"),
    ("ncnn", "subtracted"): (r"(BinaryOp .*)0=0", r"\g<1>0=1", ""),
    ("ncnn", "an activation is missing"): ("9=1", "9=0", ""),
}


@pytest.mark.parametrize("case", EDITS, ids=" ".join)
def test_another_operator_is_named_by_the_layer_behind(case, want, built, tmp_path):
    path = built(case[0], "fp32")
    pattern, other, says = EDITS[case]
    text, edits = re.subn(pattern, other, path.read_text(), count=1)
    out = tmp_path / path.name
    out.write_text(text)
    out.with_suffix(".bin").write_bytes(path.with_suffix(".bin").read_bytes())

    found = found_in(out, want)

    assert edits == 1
    assert 0 < len(found.faulty) <= 3
    assert says in found.line()


# ---------------------------------------------------------------- right files


@pytest.mark.parametrize("runtime", GRAPHS)
@pytest.mark.parametrize("precision", TYPES)
def test_no_layer_of_a_right_file_is_named(runtime, precision, want, built):
    found = found_in(built(runtime, precision), want)

    assert not found.faulty
    assert not found.unaligned
    assert len(found.layers) == len(want.all)
