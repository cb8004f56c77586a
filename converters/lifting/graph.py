"""An ONNX graph as a lift sees it: the nodes for the outputs, without those that change no value.

No name counts here: released files number their tensors, and every simplifier renames them. Shape
arithmetic is left out, too: only values computed from the picture matter.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.graph.model_file import image_input
from scrfdconv.converters.network.architecture import CHANNELS

if TYPE_CHECKING:
    import onnx

# Nodes whose other inputs are sizes, not values of pictures.
_ONE_VALUE = ("Reshape", "Resize", "Upsample", "Dropout")
# Moves and copies of constants, which exporters leave to be done at run time.
_FOLDED = ("Identity", "Cast", "Unsqueeze", "Squeeze", "Reshape", "Transpose")
_POOLS = ("AveragePool", "MaxPool")


@dataclass(frozen=True, eq=False)
class Node:
    """One node; ``inputs`` are the values of pictures that it reads, then its constants."""

    operator: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    @property
    def output(self) -> str:
        """The value that the node makes."""
        return self.outputs[0]

    def ints(self, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
        """An attribute that is a list of numbers."""
        return tuple(int(value) for value in self.attributes.get(name, default))

    def __str__(self) -> str:
        """The node as errors name it: a node's name may be empty, its output always has a name."""
        return (
            f"{self.operator} {self.name!r}" if self.name else f"{self.operator} of {self.output!r}"
        )


class Graph:
    """The nodes between the picture and the outputs, with maker and readers of each value."""

    def __init__(self, model: onnx.ModelProto, where: str) -> None:
        """``where`` names the file in errors; raises ArtifactError for control flow."""
        from onnx import numpy_helper

        self.where = where
        self._opsets = list(model.opset_import)
        self.constants = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
        self.picture = image_input(model).name
        self._same: dict[str, str] = {}  # a value, and the earlier one that it equals
        self._makers: dict[str, Node] = {}
        for proto in model.graph.node:
            self._add(proto)
        self.outputs = tuple(self._same.get(v.name, v.name) for v in model.graph.output)
        self.declared = tuple(_dims(value) for value in model.graph.output)
        self.live = tuple(self._leading_to(self.outputs))
        self._readers: dict[str, list[Node]] = {}
        for reader in self.live:
            for value in dict.fromkeys(self.values(reader)):
                self._readers.setdefault(value, []).append(reader)

    def readers(self, value: str) -> list[Node]:
        """The nodes that read a value."""
        return self._readers.get(value, [])

    def maker(self, value: str) -> Node | None:
        """The node that makes a value; None for the picture."""
        return self._makers.get(value)

    def only_reader(self, value: str, operator: str) -> Node:
        """The one node that reads ``value``; raises ArtifactError unless it is ``operator``."""
        readers = self.readers(value)
        if len(readers) != 1 or readers[0].operator != operator:
            shown = ", ".join(map(str, readers)) or "nothing"
            self.refuse(self.maker(value), f"should be read by one {operator}, not {shown}")
        return readers[0]

    def values(self, node: Node) -> tuple[str, ...]:
        """The inputs of ``node`` that are values of pictures."""
        inputs = node.inputs[:1] if node.operator in _ONE_VALUE else node.inputs
        return tuple(name for name in inputs if name and name not in self.constants)

    def other(self, node: Node, value: str) -> str:
        """The other operand of an Add of two values."""
        others = [name for name in self.values(node) if name != value]
        if len(others) != 1:
            self.refuse(node, "should add two different values")
        return others[0]

    def constant(self, node: Node, index: int) -> np.ndarray | None:
        """Input ``index`` of ``node``, where that is a constant."""
        return self.constants.get(node.inputs[index]) if index < len(node.inputs) else None

    def channels(self, value: str) -> int:
        """Channels of a value: those of the convolution before it."""
        while (node := self.maker(value)) is not None:
            if node.operator == "Conv" and (weight := self.constant(node, 1)) is not None:
                return len(weight)
            value = node.inputs[0]
        return CHANNELS

    def refuse(self, node: Node | None, why: str) -> NoReturn:
        """Raise ArtifactError that names ``node``, or the picture where it is None."""
        subject = str(node) if node else f"the picture {self.picture!r}"
        raise ArtifactError(f"{self.where}: cannot be lifted: {subject} {why}.")

    # ------------------------------------------------------------ reading

    def _add(self, proto: onnx.NodeProto) -> None:
        from onnx import helper, numpy_helper

        attributes = {a.name: helper.get_attribute_value(a) for a in proto.attribute}
        inputs = tuple(self._same.get(name, name) for name in proto.input)
        node = Node(
            operator=proto.op_type,
            name=proto.name,
            inputs=inputs,
            outputs=tuple(proto.output),
            attributes=attributes,
        )
        if any(a.HasField("g") or a.graphs for a in proto.attribute):
            self.refuse(node, "is control flow, which no SCRFD has; simplify the model first")
        if node.operator == "Constant" and "value" in attributes:
            self.constants[node.output] = numpy_helper.to_array(attributes["value"])
        elif node.operator in _FOLDED and all(name in self.constants for name in inputs if name):
            self.constants[node.output] = self._folded(proto, inputs)
        elif _changes_nothing(node):
            self._same[node.output] = inputs[0]
        else:
            self._makers.update((name, node) for name in node.outputs)

    def _folded(self, proto: onnx.NodeProto, inputs: tuple[str, ...]) -> np.ndarray:
        from onnx import helper
        from onnx.reference import ReferenceEvaluator

        pairs = zip(proto.input, inputs, strict=True)
        feeds = {own: self.constants[name] for own, name in pairs if name}
        values = [helper.make_tensor_value_info(n, 0, None) for n in (*feeds, proto.output[0])]
        graph = helper.make_graph([proto], "constant", values[:-1], values[-1:])
        try:
            evaluator = ReferenceEvaluator(helper.make_model(graph, opset_imports=self._opsets))
            (result,) = evaluator.run(None, feeds)
            return np.asarray(result)
        except Exception as error:  # numpy raises various errors for shapes that do not fit
            raise ArtifactError(
                f"{self.where}: cannot be lifted: {proto.op_type} -> {proto.output[0]!r} cannot be "
                f"computed ({error})."
            ) from error

    def _leading_to(self, outputs: tuple[str, ...]) -> Iterator[Node]:
        """The nodes that any of ``outputs`` depends on, in the order of the file."""
        needed, waiting = set(), list(outputs)
        while waiting:
            node = self._makers.get(waiting.pop())
            if node is not None and node not in needed:
                needed.add(node)
                waiting += self.values(node)
        ordered = dict.fromkeys(self._makers.values())
        return (node for node in ordered if node in needed)


def _changes_nothing(node: Node) -> bool:
    """True for copies, changes of the float type and pools of one pixel (34G's first shortcut)."""
    if node.operator == "Cast":
        return int(node.attributes["to"]) in _floats()
    if node.operator in _POOLS:
        sizes = (*node.ints("kernel_shape", ()), *node.ints("strides", (1, 1)))
        return set(sizes) == {1} and not any(node.ints("pads", ()))
    return node.operator in ("Identity", "Dropout")


def _floats() -> tuple[int, ...]:
    from onnx import TensorProto

    return (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


def _dims(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(int(dim.dim_value) for dim in value.type.tensor_type.shape.dim)
