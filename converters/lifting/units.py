"""Convolutions with what follows them: a norm, folded in or not, and a ReLU."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from scrfdconv.converters.lifting.graph import Graph, Node

EPSILON = 1e-5  # of every norm in these networks
# Relative: float32 stores 1e-5 to within 1e-8 of its value; another choice is 10 times as large.
_CLOSE = 1e-3
_CLOSE_HALF = 1e-2  # float16 stores 1e-5 as 1.0014e-5, a subnormal number
_KERNEL_RANK = 4  # (out, in, k, k)
_FLOATS = ("float32", "float16", "float64", "bfloat16")
_WHOLE_MAP = (2, 3)  # axes of height and width
_CHANNEL_AXIS = 3  # from the end: (N, C, H, W)


@dataclass(frozen=True)
class Norm:
    """BatchNorm or GroupNorm as the graph has it; arrays of one number per channel."""

    kind: Literal["bn", "gn"]
    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray | None = None  # these two of BatchNorm only
    variance: np.ndarray | None = None
    groups: int = 0


@dataclass(frozen=True, eq=False)
class Unit:
    """A convolution of ``source``; ``out`` is the value behind its norm and its ReLU."""

    node: Node
    nodes: tuple[Node, ...]  # all that were read, the convolution first
    source: str
    out: str
    weight: np.ndarray  # (out, in / groups, k, k)
    bias: np.ndarray | None
    norm: Norm | None
    relu: bool

    @property
    def width(self) -> int:
        """Output channels."""
        return len(self.weight)

    @property
    def stride(self) -> int:
        """The stride along the height; the one along the width is compared later."""
        return self.node.ints("strides", (1, 1))[0]

    @property
    def depthwise(self) -> bool:
        """True if every channel has a kernel of its own."""
        return 1 < int(self.node.attributes.get("group", 1)) == self.width


def units_of(graph: Graph) -> dict[Node, Unit]:
    """Every convolution that an output depends on; raises ArtifactError for odd convolutions."""
    return {node: _unit(graph, node) for node in graph.live if node.operator == "Conv"}


def _unit(graph: Graph, node: Node) -> Unit:
    weight, bias = graph.constant(node, 1), graph.constant(node, 2)
    if weight is None or weight.ndim != _KERNEL_RANK:
        graph.refuse(node, "has no constant weight (out, in, k, k)")
    if weight.dtype.name not in _FLOATS or (bias is not None and bias.dtype.name not in _FLOATS):
        graph.refuse(node, f"has weights of type {weight.dtype.name}, not of a float type")
    _require_channels(graph, node, weight)
    nodes, value = [node], node.output
    if added := _constant_operand(graph, value, "Add", len(weight)):
        nodes.append(added[0])
        value = added[0].output
        bias = added[1] if bias is None else bias + added[1]
    if bias is not None and bias.shape != (len(weight),):
        graph.refuse(node, f"has {bias.size} biases for {len(weight)} channels")
    norm, behind = norm_after(graph, value, len(weight))
    nodes += behind
    value = nodes[-1].output
    readers = graph.readers(value)
    relu = [r.operator for r in readers] == ["Relu"] and value not in graph.outputs
    if relu:
        nodes.append(readers[0])
    return Unit(
        node=node,
        nodes=tuple(nodes),
        source=node.inputs[0],
        out=nodes[-1].output,
        weight=weight,
        bias=bias,
        norm=norm,
        relu=relu,
    )


def _require_channels(graph: Graph, node: Node, weight: np.ndarray) -> None:
    groups, have = int(node.attributes.get("group", 1)), graph.channels(node.inputs[0])
    if weight.shape[1] * groups != have or len(weight) % groups:
        graph.refuse(
            node,
            f"has a weight {list(weight.shape)} in {groups} group(s), which does not fit the "
            f"{have} channels that it reads",
        )


def norm_after(  # noqa: PLR0911 - one return for each form that files have
    graph: Graph, value: str, width: int
) -> tuple[Norm | None, list[Node]]:
    """The norm that a convolution's result goes through, and its nodes; None where there is none.

    Files hold GroupNorm as an operator, or as three parts: a Reshape that makes a row of each
    group, an InstanceNormalization, and factors and offsets for the channels.
    """
    readers = graph.readers(value)
    if sorted(reader.operator for reader in readers) == ["ReduceMean", "Sub"]:
        return _written_out(graph, value, width)
    if len(readers) != 1:
        return None, []
    node = readers[0]
    if node.operator == "BatchNormalization":
        return _batch_norm(graph, node, width), [node]
    if node.operator == "GroupNormalization":
        groups = int(node.attributes.get("num_groups", 0))
        return _group_norm(graph, node, groups, width, [node])
    if node.operator == "InstanceNormalization":  # as many groups as channels
        return _group_norm(graph, node, width, width, [node])
    following = graph.readers(node.output)
    if node.operator == "Reshape" and [f.operator for f in following] == ["InstanceNormalization"]:
        shape = graph.constant(node, 1)
        back = graph.only_reader(following[0].output, "Reshape")
        if shape is None or shape.shape != (3,):  # (N, groups, all the rest)
            graph.refuse(node, "should make (N, groups, all the rest) of a value")
        return _group_norm(graph, following[0], int(shape[1]), width, [node, following[0], back])
    return None, []


def _batch_norm(graph: Graph, node: Node, width: int) -> Norm:
    values = [graph.constant(node, index) for index in range(1, 5)]
    weight, bias, mean, variance = (
        value if value is not None and value.shape == (width,) else None for value in values
    )
    if weight is None or bias is None or mean is None or variance is None:
        graph.refuse(node, f"lacks constants for {width} channels")
    # The network's epsilon is fixed, so the difference is added to the variance.
    more = float(node.attributes.get("epsilon", EPSILON)) - EPSILON
    if not math.isclose(more + EPSILON, EPSILON, rel_tol=_CLOSE):
        variance = (variance.astype(np.float64) + more).astype(variance.dtype)
        if variance.min() < 0:
            graph.refuse(node, f"has an epsilon below {EPSILON} that its variances do not allow")
    return Norm(kind="bn", weight=weight, bias=bias, mean=mean, variance=variance)


def _group_norm(
    graph: Graph, node: Node, groups: int, width: int, nodes: list[Node]
) -> tuple[Norm, list[Node]]:
    """``node`` normalises ``groups`` groups; factors of the channels may follow ``nodes``."""
    epsilon = float(node.attributes.get("epsilon", EPSILON))
    if groups < 1 or width % groups or not math.isclose(epsilon, EPSILON, rel_tol=_CLOSE):
        graph.refuse(node, f"normalises {groups} groups of {width} channels, epsilon {epsilon:g}")
    weight, bias = graph.constant(node, 1), graph.constant(node, 2)
    sizes = [value.size for value in (weight, bias) if value is not None]
    if weight is None or bias is None or sizes[0] != sizes[1] or sizes[0] not in (groups, width):
        graph.refuse(node, "lacks constant factors and offsets")
    weight, bias = (np.repeat(v.reshape(-1), width // v.size) for v in (weight, bias))
    if factor := _constant_operand(graph, nodes[-1].output, "Mul", width):
        nodes = [*nodes, factor[0]]
        weight, bias = weight * factor[1], bias * factor[1]
    if offset := _constant_operand(graph, nodes[-1].output, "Add", width):
        nodes = [*nodes, offset[0]]
        bias = bias + offset[1]
    return Norm("gn", weight, bias, groups=groups), nodes


def _written_out(graph: Graph, value: str, width: int) -> tuple[Norm, list[Node]]:
    """GroupNorm as our exports write it: means of means (`graph.norms`)."""
    mean = _mean_of_groups(graph, next(r for r in graph.readers(value) if r.operator != "Sub"))
    spread = graph.readers(mean[-1].output)[:1]
    while spread[-1].operator in ("Expand", "Reshape"):
        (following,) = graph.readers(spread[-1].output)
        spread.append(following)
    rest = spread[-1].output
    square = next(r for r in graph.readers(rest) if set(r.inputs) == {rest})
    variance = _mean_of_groups(graph, graph.only_reader(square.output, "ReduceMean"))
    above_zero = graph.only_reader(variance[-1].output, "Add")
    root = graph.only_reader(above_zero.output, "Sqrt")
    factor = graph.only_reader(root.output, "Div")
    # Simplifiers leave the Reshape out where every channel is a group.
    back = [node for node in graph.readers(factor.output) if node.operator == "Reshape"]
    scaled = graph.only_reader((back or [factor])[0].output, "Mul")
    shifted = graph.only_reader(scaled.output, "Add")
    weight = graph.constant(factor, 0)
    bias, epsilon = _either_constant(graph, shifted), _either_constant(graph, above_zero)
    groups = graph.constant(mean[1], 1) if len(mean) > 1 else np.array([1, width])
    if weight is None or bias is None or groups is None or epsilon is None:
        graph.refuse(factor, "lacks constant factors and offsets")
    close = _CLOSE_HALF if epsilon.dtype == np.float16 else _CLOSE
    if weight.size != width or not math.isclose(float(epsilon), EPSILON, rel_tol=close):
        graph.refuse(factor, f"normalises {weight.size} channels of {width}, epsilon {epsilon}")
    nodes = [*mean, *spread, square, *variance, above_zero, root, factor, *back, scaled, shifted]
    norm = Norm(kind="gn", weight=weight.reshape(-1), bias=bias.reshape(-1), groups=int(groups[1]))
    return norm, nodes


def _either_constant(graph: Graph, node: Node) -> np.ndarray | None:
    """The operand of ``node`` that is a constant."""
    found = (graph.constant(node, index) for index in (0, 1))
    return next((value for value in found if value is not None), None)


def _mean_of_groups(graph: Graph, rows: Node) -> list[Node]:
    """The mean of each row, the groups, and the mean of each group.

    Simplifiers make one node of them where every channel is a group.
    """
    axes = graph.constant(rows, 1) if len(rows.inputs) > 1 else rows.ints("axes", ())
    if axes is not None and tuple(axes) == _WHOLE_MAP:
        return [rows]
    grouped = graph.only_reader(rows.output, "Reshape")
    return [rows, grouped, graph.only_reader(grouped.output, "ReduceMean")]


def _constant_operand(
    graph: Graph, value: str, operator: str, width: int
) -> tuple[Node, np.ndarray] | None:
    """The node that adds or multiplies one number per channel to ``value``, and the numbers."""
    readers = graph.readers(value)
    if [r.operator for r in readers] != [operator] or value in graph.outputs:
        return None
    constants = (graph.constant(readers[0], index) for index in (0, 1))
    found = next((c for c in constants if c is not None), None)
    if found is None or found.ndim < _CHANNEL_AXIS or found.shape[-_CHANNEL_AXIS] != found.size:
        return None
    return (readers[0], found.reshape(-1)) if found.size == width else None
