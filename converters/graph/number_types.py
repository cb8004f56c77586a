"""In which numbers an ONNX graph stores and computes, read from the graph and not from its name.

Three questions with different answers. `conv_precision` is the type that one convolution computes
in. `output_precisions` is the precision by which an output is judged: the coarsest numbers that a
share of the work for that output, or all of the work, really passes through (FP16 weights that are
cast to float32 still have FP16's errors). `coarsest_of` is the coarsest precision that occurs at
all. Nodes that no output needs never count, and neither do metadata.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from scrfdconv.converters.artifact import once_per_file
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.graph.model_file import load_onnx

if TYPE_CHECKING:
    import onnx

SUGGESTIONS = 3  # names that an error about an unknown node offers
CONVOLUTIONS = ("Conv", "FusedConv", "QLinearConv", "ConvInteger")
FINEST_FIRST: tuple[str, ...] = ("fp32", "fp16", "int8")
# If reduced numbers do less than this part of an output's multiply-adds, the output gets no wider
# limits: so small a part would save no time either.
TRIVIAL_SHARE = 0.01
TO_BYTES = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_IN_BYTES = ("QLinearConv", "ConvInteger", "QLinearMatMul", "MatMulInteger")
_QUANTIZED = (*TO_BYTES, *_IN_BYTES)
# Nodes that return their first input unchanged: the type of a weight is looked up through them.
_TRANSPARENT = ("Identity", "Reshape", "Transpose", "Unsqueeze", "Squeeze")
_SHRINKING = (*CONVOLUTIONS, "MaxPool", "AveragePool")
_WEIGHT_SLOT = {"QLinearConv": 3}  # x, scale, zero point, w, ...; 1 for all others


@once_per_file
def precisions_in(path: Path) -> Mapping[str, str]:
    """`output_precisions` of an ONNX file."""
    return output_precisions(load_onnx(path))


def precision_in(path: Path) -> str:
    """`precision_of` an ONNX file."""
    return coarsest(precisions_in(path).values())


def precision_of(model: onnx.ModelProto) -> str:
    """``int8``, ``fp16`` or ``fp32``: the coarsest that an output of ``model`` is judged by."""
    return coarsest(output_precisions(model).values())


def output_precisions(model: onnx.ModelProto) -> dict[str, str]:
    """For every output, by its own name: the numbers that decide its limits."""
    numbers = Numbers(model)
    return {value.name: numbers.reaching(value.name) for value in model.graph.output}


def coarsest_of(model: onnx.ModelProto) -> str:
    """The coarsest numbers that any value on the way to an output has, however few they are."""
    numbers = Numbers(model)
    found = [numbers.of_node(node) for node in numbers.live]
    return coarsest([*found, *(numbers.of_type(v.name) for v in model.graph.output)])


def coarsest(precisions: Iterable[str]) -> str:
    """The coarsest of some precisions; fp32 if there are none."""
    return max(precisions, key=FINEST_FIRST.index, default=FINEST_FIRST[0])


def live_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    """The nodes that an output depends on, in the graph's order."""
    return _ancestors(graph.node, {value.name for value in graph.output})


def _ancestors(nodes: Sequence[onnx.NodeProto], needed: set[str]) -> list[onnx.NodeProto]:
    """Those of ``nodes``, which are in topological order, that some values depend on."""
    found = []
    for node in reversed(nodes):
        if not needed.isdisjoint(node.output):
            needed.update(name for name in node.input if name)
            needed.update(_captured(node))
            found.append(node)
    return found[::-1]


def _captured(node: onnx.NodeProto) -> Iterator[str]:
    """What branches of an If or a Loop read from the graph around them."""
    for attribute in node.attribute:
        branches = [attribute.g] if attribute.HasField("g") else attribute.graphs
        for branch in branches:
            for child in branch.node:
                yield from child.input
                yield from _captured(child)


@dataclass(frozen=True)
class _Work:
    """A convolution, its precision, and its multiply-adds in an arbitrary unit."""

    node: onnx.NodeProto
    precision: str
    amount: float


class Numbers:
    """The numbers of every value that an output of a graph depends on."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._graph = model.graph
        self.live = live_nodes(model.graph)
        self._makers = {name: node for node in self.live for name in node.output}
        self._constants = {t.name: t.data_type for t in model.graph.initializer}
        self._types = dict(self._constants)
        inputs = [v for v in model.graph.input if v.name not in self._constants]
        self._images = {value.name for value in inputs}
        self._types |= {value.name: value.type.tensor_type.elem_type for value in inputs}
        for node in self.live:
            kind = self._made_type(node)
            self._types |= dict.fromkeys(node.output, kind)

    def reaching(self, output: str) -> str:
        """The coarsest numbers by whose limits ``output`` is judged."""
        way = _ancestors(self.live, {output})
        names = {name for node in way for name in node.output}
        work = [one for one in self._work if one.node.output[0] in names]
        total = sum(one.amount for one in work)
        coarsest_first: tuple[str, ...] = FINEST_FIRST[:0:-1]
        for precision in coarsest_first:
            coarse = FINEST_FIRST[FINEST_FIRST.index(precision) :]
            share = sum(one.amount for one in work if one.precision in coarse)
            if total and share >= TRIVIAL_SHARE * total:
                return precision
        return "fp16" if self._all_halved(way, output) else FINEST_FIRST[0]

    def maker(self, name: str) -> onnx.NodeProto | None:
        """The node that makes a value; None for constants and images."""
        return self._makers.get(name)

    def before(self, names: Iterable[str]) -> list[onnx.NodeProto]:
        """The nodes that some values depend on, in the graph's order."""
        return _ancestors(self.live, set(names))

    def is_constant(self, name: str) -> bool:
        """True for a value that does not depend on the image."""
        return name in self._constants or (name in self._makers and name not in self._from_image)

    @cached_property
    def _from_image(self) -> set[str]:
        found = set(self._images)
        for node in self.live:
            if found & {*node.input, *_captured(node)}:
                found.update(node.output)
        return found

    def of_type(self, name: str) -> str:
        """``fp16`` for a value of 16 bits, ``fp32`` for all others."""
        import onnx

        kinds = (onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
        return "fp16" if self._types.get(name) in kinds else "fp32"

    def of_node(self, node: onnx.NodeProto) -> str:
        """The coarsest numbers that a node reads or gives."""
        if node.op_type in _QUANTIZED:
            return "int8"
        return coarsest(self.of_type(name) for name in (*node.input, *node.output))

    def _all_halved(self, way: Sequence[onnx.NodeProto], output: str) -> bool:
        """True if every path from the image to ``output`` passes through FP16.

        An FP16 image was rounded before. Bytes are different: a picture has no more than 8 bits, so
        that a pair of Q and DQ behind the image loses nothing.
        """
        fine = {name for name in self._images if self.of_type(name) == FINEST_FIRST[0]}
        for node in way:
            halved = any(self.of_type(name) == "fp16" for name in node.output)
            if not halved and fine & {*node.input, *_captured(node)}:
                fine.update(node.output)
        return output not in fine and bool(way)

    @cached_property
    def _work(self) -> list[_Work]:
        """Every convolution, with the size of its weight times the relative area of its output."""
        sizes = {t.name: math.prod(t.dims) for t in self._graph.initializer}
        strides: dict[str, float] = {}
        found = []
        for node in self.live:
            stride = self._stride(node, strides)
            strides |= dict.fromkeys(node.output, stride)
            if node.op_type in CONVOLUTIONS or self._multiplies_constant(node):
                weight = weight_name(node)
                numbers = coarsest([self.of_weight(weight), self._of_inputs(node)])
                amount = sizes.get(self._origin(weight), 1) / stride**2
                found.append(_Work(node, numbers, amount))
        return found

    def _multiplies_constant(self, node: onnx.NodeProto) -> bool:
        """True for a matrix product with a constant: some exporters write 1x1 convolutions so."""
        if node.op_type not in ("MatMul", "Gemm", "QLinearMatMul", "MatMulInteger"):
            return False
        return self._origin(weight_name(node)) in self._constants

    def _of_inputs(self, node: onnx.NodeProto) -> str:
        dequantized = _is_dequantized(node.input[0], self._makers)
        if node.op_type in _IN_BYTES or (dequantized and not self._is_image(node.input[0])):
            return "int8"
        return coarsest([self.of_type(node.input[0]), self.of_type(node.output[0])])

    def _is_image(self, name: str) -> bool:
        """True for the image, also in bytes: a picture has no more than 8 bits."""
        while name in self._makers and self._makers[name].op_type in (*TO_BYTES, *_TRANSPARENT):
            name = self._makers[name].input[0]
        return name in self._images

    def of_weight(self, name: str) -> str:
        """The coarsest numbers that a constant has passed through since it was stored."""
        found = [self.of_type(name)]
        while name in self._makers:
            maker = self._makers[name]
            found.append(self.of_node(maker))
            name = maker.input[0] if maker.input else ""
        return coarsest(found)

    def _origin(self, name: str) -> str:
        while name in self._makers and self._makers[name].input:
            name = self._makers[name].input[0]
        return name

    def _stride(self, node: onnx.NodeProto, strides: Mapping[str, float]) -> float:
        """Pixels of the image for each pixel of the output, along one side.

        For maps that are added or joined, the finest stride counts: a Resize does not state its
        size, but its result is added to a map of known size.
        """
        known = [strides[name] for name in node.input if name in strides]
        known += [1.0 for name in node.input if name in self._images]
        step = 1
        if node.op_type in _SHRINKING:
            step = next((a.ints[0] for a in node.attribute if a.name == "strides"), 1)
        return min(known, default=1.0) * step

    def _made_type(self, node: onnx.NodeProto) -> int:
        import onnx

        kinds = {a.name: a for a in node.attribute}
        if node.op_type == "Cast":
            return int(kinds["to"].i)
        if node.op_type == "Constant" and "value" in kinds:
            return int(kinds["value"].t.data_type)
        if node.op_type in ("Shape", "Size"):
            return int(onnx.TensorProto.INT64)
        if node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear"):
            return int(onnx.TensorProto.UINT8)
        slot = 1 if node.op_type == "DequantizeLinear" else 0  # its scale has the result's type
        name = node.input[slot] if len(node.input) > slot else ""
        return self._types.get(name, int(onnx.TensorProto.FLOAT))


# ---------------------------------------------------------------- convolutions


def weight_name(node: onnx.NodeProto) -> str:
    """The name of a convolution's weight."""
    return str(node.input[_WEIGHT_SLOT.get(node.op_type, 1)])


def convolutions(model: onnx.ModelProto) -> Iterator[tuple[onnx.NodeProto, str]]:
    """Yield every convolution that an output needs, with the precision that it computes in."""
    graph = model.graph
    nodes = live_nodes(graph)
    makers = {name: node for node in nodes for name in node.output}
    constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for node in nodes:
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
    if node.op_type not in ("Conv", "FusedConv"):
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


def nodes_asked_for(model: onnx.ModelProto, names: Sequence[str]) -> list[str]:
    """The nodes that ``--keep-float`` names by node or operator; UsageError for an unknown name."""
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
