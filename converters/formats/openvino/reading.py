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

_CONVOLUTIONS = ("Convolution", "GroupConvolution")
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
    for node in read_model(path).get_ordered_ops():
        if node.get_type_name() in _CONVOLUTIONS:
            weight = _constant(node.input_value(1).get_node())
            if weight is not None:
                if weight.ndim == _GROUPED_RANK:
                    weight = weight.reshape(-1, *weight.shape[2:])
                yield Convolution(node.get_friendly_name(), weight, _bias(node, len(weight)))


def _bias(node: Any, channels: int) -> np.ndarray:
    """The bias: constants, one for each channel, in the Add that alone reads a convolution."""
    readers = [target.get_node() for target in node.output(0).get_target_inputs()]
    if len(readers) == 1 and readers[0].get_type_name() == "Add":
        for i in range(2):
            values = _constant(readers[0].input_value(i).get_node())
            if values is not None and values.size == channels:
                return values.reshape(-1)
    return np.zeros(channels, np.float32)


def _constant(node: Any) -> np.ndarray | None:
    """The float values of a constant that is stored in float32 or float16."""
    if node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Constant":
        return None
    return np.array(node.get_data(), np.float32)
