"""GroupNorm in ONNX: written so that it keeps its precision at any size, and found again.

ONNX Runtime's InstanceNormalization adds all values of a group up in one float32 sum, so that its
error grows with the size of the picture. Here every mean is a mean of row means: first of the
values, then of the squared differences from the mean:

    mean = mean over the group of (mean over a row of x)             (N, G, 1, 1)
    rest = x - mean                                                  (N, C, H, W)
    variance = mean over the group of (mean over a row of rest^2)    (N, G, 1, 1)
    rest * (scale / sqrt(variance + epsilon)) + shift                (N, C, H, W)

No shape is computed: in a Reshape, 0 copies a dimension and -1 is the remaining one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scrfdconv.converters.graph.edits import drop_unread, replace_all

if TYPE_CHECKING:
    import onnx

AXES_AS_INPUT = 18  # from this opset on, ReduceMean takes its axes as an input
_ROW, _GROUP = 3, 2  # axes of a row in (N, C, H, W) and of a group's rows in (N, G, rows, 1)
_AROUND = ("Reshape", "Mul", "Add")  # with these around, InstanceNormalization is GroupNorm


@dataclass(frozen=True, kw_only=True)
class _Exported:
    """GroupNorm as exporters write it: five nodes from ``source`` to ``output``."""

    nodes: tuple[onnx.NodeProto, ...]
    name: str
    source: str
    output: str
    scale: np.ndarray  # (C,)
    shift: np.ndarray
    groups: int
    epsilon: float


def write_group_norms(model: onnx.ModelProto) -> None:
    """Replace every GroupNorm that an exporter wrote with InstanceNormalization."""
    from scrfdconv.converters.graph.model_file import opset_of

    graph = model.graph
    found = {norm.nodes[0].output[0]: norm for norm in _exported(graph)}
    if not found:
        return
    gone = {node.output[0] for norm in found.values() for node in norm.nodes}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.output[0] in found:
            writer = _Writer(graph, found[node.output[0]], opset_of(model))
            nodes += writer.nodes()
        elif node.output[0] not in gone:
            nodes.append(node)
    replace_all(graph.node, nodes)
    drop_unread(graph)  # shapes for the norm's Reshape


def norm_nodes(model: onnx.ModelProto) -> frozenset[str]:
    """Names of all nodes of all norms that are written out: from a convolution to the shift.

    Whatever leads to a square root or follows it belongs to a norm: nothing else in a detector
    takes a square root.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    constants = {tensor.name for tensor in model.graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found: set[str] = set()
    for root in (node for node in model.graph.node if node.op_type == "Sqrt"):
        found.update(_before(root, makers))
        found.update(_behind(root, readers, constants))
    return frozenset(found)


def _before(node: onnx.NodeProto, makers: dict[str, onnx.NodeProto]) -> Iterator[str]:
    """Names of ``node`` and of the nodes before it, back to the previous convolution."""
    waiting, seen = [node], set()
    while waiting:
        node = waiting.pop()
        if node.op_type in ("Conv", "Relu") or node.name in seen:
            continue
        seen.add(node.name)
        yield node.name
        waiting += [makers[name] for name in node.input if name in makers]


def _behind(
    node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]], constants: set[str]
) -> Iterator[str]:
    """Names of the nodes behind ``node``, up to the addition of a constant (the shift)."""
    waiting, seen = list(readers.get(node.output[0], ())), set()
    while waiting:
        node = waiting.pop()
        if node.op_type in ("Conv", "Relu") or node.name in seen:
            continue
        seen.add(node.name)
        yield node.name
        if not (node.op_type == "Add" and constants & set(node.input)):
            waiting += readers.get(node.output[0], ())


# ---------------------------------------------------------------- as exporters write it


def _exported(graph: onnx.GraphProto) -> Iterator[_Exported]:
    from onnx import numpy_helper

    makers = {name: node for node in graph.node for name in node.output}
    readers = {name: node for node in graph.node for name in node.input}
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    for norm in graph.node:
        if norm.op_type != "InstanceNormalization":
            continue
        chain = [makers[norm.input[0]], norm]
        for operator in _AROUND:
            chain.append(readers[chain[-1].output[0]])
            assert chain[-1].op_type == operator, f"{norm.name}: {chain[-1].op_type}"
        scale, shift = (
            next(tensors[name] for name in node.input if name in tensors) for node in chain[3:]
        )
        assert (tensors[norm.input[1]] == 1).all() and not tensors[norm.input[2]].any()
        yield _Exported(
            nodes=tuple(chain),
            name=norm.name.rpartition("/")[0] or norm.output[0],
            source=chain[0].input[0],
            output=chain[-1].output[0],
            scale=scale.reshape(-1),
            shift=shift.reshape(-1),
            groups=len(tensors[norm.input[1]]),
            epsilon=next(a.f for a in norm.attribute if a.name == "epsilon"),
        )


class _Writer:
    """The nodes of one norm; constants go into the graph."""

    def __init__(self, graph: onnx.GraphProto, norm: _Exported, opset: int) -> None:
        self._graph, self._norm, self._opset = graph, norm, opset
        self._nodes: list[onnx.NodeProto] = []

    def nodes(self) -> list[onnx.NodeProto]:
        norm, channels = self._norm, len(self._norm.scale)
        inner = (1, norm.groups, channels // norm.groups, 1)
        mean = self._mean_of_group(norm.source, "mean")
        spread = self._node("Expand", "mean/Expand", mean, self._shape("spread", inner))
        rest = self._node("Sub", "Sub", norm.source, self._by_channel(spread, "mean"))
        square = self._node("Mul", "variance/Mul", rest, rest)
        variance = self._mean_of_group(square, "variance")
        epsilon = self._constant("epsilon", np.array(norm.epsilon, np.float32))
        above_zero = self._node("Add", "variance/Add", variance, epsilon)
        deviation = self._node("Sqrt", "variance/Sqrt", above_zero)
        scale = self._constant("scale", norm.scale.reshape(inner))
        factor = self._node("Div", "factor/Div", scale, deviation)
        scaled = self._node("Mul", "Mul", rest, self._by_channel(factor, "factor"))
        shift = self._constant("shift", norm.shift.reshape(channels, 1, 1))
        self._node("Add", "Add", scaled, shift, output=norm.output)
        return self._nodes

    def _mean_of_group(self, name: str, stem: str) -> str:
        rows = self._mean(name, f"{stem}/ReduceMean", _ROW)
        shape = self._shape("rows", (0, self._norm.groups, -1, 1))
        grouped = self._node("Reshape", f"{stem}/Reshape", rows, shape)
        return self._mean(grouped, f"{stem}/ReduceMean_1", _GROUP)

    def _mean(self, name: str, node: str, axis: int) -> str:
        if self._opset < AXES_AS_INPUT:
            return self._node("ReduceMean", node, name, axes=[axis], keepdims=1)
        axes = self._constant(f"axis{axis}", np.array([axis], np.int64))
        return self._node("ReduceMean", node, name, axes, keepdims=1)

    def _by_channel(self, name: str, stem: str) -> str:
        """(N, G, C/G, 1) as (N, C, 1, 1)."""
        shape = self._shape("channels", (0, len(self._norm.scale), 1, 1))
        return self._node("Reshape", f"{stem}/Reshape_1", name, shape)

    def _shape(self, name: str, shape: tuple[int, ...]) -> str:
        return self._constant(name, np.array(shape, np.int64))

    def _constant(self, name: str, values: np.ndarray) -> str:
        from onnx import numpy_helper

        full = f"{self._norm.name}/{name}"
        if all(tensor.name != full for tensor in self._graph.initializer):
            self._graph.initializer.append(numpy_helper.from_array(values, full))
        return full

    def _node(
        self, operator: str, name: str, *inputs: str, output: str = "", **attributes: Any
    ) -> str:
        from onnx import helper

        full = f"{self._norm.name}/{name}"
        output = output or f"{full}_output_0"
        self._nodes.append(helper.make_node(operator, inputs, [output], full, **attributes))
        return output
