"""Which nodes of an SCRFD stay float in INT8, and why; measured on trained models at 640x640.

1. The convolutions of the scores stay float. A poor calibration set gets their ranges wrong: if
   the set has no face of a size, the scores of that stride are cut off. Eight portraits left 3 %
   of the faces, and 96 % with these convolutions in float. For ONNX Runtime the other last
   convolutions are joined to them (`precision.int8.arrangement`).
2. Everything behind the last convolution of a head stays float: there, 8 bits gain nothing.
3. GroupNorm stays float: an InstanceNormalization with scale and shift in every export. So does
   a ReLU of float values: quantized before and after the ReLU, values would be rounded twice.
4. Convolutions with few multiply-adds per value stay float where that saves conversions: there
   such convolutions are as fast in float on a CPU, and rounding hurts them most. These are the
   first convolutions, up to a border with no more values than the image has (500M_KPS: 12.4
   instead of 14.7 ms, and the error of the logits falls from 0.061 to 0.040), and the
   convolutions before a normalisation (500M: 0.061 to 0.043). For TensorRT the search would put
   back the same convolutions, one by one. OpenVINO turns the image channels-last before the first
   convolution, which is cheaper in bytes: there, a single first convolution is quantized
   (2.5G_KPS: 23.4 instead of 24.6 ms).
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING

from scrfdconv.converters.graph.heads import Heads
from scrfdconv.converters.graph.interface.preamble import preamble_of
from scrfdconv.converters.graph.kept_float import KeptFloat
from scrfdconv.converters.graph.number_types import nodes_asked_for
from scrfdconv.converters.network.architecture import CHANNELS
from scrfdconv.converters.precision.int8 import TRAITS, Arrangement

if TYPE_CHECKING:
    import onnx


OPERATORS = ("Conv", "Relu", "Add", "MaxPool", "AveragePool", "Resize")
ASKED_FOR = "asked for (--keep-float)"
SCORE_REASON = "score convolution: a poor calibration set would cut its scores off"
JOINED_REASON = "joined with the score convolution, which costs no time"
DISTRIBUTION_REASON = "convolution of distributions (DFL): a softmax makes small errors large"
BEHIND_REASON = "behind the last convolution of a head"
AFFINE_REASON = "scale or shift of a normalisation"
LEAN_REASON = "too few multiply-adds per value: bytes would not be faster"
RELU_REASON = "ReLU of float values"
# Rule 4, in multiply-adds per value: the stem's 3x3x3 has 27, depthwise ones 9, pointwise ones as
# many as their input has channels. At 320x320, 1G's 32 are as fast in float with the conversions
# saved, 500M's 40 are not. Between normalisations two conversions are saved: 1G's 96 still win,
# the 216 and more of 3x3 convolutions do not.
_LEAN_AT_START, _LEAN_BEFORE_NORM = 32, 96


def float_nodes(
    model: onnx.ModelProto,
    outputs: Sequence[str],
    target: Arrangement = "cpu",
    keep_float: Sequence[str] = (),
) -> list[KeptFloat]:
    """What stays float in a quantizable model, each node once, with its first reason.

    ``outputs`` are its canonical names, in order. Raises UsageError for a name in ``keep_float``
    that is neither node nor operator.
    """
    heads = Heads(model, outputs)
    siblings = heads.siblings() if target == "cpu" else []
    found = [
        (ASKED_FOR, nodes_asked_for(model, keep_float)),
        (SCORE_REASON, sorted(heads.scores)),
        (JOINED_REASON, sorted(node.name for group in siblings for node in group)),
        (DISTRIBUTION_REASON, sorted(heads.distributions)),
        (BEHIND_REASON, sorted(heads.behind)),
        (AFFINE_REASON, list(_affine(model))),
        (LEAN_REASON, list(_lean(model, target))),
    ]
    seen: set[str] = set()
    kept = []
    for reason, names in found:
        kept.append(KeptFloat(reason, tuple(name for name in names if name not in seen)))
        seen.update(names)
    kept.append(KeptFloat(RELU_REASON, tuple(_float_relus(model, seen))))
    return [entry for entry in kept if entry.nodes]


def _affine(model: onnx.ModelProto) -> Iterator[str]:
    """Additions of a constant; those between two activations are residuals and upsampling."""
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Add" and any(name in constants for name in node.input):
            yield node.name


def _float_relus(model: onnx.ModelProto, keep: Collection[str]) -> Iterator[str]:
    in_bytes = {
        name
        for node in model.graph.node
        if node.op_type in OPERATORS and node.name not in keep
        for name in node.output
    }
    for node in model.graph.node:
        if node.op_type == "Relu" and node.name not in keep and node.input[0] not in in_bytes:
            yield node.name


# ---------------------------------------------------------------- rule 4


def _lean(model: onnx.ModelProto, target: Arrangement) -> Iterator[str]:
    start = _lean_start(model)
    if TRAITS[target].lean_start or len(start) > 1:
        yield from start
    used_in_bytes = {
        name for node in model.graph.node if node.op_type in OPERATORS for name in node.input
    }
    used_in_bytes |= {value.name for value in model.graph.output}
    for node, work in _convolutions(model):
        if work <= _LEAN_BEFORE_NORM and node.output[0] not in used_in_bytes:
            yield node.name


def _lean_start(model: onnx.ModelProto) -> list[str]:
    """The chain of lean convolutions from the image to the last border no larger than the image."""
    makers = {name: node for node in model.graph.node for name in node.output}
    image = preamble_of(model).image
    chain: dict[str, float] = {image: 1.0}  # tensor -> pixels of the image for each of its own
    passed: list[str] = []
    good = 0
    for node, work in _convolutions(model):
        source = makers.get(node.input[0])
        name = source.input[0] if source is not None and source.op_type == "Relu" else node.input[0]
        before = chain.get(name)
        if before is None or work > _LEAN_AT_START:
            continue
        chain[node.output[0]] = pixels = before * math.prod(_strides(node))
        passed.append(node.name)
        if _channels(model, node) <= CHANNELS * pixels:
            good = len(passed)
    return passed[:good]


def _convolutions(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, int]]:
    """Convolutions with the multiply-adds for each of their values."""
    sizes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv" and node.input[1] in sizes:
            yield node, math.prod(sizes[node.input[1]][1:])


def _channels(model: onnx.ModelProto, node: onnx.NodeProto) -> int:
    return next(int(t.dims[0]) for t in model.graph.initializer if t.name == node.input[1])


def _strides(node: onnx.NodeProto) -> tuple[int, ...]:
    return next((tuple(a.ints) for a in node.attribute if a.name == "strides"), (1, 1))
