"""Equal channels for depthwise networks, without a change of the function.

A tensor has one range for all channels, and depthwise networks have channels a hundred times
smaller than others in the same tensor, of which 8 bits leave nothing. ReLU passes positive
factors through, so a channel can be made larger in one convolution and smaller by the same factor
in the next (Nagel et al., 2019, "Data-free quantization through weight equalization").

Measured at 640x640 around faces, 500M: the error of the logits falls from 0.104 to 0.068, that of
the boxes from 1.3 to 0.9 %; 500M_KPS: 0.074 to 0.061. Plain 3x3 convolutions mix channels, so that
their weights lose what the activations win (2.5G_KPS: 0.044 to 0.046): only pairs with a depthwise
convolution are treated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

# Channels grow by this much at most. Larger factors were no better with 24 photographs (0.066 at
# 16), and what a poor calibration set has not seen of a channel would be cut off.
LARGEST_FACTOR = 4.0


@dataclass(frozen=True)
class _Pair:
    """Two convolutions with nothing but perhaps a ReLU in between."""

    first: onnx.NodeProto
    second: onnx.NodeProto
    between: tuple[str, ...]  # the tensors from one to the other; the last is read by ``second``


def equalise(model: onnx.ModelProto, largest: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rescale the weights of ``model`` in place; returns the factor of each tensor's channels.

    ``largest`` are the largest magnitudes of the channels of each activation, as measured on the
    model before.
    """
    factors: dict[str, np.ndarray] = {}
    for pair in _pairs(model.graph):
        tensor = pair.between[-1]
        if tensor not in largest:
            continue
        factor = _factors(largest[tensor])
        _scale(model.graph, pair, factor)
        factors.update(dict.fromkeys(pair.between, factor))
    return factors


def _factors(largest: np.ndarray) -> np.ndarray:
    """1 for the largest channel, up to LARGEST_FACTOR for small and silent ones."""
    top = float(largest.max(initial=0))
    if not top:
        return np.ones_like(largest, np.float32)
    wanted = top / np.maximum(largest, top / LARGEST_FACTOR)
    return np.asarray(wanted, np.float32)


def _pairs(graph: onnx.GraphProto) -> Iterator[_Pair]:
    makers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(value.name for value in graph.output)
    for second in graph.node:
        if second.op_type != "Conv":
            continue
        between = [second.input[0]]
        first = makers.get(between[0])
        if first is not None and first.op_type == "Relu":
            between.insert(0, first.input[0])
            first = makers.get(between[0])
        if first is None or first.op_type != "Conv":
            continue
        shared = any(readers[name] > 1 for name in (*between, *first.input[1:], *second.input[1:]))
        if not shared and (_is_depthwise(first) or _is_depthwise(second)):
            yield _Pair(first, second, tuple(between))


def _is_depthwise(node: onnx.NodeProto) -> bool:
    return any(a.name == "group" and a.i > 1 for a in node.attribute)


def _scale(graph: onnx.GraphProto, pair: _Pair, factor: np.ndarray) -> None:
    from onnx import numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}

    def multiply(name: str, by: np.ndarray) -> None:
        values = numpy_helper.to_array(tensors[name])
        tensors[name].CopyFrom(numpy_helper.from_array(values * by.astype(values.dtype), name))

    out_channels = factor.reshape(-1, 1, 1, 1)
    multiply(pair.first.input[1], out_channels)
    for bias in pair.first.input[2:]:
        multiply(bias, factor)
    # A depthwise convolution's own channels are its inputs; others have them on the second axis.
    by = out_channels if _is_depthwise(pair.second) else out_channels.reshape(1, -1, 1, 1)
    multiply(pair.second.input[1], 1 / by)
