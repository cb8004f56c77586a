"""What an OpenVINO graph consists of: its numbers, its operators, its weights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scrfdconv.converters.formats.openvino.api import name_of, read_model
from scrfdconv.converters.graph.convolution import Convolution, Storage
from scrfdconv.converters.signature import Signature, Tensor

CONVOLUTIONS = ("Convolution", "GroupConvolution")
_BYTES = ("i8", "u8", "i4", "u4")
_HALVES = ("f16", "bf16")
_GROUPED_RANK = 5  # (groups, out, in, k, k)
_OUTPUT_ENDS = (3, 4)  # inputs of FakeQuantize: the least and the largest value that comes out


def stored_precision(model: Any) -> str:
    """fp32, fp16 or int8: the coarsest numbers among constants and quantizers."""
    types = {
        node.get_element_type().get_type_name()
        for node in model.get_ops()
        if node.get_type_name() == "Constant"
    }
    quantized = any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
    if quantized or types.intersection(_BYTES):
        return "int8"
    return "fp16" if types.intersection(_HALVES) else "fp32"


def facts_of_model(path: Path) -> dict[str, Any]:
    """For ``inspect``: what the graph is made of."""
    operators = Counter(node.get_type_name() for node in read_model(path).get_ops())
    return {"nodes": sum(operators.values()), "operators": dict(operators.most_common())}


def signature_of(path: Path) -> Signature:
    """The inputs and outputs of a graph."""
    model = read_model(path)
    return Signature(
        inputs=tuple(map(_tensor, model.inputs)), outputs=tuple(map(_tensor, model.outputs))
    )


def _tensor(port: Any) -> Tensor:
    dims = tuple(d.get_length() if d.is_static else None for d in port.partial_shape)
    return Tensor(name=name_of(port), kind=str(port.element_type.to_dtype()), dims=dims)


def convolutions_of(path: Path) -> list[Convolution] | None:
    """Every convolution with constant weights, grouped ones as (out, in / groups, k, k).

    None where a quantizer of another tool (FakeQuantize) hides weights.
    """
    model = read_model(path)
    nodes = [node for node in model.get_ordered_ops() if node.get_type_name() in CONVOLUTIONS]
    found = [one for one in map(convolution_of, nodes) if one is not None]
    hidden = len(found) < len(nodes) and stored_precision(model) == "int8"
    return None if hidden else found


def convolution_of(node: Any) -> Convolution | None:
    """The convolution that ``node`` is; None for other nodes, and where weights are computed."""
    if node.get_type_name() not in CONVOLUTIONS:
        return None
    weight = _numbers(node.input_value(1).get_node())
    return None if weight is None else _convolution(node, weight)


@dataclass(frozen=True)
class _Numbers:
    """Constant numbers as a graph uses them, and the steps between those of 8 bits."""

    values: np.ndarray
    kind: str = "f32"
    steps: np.ndarray | None = None  # shaped as broadcast to ``values``; None: floats


def _convolution(node: Any, weight: _Numbers) -> Convolution:
    shape = weight.values.shape
    if len(shape) == _GROUPED_RANK:
        shape = (shape[0] * shape[1], *shape[2:])
    bias = _bias(node, shape[0])
    storage = Storage(precision=_coarser(weight.kind, bias.kind))
    if weight.steps is not None:
        steps = np.broadcast_to(weight.steps, weight.values.shape).reshape(shape)
        storage = Storage(
            precision="int8",
            step=steps.max(axis=(1, 2, 3), keepdims=True).astype(np.float64),
            bias_step=_by_channel(bias.steps, shape[0]),
            reach=_reach(node.input_value(0).get_node()),
        )
    values = bias.values.reshape(-1)
    return Convolution(node.get_friendly_name(), weight.values.reshape(shape), values, storage)


def _bias(node: Any, channels: int) -> _Numbers:
    """The bias: constants, one for each channel, in the Add that alone reads a convolution."""
    add = bias_add(node, channels)
    return _Numbers(np.zeros(channels, np.float32)) if add is None else add[1]


def bias_add(node: Any, channels: int) -> tuple[Any, _Numbers] | None:
    """The Add that alone reads a convolution and adds constants, one for each channel, if any."""
    readers = [target.get_node() for target in node.output(0).get_target_inputs()]
    if len(readers) == 1 and readers[0].get_type_name() == "Add":
        for i in range(2):
            found = _numbers(readers[0].input_value(i).get_node())
            if found is not None and found.values.size == channels:
                return readers[0], found
    return None


def _coarser(*kinds: str) -> str:
    return "fp16" if {*kinds} & {*_HALVES} else "fp32"


def _by_channel(steps: np.ndarray | None, channels: int) -> np.ndarray:
    return np.zeros(channels) if steps is None else np.resize(steps.reshape(-1), channels)


def _reach(node: Any) -> float:
    """The largest absolute value of what a quantizer lets through; 0 for other nodes."""
    if node.get_type_name() != "FakeQuantize":
        return 0.0
    ends = [node.input_value(i).get_node().get_data() for i in _OUTPUT_ENDS]
    return float(max(np.abs(end).max() for end in ends))


def _numbers(node: Any) -> _Numbers | None:
    """Constants in float32, float16 or 8 bits, as float32; None for what depends on the image.

    Numbers of 8 bits are converted, perhaps moved by their zero point, multiplied by their steps,
    and perhaps reshaped.
    """
    kind = node.get_type_name()
    inputs = [node.input_value(i).get_node() for i in range(node.get_input_size())]
    if kind == "Constant":
        return _Numbers(
            np.array(node.get_data(), np.float32), node.get_element_type().get_type_name()
        )
    if kind == "Convert":
        return _numbers(inputs[0])
    if kind == "Reshape" and (found := _numbers(inputs[0])) is not None:
        shape = tuple(node.get_output_shape(0))
        steps = found.steps
        if steps is not None:
            steps = np.broadcast_to(steps, found.values.shape).reshape(shape)
        return replace(found, values=found.values.reshape(shape), steps=steps)
    if kind in ("Multiply", "Subtract"):
        first, second = map(_numbers, inputs)
        if first is not None and second is not None:
            if kind == "Subtract":
                return replace(first, values=first.values - second.values)
            return replace(first, values=first.values * second.values, steps=second.values)
    return None
