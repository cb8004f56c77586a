"""The layers of an OpenVINO graph, seen as further results and set through further parameters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from scrfdconv.converters.formats.openvino.api import openvino
from scrfdconv.converters.formats.openvino.reading import (
    CONVOLUTIONS,
    bias_add,
    convolution_of,
)
from scrfdconv.converters.formats.openvino.runner import OpenVinoRunner
from scrfdconv.converters.layers import Layer, Layers

# Operators that ONNX calls by another name; the others have the same one.
_IN_ONNX = {
    **dict.fromkeys(CONVOLUTIONS, "Conv"),
    "AvgPool": "AveragePool",
    "Convert": "Cast",
    "FakeQuantize": "QuantizeLinear",
    "Interpolate": "Resize",
    "Multiply": "Mul",
    "MVN": "InstanceNormalization",
    "ShapeOf": "Shape",
    "StridedSlice": "Slice",
    "Subtract": "Sub",
}


class OpenVinoLayers(Layers):
    """The layers of one .xml with its .bin, in float32 arithmetic."""

    def __init__(self, path: Path) -> None:
        """Read a file; raises ArtifactError where the file is no SCRFD."""
        self.path = path
        self.runner = self._opened = OpenVinoRunner(path, by_default=False)
        self._model = self._opened.model
        self.all = (*self._convolutions(), *self._outputs())
        self._by_name = {layer.name: layer for layer in self.all}

    def _convolutions(self) -> Iterator[Layer]:
        for node in self._model.get_ordered_ops():
            convolution = convolution_of(node)
            if convolution is not None:
                add = bias_add(node, len(convolution.weight))
                last = add[0] if add else node
                yield Layer(
                    name=convolution.name,
                    value=last.get_friendly_name(),
                    convolution=convolution,
                )

    def _outputs(self) -> Iterator[Layer]:
        results = self._model.get_results()[len(self._opened.face_names) :]
        for name, result in zip(self.runner.interface.outputs, results, strict=True):
            yield Layer(name=name, value=result.input_value(0).get_node().get_friendly_name())

    def values(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See the base class."""
        return self.values_from(images, {})

    def values_from(
        self, images: np.ndarray, given: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """See the base class."""
        model = self._model.clone()
        inner = [layer for layer in self.all if layer.convolution]
        ports = _ports(model)
        taken = [ports[layer.value] for layer in inner]
        parameters = [
            _read_from_outside(ports[self._by_name[name].value], value)
            for name, value in given.items()
        ]
        model.add_parameters(parameters)
        model.add_outputs(taken)
        feeds = [self._opened.fed(images), *given.values()]
        outputs = self._opened.values_of(model, feeds)
        end = len(outputs) - len(inner)
        found = {layer.name: value for layer, value in zip(inner, outputs[end:], strict=True)}
        return found | self.runner.named(outputs[len(self._opened.face_names) : end], len(images))

    def operators(self, name: str, given: Mapping[str, np.ndarray]) -> Counter[str]:
        """See the base class."""
        stops = {self._by_name[other].value for other in given}
        nodes = {node.get_friendly_name(): node for node in self._model.get_ops()}
        open_ends = [nodes[self._by_name[name].value]]
        found: Counter[str] = Counter()
        seen: set[str] = set()
        while open_ends:
            node = open_ends.pop()
            own = node.get_friendly_name()
            if own in seen or _is_constant(node):
                continue
            seen.add(own)
            found[_IN_ONNX.get(node.get_type_name(), node.get_type_name())] += 1
            before = (port.get_source_output().get_node() for port in node.inputs())
            open_ends += [one for one in before if one.get_friendly_name() not in stops]
        return found


def _ports(model: Any) -> dict[str, Any]:
    """The first output of every node, by the node's name."""
    nodes = (node for node in model.get_ops() if node.get_output_size())
    return {node.get_friendly_name(): node.output(0) for node in nodes}


def _read_from_outside(port: Any, value: np.ndarray) -> Any:
    """Let all that reads ``port`` read a new parameter of the graph."""
    kind = openvino().Type(value.dtype)
    parameter = openvino().op.Parameter(kind, openvino().PartialShape(list(value.shape)))
    for target in port.get_target_inputs():
        target.replace_source_output(parameter.output(0))
    return parameter


def _is_constant(node: Any) -> bool:
    """True for numbers of the file, halved ones included."""
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return bool(node.get_type_name() == "Constant")
