"""In which numbers an ONNX graph stores and computes, read from the graph and not from its name.

Two questions with different answers: `precision_of` asks for the coarsest numbers that a value
passes through (FP16 weights that are cast to float32 still have FP16's errors), and
`conv_precision` for the type that one convolution computes in.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from scrfdconv.converters.errors import UsageError

if TYPE_CHECKING:
    import onnx

SUGGESTIONS = 3  # names that an error about an unknown node offers
CONVOLUTIONS = ("Conv", "QLinearConv", "ConvInteger")
_QUANTIZED = (
    "QuantizeLinear",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "QLinearConv",
    "ConvInteger",
    "QLinearMatMul",
    "MatMulInteger",
)
# Nodes that hand on their first input as it is: the type of a weight is looked up through them.
_TRANSPARENT = ("Identity", "Reshape", "Transpose", "Unsqueeze", "Squeeze")


def precision_of(model: onnx.ModelProto) -> str:
    """``int8``, ``fp16`` or ``fp32``: the coarsest numbers that values of ``model`` pass through.

    That says which errors are to be expected, so which limits apply.
    """
    if any(node.op_type in _QUANTIZED for node in model.graph.node):
        return "int8"
    return "fp16" if _has_halves(model.graph) else "fp32"


def convolutions(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Yield every convolution with the precision that it computes in."""
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in CONVOLUTIONS:
            yield node, conv_precision(node, makers, constants)


def conv_precision(
    node: onnx.NodeProto, makers: dict[str, onnx.NodeProto], constants: dict[str, int]
) -> str:
    """``int8``, ``fp16`` or ``fp32``, or the name of a rarer ONNX type.

    ``makers`` are the nodes by output, ``constants`` the types of the initializers. In a Q/DQ
    graph a convolution is INT8 if both its inputs are dequantized: runtimes fuse those, and a
    convolution with only its weight dequantized computes in float.
    """
    if node.op_type != "Conv":
        return "int8"
    if all(_is_dequantized(name, makers) for name in node.input[:2]):
        return "int8"
    return _type_name(_type_of(node.input[1], makers, constants))


def _is_dequantized(name: str, makers: dict[str, onnx.NodeProto]) -> bool:
    maker = makers.get(name)
    while maker is not None and maker.op_type in _TRANSPARENT:
        maker = makers.get(maker.input[0])
    return maker is not None and maker.op_type == "DequantizeLinear"


def _type_of(name: str, makers: dict[str, onnx.NodeProto], constants: dict[str, int]) -> int:
    """The ONNX type of a weight; float32 where the graph does not say."""
    import onnx

    while name not in constants and name in makers:
        maker = makers[name]
        if maker.op_type == "Cast":
            return next(int(a.i) for a in maker.attribute if a.name == "to")
        if maker.op_type == "Constant":
            return next((int(a.t.data_type) for a in maker.attribute if a.name == "value"), 1)
        # the scale of a DequantizeLinear has the type of its result
        name = maker.input[1 if maker.op_type == "DequantizeLinear" else 0] if maker.input else ""
    return constants.get(name, int(onnx.TensorProto.FLOAT))


def _type_name(kind: int) -> str:
    import onnx

    name = next(name for name, value in onnx.TensorProto.DataType.items() if value == kind)
    return {"FLOAT": "fp32", "FLOAT16": "fp16"}.get(name, name.lower())


def _has_halves(graph: onnx.GraphProto) -> bool:
    import onnx

    half = onnx.TensorProto.FLOAT16
    return (
        any(tensor.data_type == half for tensor in graph.initializer)
        or any(v.type.tensor_type.elem_type == half for v in (*graph.input, *graph.output))
        or any(
            attribute.t.data_type == half or (attribute.name == "to" and attribute.i == half)
            for node in graph.node
            for attribute in node.attribute
        )
    )


def nodes_asked_for(model: onnx.ModelProto, names: Sequence[str]) -> list[str]:
    """Nodes that ``--keep-float`` means by node or operator; UsageError for an unknown one."""
    nodes = {node.name: node.op_type for node in model.graph.node}
    known = [*nodes, *dict.fromkeys(nodes.values())]
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, SUGGESTIONS, cutoff=0.5)
            near = near or list(dict.fromkeys(nodes.values()))
            raise UsageError(
                f"--keep-float {name}: the model has no such node or operator; close are "
                f"{', '.join(near)}."
            )
    return [node for node, operator in nodes.items() if node in names or operator in names]
