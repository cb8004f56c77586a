"""Where a network ends: its last convolutions, and what lies between them and the outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from scrfdconv.converters.graph.edits import float_tensors
from scrfdconv.converters.network.architecture import OUTPUT_KINDS

if TYPE_CHECKING:
    import onnx

_GEOMETRY = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_WITH_BIAS = 3  # inputs of a convolution


class Heads:
    """The heads of a quantizable model; ``outputs`` are its canonical names, in order."""

    def __init__(self, model: onnx.ModelProto, outputs: Sequence[str]) -> None:
        self._nodes = list(model.graph.node)
        self._makers = {name: node for node in self._nodes for name in node.output}
        self._floats = float_tensors(model)
        self.behind: set[str] = set()  # names of the nodes between convolutions and outputs
        self.convolutions: set[str] = set()
        self.scores: set[str] = set()
        self.distributions: set[str] = set()  # convolutions before a softmax (DFL)
        for canonical, value in zip(outputs, model.graph.output, strict=True):
            passed = list(self._before(value.name))
            last = {node.name for node in passed if node.op_type == "Conv"}
            self.convolutions |= last
            self.behind |= {node.name for node in passed} - last
            if canonical.startswith(OUTPUT_KINDS[0]):
                self.scores |= last
            if any(node.op_type == "Softmax" for node in passed):
                self.distributions |= last

    def siblings(self) -> list[list[onnx.NodeProto]]:
        """Last convolutions that read the same tensor in the same way as a score convolution."""
        groups: dict[tuple[str, ...], list[onnx.NodeProto]] = {}
        for node in self._nodes:
            if node.name in self.convolutions and len(node.input) == _WITH_BIAS:
                groups.setdefault(_reading(node), []).append(node)
        return [
            group
            for group in groups.values()
            if len(group) > 1 and any(node.name in self.scores for node in group)
        ]

    def _before(self, name: str) -> Iterator[onnx.NodeProto]:
        """The nodes before a value, back to the last convolutions."""
        node = self._makers.get(name)
        if node is None:
            return
        yield node
        for source in node.input if node.op_type != "Conv" else ():
            if source in self._floats:
                yield from self._before(source)


def _reading(node: onnx.NodeProto) -> tuple[str, ...]:
    """What a convolution reads and how: equal for convolutions that can be merged."""
    geometry = {a.name: a.SerializeToString() for a in node.attribute if a.name in _GEOMETRY}
    return (node.input[0], *(geometry.get(name, b"").hex() for name in _GEOMETRY))
