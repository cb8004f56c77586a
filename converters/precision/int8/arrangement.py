"""An equal graph, arranged so that INT8 is fast on a CPU.

ONNX Runtime's kernels decide what is fast; measured with 1.32 on one thread at 640x640:

1. An average pool before a 1x1 convolution becomes part of it: four times as many products, but
   one pass less. 2.5G_KPS: 1.2 of 31.6 ms.
2. Fewer than 16 channels between two convolutions are filled up with zeros: the byte kernels
   write 16 at a time, and 12 took twice as long as 16 (3.7 and 1.9 ms in the stem of 2.5G).
3. The last convolutions of a head become one, in float: a float kernel computes 16 channels at
   a time, too, so that boxes cost nothing beside the two channels of the scores (1.0 ms), and
   boxes with keypoints as much as separate ones (2.1 ms), at float accuracy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scrfdconv.converters.graph.edits import prepared, replace_all
from scrfdconv.converters.graph.heads import Heads

if TYPE_CHECKING:
    import onnx

KERNEL_CHANNELS = 16  # rule 2
_POOL = 2  # sides and strides of the pool that rule 1 treats


def arranged(
    model: onnx.ModelProto, outputs: Sequence[str], keep: Collection[str]
) -> onnx.ModelProto:
    """A copy of a quantizable ``model``; nodes named in ``keep`` are not merged into others.

    Heads are joined in any case, because heads stay float. Tensors keep their names, except joined
    ones.
    Rule 1 needs even maps, which every admissible size (a multiple of 32) gives.
    """
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = _Graph(result.graph)
    graph.fold_pools(keep)
    graph.fill_channels()
    _join_heads(result.graph, Heads(result, outputs).siblings())
    return prepared(result)


class _Graph:
    """The nodes of a graph by what they read, and its weights by name."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._uses = Counter(name for node in graph.node for name in node.input)
        self._uses.update(value.name for value in graph.output)
        self._readers = {name: node for node in graph.node for name in node.input}

    def fold_pools(self, keep: Collection[str]) -> None:
        """Rule 1."""
        gone = set()
        for pool in self._graph.node:
            reader = self._only_reader(pool)
            if pool.name in keep or not _is_halving(pool) or not self._is_pointwise(reader):
                continue
            assert reader is not None
            weight = self._weight(reader)
            spread = np.tile(weight / _POOL**2, (1, 1, _POOL, _POOL)).astype(weight.dtype)
            self._set(reader.input[1], spread)
            reader.input[0] = pool.input[0]
            _set_attributes(reader, kernel_shape=[_POOL] * 2, strides=[_POOL] * 2)
            gone.add(pool.name)
        replace_all(self._graph.node, [n for n in self._graph.node if n.name not in gone])

    def fill_channels(self) -> None:
        """Rule 2."""
        for first in self._graph.node:
            second = self._next_convolution(first)
            if second is None or not (self._is_dense(first) and self._is_dense(second)):
                continue
            missing = KERNEL_CHANNELS - len(self._weight(first))
            if missing > 0:
                for name in first.input[1:]:
                    self._fill(name, 0, missing)
                self._fill(second.input[1], 1, missing)

    def _next_convolution(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        reader = self._only_reader(node) if node.op_type == "Conv" else None
        if reader is not None and reader.op_type == "Relu":
            reader = self._only_reader(reader)
        return reader if reader is not None and reader.op_type == "Conv" else None

    def _only_reader(self, node: onnx.NodeProto) -> onnx.NodeProto | None:
        (name, *others) = node.output
        return self._readers.get(name) if not others and self._uses[name] == 1 else None

    def _is_dense(self, node: onnx.NodeProto) -> bool:
        """One group, and weights that no other node reads."""
        alone = all(name in self._tensors and self._uses[name] == 1 for name in node.input[1:])
        return alone and _attributes(node).get("group", 1) == 1

    def _is_pointwise(self, node: onnx.NodeProto | None) -> bool:
        if node is None or node.op_type != "Conv" or not self._is_dense(node):
            return False
        strides = _attributes(node).get("strides", [1, 1])
        return self._weight(node).shape[2:] == (1, 1) and strides == [1, 1]

    def _weight(self, node: onnx.NodeProto) -> np.ndarray:
        from onnx import numpy_helper

        return numpy_helper.to_array(self._tensors[node.input[1]])

    def _fill(self, name: str, axis: int, missing: int) -> None:
        from onnx import numpy_helper

        values = numpy_helper.to_array(self._tensors[name])
        widths = [(0, missing if i == axis else 0) for i in range(values.ndim)]
        self._set(name, np.pad(values, widths))

    def _set(self, name: str, values: np.ndarray) -> None:
        from onnx import numpy_helper

        self._tensors[name].CopyFrom(numpy_helper.from_array(values, name))


def _is_halving(node: onnx.NodeProto) -> bool:
    """An average pool of 2x2 with stride 2 and without padding."""
    if node.op_type != "AveragePool":
        return False
    given = _attributes(node)
    sides = given.get("kernel_shape") == given.get("strides") == [_POOL] * 2
    return (
        sides and not any(given.get("pads", ())) and given.get("auto_pad", b"") in (b"", b"NOTSET")
    )


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    from onnx import helper

    return {a.name: helper.get_attribute_value(a) for a in node.attribute}


def _set_attributes(node: onnx.NodeProto, **values: Any) -> None:
    from onnx import helper

    others = [a for a in node.attribute if a.name not in values]
    replace_all(node.attribute, others)
    node.attribute.extend(helper.make_attribute(key, value) for key, value in values.items())


def _join_heads(graph: onnx.GraphProto, groups: Iterable[Sequence[onnx.NodeProto]]) -> None:
    """Rule 3. Heads that share weights over the strides share the joined ones."""
    first_of = {group[0].name: group for group in groups}
    members = {node.name for group in first_of.values() for node in group}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.name in first_of:
            nodes += _joined(graph, first_of[node.name], tensors)
        elif node.name not in members:
            nodes.append(node)
    replace_all(graph.node, nodes)


def _joined(
    graph: onnx.GraphProto,
    group: Sequence[onnx.NodeProto],
    tensors: Mapping[str, onnx.TensorProto],
) -> list[onnx.NodeProto]:
    import onnx
    from onnx import helper, numpy_helper

    def together(slot: int) -> np.ndarray:
        return np.concatenate([numpy_helper.to_array(tensors[n.input[slot]]) for n in group])

    weights = [numpy_helper.to_array(tensors[node.input[1]]) for node in group]
    stem = f"{'+'.join(node.input[1] for node in group)}."
    constants = {
        f"{stem}weight": together(1),
        f"{stem}bias": together(2),
        f"{stem}sizes": np.array([len(weight) for weight in weights], np.int64),
    }
    present = {tensor.name for tensor in graph.initializer}
    for name, values in constants.items():
        if name not in present:
            graph.initializer.append(numpy_helper.from_array(values, name))
    convolution = onnx.NodeProto()
    convolution.CopyFrom(group[0])
    weight, bias, sizes = constants
    convolution.input[1:] = [weight, bias]
    convolution.output[:] = [f"{group[0].output[0]}.joined"]
    outputs = [node.output[0] for node in group]
    split = helper.make_node(
        "Split", [convolution.output[0], sizes], outputs, f"{group[0].name}.split", axis=1
    )
    return [convolution, split]
