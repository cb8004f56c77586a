"""What an OpenVINO graph consists of: its numbers, its operators, its weights."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from scrfdconv.converters.formats.openvino.api import name_of, read_model
from scrfdconv.converters.graph.convolution import Convolution
from scrfdconv.converters.signature import Signature, Tensor

CONVOLUTIONS = ("Convolution", "GroupConvolution")
_BYTES = ("i8", "u8", "i4", "u4")
_HALVES = ("f16", "bf16")
_GROUPED_RANK = 5  # (groups, out, in, k, k)


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


def convolutions_of(path: Path) -> Iterator[Convolution]:
    """Every convolution with constant weights, grouped ones as (out, in / groups, k, k)."""
    yield from filter(None, map(convolution_of, read_model(path).get_ordered_ops()))


def convolution_of(node: Any) -> Convolution | None:
    """The convolution that ``node`` is; None for other nodes, and where weights are computed."""
    if node.get_type_name() not in CONVOLUTIONS:
        return None
    weight = _constant(node.input_value(1).get_node())
    if weight is None:
        return None
    if weight.ndim == _GROUPED_RANK:
        weight = weight.reshape(-1, *weight.shape[2:])
    add = bias_add(node)
    bias = None if add is None else _bias_in(add)
    none = np.zeros(len(weight), np.float32)
    return Convolution(node.get_friendly_name(), weight, none if bias is None else bias)


def bias_add(node: Any) -> Any | None:
    """The Add that alone reads a convolution, with constants, one for each channel, or None."""
    readers = [target.get_node() for target in node.output(0).get_target_inputs()]
    channels = node.get_output_partial_shape(0)[1]
    if len(readers) == 1 and readers[0].get_type_name() == "Add" and channels.is_static:
        values = _bias_in(readers[0])
        if values is not None and values.size == channels.get_length():
            return readers[0]
    return None


def _bias_in(add: Any) -> np.ndarray | None:
    """The constants among the two inputs of an Add."""
    values = (_constant(add.input_value(i).get_node()) for i in range(2))
    return next((one.reshape(-1) for one in values if one is not None), None)


def _constant(node: Any) -> np.ndarray | None:
    """The float values of a constant that is stored in float32 or float16."""
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return None
    return np.array(node.get_data(), np.float32)
