"""FP16 graphs: onnxconverter-common converts, and its guesses are decided before.

The library knows types only from shape inference, and its bugs sit in its own casts (version
1.16.0). So the library gets nodes and weights alone, with explicit casts at every border:

1. Resize's ``roi`` and ``scales`` stay float32; converted scales are an invalid model.
2. Graph inputs and outputs keep their names, and the casts beside them are ours: the library's
   casts get duplicate names, and break where an output is also read inside the graph.
3. A weight that FP16 and float nodes share becomes two: with one type, the model would not load.
4. A Cast of the source keeps its type; it is not retargeted to FP16.
5. Nothing is clamped (the library clamps to 1e-7 ... 1e4 by default): the caller keeps nodes with
   weights out of range in float.
6. Casts stand before their first reader, so that the order stays topological.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from scrfdconv.converters.graph.edits import float_tensors, free_name, replace_all

if TYPE_CHECKING:
    import onnx

# Operators that read only the shape of their input, whatever its type.
TYPELESS_READERS = ("Shape", "Size")
# Inputs that the standard types as float32, by position (rule 1).
FLOAT_SLOTS = {"Resize": (1, 2)}
# Operators that state the type of their output, so that precision does not matter (rule 4).
TYPED = ("Cast",)


def blocked_operators() -> frozenset[str]:
    """Operators that have no FP16 form everywhere, as the library lists them."""
    from onnxconverter_common import float16

    # Resize is on the library's list for its scales only, and Min and Max for old runtimes
    return frozenset(float16.DEFAULT_OP_BLOCK_LIST) - {"Resize", "Min", "Max"} | {*TYPED}


def half_from_float(
    model: onnx.ModelProto, keep: Collection[str], *, half_io: bool = False
) -> onnx.ModelProto:
    """``model`` (prepared) in FP16, with the nodes named in ``keep`` in float32.

    The image and the outputs stay float32 unless ``half_io``.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    borders = _Borders(graph, float_tensors(model), frozenset(keep), half_io)
    replace_all(graph.node, borders.nodes())
    floats = _take_float_weights(graph, borders.keep)
    _convert(result, borders.keep | borders.casts)
    graph.initializer.extend(floats)
    _declare_types(graph, half_io)
    return result


class _Borders:
    """The graph's nodes with a Cast wherever FP16 and float32 meet, one per value and type."""

    def __init__(
        self, graph: onnx.GraphProto, floats: frozenset[str], keep: frozenset[str], half_io: bool
    ) -> None:
        self._graph, self._half_io = graph, half_io
        self.keep = keep
        self.casts: frozenset[str] = frozenset()  # names of the Cast nodes
        self._taken = {name for node in graph.node for name in (*node.input, *node.output)}
        self._made: dict[tuple[str, bool], str] = {}  # (value, to FP16) -> casted value
        # value -> is it FP16?
        self._half = {value.name: half_io for value in graph.input if value.name in floats}
        self._half |= {
            name: node.name not in keep
            for node in graph.node
            for name in node.output
            if name in floats
        }

    def nodes(self) -> list[onnx.NodeProto]:
        """All nodes in an order that stays topological, every reader with inputs of its type."""
        renamed = self._rename_outputs()
        result: list[onnx.NodeProto] = []
        for node in self._graph.node:
            node.output[:] = [renamed.get(name, name) for name in node.output]
            node.input[:] = [renamed.get(name, name) for name in node.input]
            for slot, name in enumerate(node.input):
                wanted = wants_half(node, slot, self.keep)
                if name in self._half and wanted not in (None, self._half[name]):
                    node.input[slot] = self._cast(name, bool(wanted), result)
            result.append(node)
        for name, inner in renamed.items():
            result.append(self._node(inner, name, self._half_io))
        return result

    def _rename_outputs(self) -> dict[str, str]:
        """Rule 2: an output of the wrong type becomes an inner value, cast under its old name."""
        renamed = {}
        for value in self._graph.output:
            half = self._half.get(value.name, self._half_io)
            if half != self._half_io:
                inner = self._free_name(value.name, half)
                renamed[value.name] = inner
                self._half[inner] = self._half.pop(value.name)
        return renamed

    def _cast(self, name: str, half: bool, nodes: list[onnx.NodeProto]) -> str:
        """The name of ``name`` in the other type; the first reader's Cast goes to ``nodes``."""
        if (name, half) not in self._made:
            self._made[name, half] = target = self._free_name(name, half)
            nodes.append(self._node(name, target, half))
        return self._made[name, half]

    def _node(self, source: str, target: str, half: bool) -> onnx.NodeProto:
        import onnx

        to = onnx.TensorProto.FLOAT16 if half else onnx.TensorProto.FLOAT
        name = f"{target}/Cast"
        self.casts |= {name}
        return onnx.helper.make_node("Cast", [source], [target], name, to=to)

    def _free_name(self, name: str, half: bool) -> str:
        return free_name(f"{name}.{'fp16' if half else 'fp32'}", self._taken)


def wants_half(node: onnx.NodeProto, slot: int, keep: Collection[str]) -> bool | None:
    """Does the node read this input in FP16? None if any type is fine."""
    if node.op_type in TYPELESS_READERS:
        return None
    return node.name not in keep and slot not in FLOAT_SLOTS.get(node.op_type, ())


def _take_float_weights(graph: onnx.GraphProto, keep: Collection[str]) -> list[onnx.TensorProto]:
    """Take the weights that stay float32 out of the graph and return them (rules 1 and 3)."""
    import onnx

    weights = {t.name: t for t in graph.initializer if t.data_type == onnx.TensorProto.FLOAT}
    taken = {tensor.name for tensor in graph.initializer}
    slots = list(_float_slots(graph, keep, weights))
    half = {
        name
        for node in graph.node
        for i, name in enumerate(node.input)
        if name in weights and wants_half(node, i, keep)
    }
    stay: dict[str, onnx.TensorProto] = {}
    for node, slot in slots:
        name = node.input[slot]
        if name not in stay:
            stay[name] = onnx.TensorProto()
            stay[name].CopyFrom(weights[name])
            if name in half:
                stay[name].name = free_name(f"{name}.fp32", taken)
        node.input[slot] = stay[name].name
    gone = {tensor.name for tensor in stay.values()}
    replace_all(graph.initializer, [t for t in graph.initializer if t.name not in gone])
    return list(stay.values())


def _float_slots(
    graph: onnx.GraphProto, keep: Collection[str], weights: Collection[str]
) -> Iterator[tuple[onnx.NodeProto, int]]:
    for node in graph.node:
        for slot, name in enumerate(node.input):
            if name in weights and not wants_half(node, slot, keep):
                yield node, slot


def _convert(model: onnx.ModelProto, floats: frozenset[str]) -> None:
    """Let the library convert the weights and constants of all nodes but ``floats``."""
    from onnxconverter_common import float16

    graph = model.graph
    inputs, outputs = list(graph.input), list(graph.output)
    # The library would place casts by these declarations.
    del graph.input[:], graph.output[:], graph.value_info[:]
    float16.convert_float_to_float16(
        model,
        min_positive_val=0.0,  # rule 5
        max_finite_val=math.inf,
        disable_shape_infer=True,
        op_block_list=[],
        node_block_list=list(floats),
        check_fp16_ready=False,  # our own casts would count as FP16
    )
    graph.input.extend(inputs)
    graph.output.extend(outputs)


def _declare_types(graph: onnx.GraphProto, half_io: bool) -> None:
    import onnx

    constants = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.output):
        kind = value.type.tensor_type
        if value.name in constants:  # old files list weights as inputs
            kind.elem_type = constants[value.name]
        elif half_io and kind.elem_type == onnx.TensorProto.FLOAT:
            kind.elem_type = onnx.TensorProto.FLOAT16
