"""The layers of an ONNX graph, seen as further outputs and set through further inputs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scrfdconv.converters.formats.onnx.weights import convolutions_of_model, folded_graph
from scrfdconv.converters.graph.edits import drop_unread, prepared
from scrfdconv.converters.graph.inference import values_of_outputs
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.layers import Layer, Layers

if TYPE_CHECKING:
    import onnx

_FED = "given:"  # before the name of a value, the input that replaces it
_PLAIN = {"", "ai.onnx", "com.microsoft"}  # domains whose tensors are (N, C, H, W)


class OnnxLayers(Layers):
    """The layers of one ONNX file, in the order of the graph, outputs last."""

    def __init__(self, path: Path) -> None:
        """Read a file; raises ArtifactError where the file is no SCRFD."""
        self.path = path
        self.runner = self._opened = OnnxRunner(path)
        self._model = prepared(folded_graph(path))
        drop_unread(self._model.graph)
        self.all = (*self._convolutions(), *self._outputs())

    def _convolutions(self) -> Iterator[Layer]:
        nodes = {node.name: node for node in self._model.graph.node}
        for convolution in convolutions_of_model(self._model):
            node = nodes[convolution.name]
            if node.domain in _PLAIN and node.op_type in ("Conv", "FusedConv"):
                yield Layer(
                    name=node.name,
                    value=node.output[0],
                    convolution=convolution,
                    activated=node.op_type == "FusedConv",
                )

    def _outputs(self) -> Iterator[Layer]:
        names = self.runner.interface.outputs
        for canonical, own in zip(names, self._opened.output_names, strict=True):
            yield Layer(name=canonical, value=own)

    def values(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See the base class."""
        return self._named(values_of_outputs(self._tapped(), self._opened.fed(images)))

    def values_from(
        self, images: np.ndarray, given: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """See the base class."""
        cut = self._tapped()
        feeds = self._opened.fed(images)
        layers = {layer.name: layer for layer in self.all}
        for name, value in given.items():
            own = layers[name].value
            _read_from_outside(cut, own, value)
            feeds[_FED + own] = value
        return self._named(values_of_outputs(cut, feeds))

    def operators(self, name: str, given: Mapping[str, np.ndarray]) -> Counter[str]:
        """See the base class."""
        makers = {out: node for node in self._model.graph.node for out in node.output}
        stops = {layer.value for layer in self.all if layer.name in given}
        open_ends = [next(layer.value for layer in self.all if layer.name == name)]
        found: Counter[str] = Counter()
        seen: set[str] = set()
        while open_ends:
            value = open_ends.pop()
            node = makers.get(value)
            if node is not None and node.name not in seen:
                seen.add(node.name)
                found[node.op_type] += 1
                open_ends += [one for one in node.input if one not in stops]
        return found

    def _tapped(self) -> onnx.ModelProto:
        """A copy of the graph that has the value of every layer among its outputs."""
        import onnx

        model = onnx.ModelProto()
        model.CopyFrom(self._model)
        have = {value.name for value in model.graph.output}
        for layer in self.all:
            if layer.value not in have:
                model.graph.output.add().name = layer.value
        return model

    def _named(self, values: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Values by the names of layers; outputs as (N, rows, width)."""
        inner = [layer for layer in self.all if layer.convolution]
        own = [values[name] for name in self._opened.output_names]
        images = len(values[inner[0].value]) if inner else 1
        found = {layer.name: values[layer.value] for layer in inner}
        return found | self.runner.named(own, images)


def _read_from_outside(model: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    """Let all that reads the value ``name`` read an input of the graph."""
    from onnx import helper

    for node in model.graph.node:
        node.input[:] = [_FED + name if one == name else one for one in node.input]
    kind = helper.np_dtype_to_tensor_dtype(value.dtype)
    model.graph.input.append(helper.make_tensor_value_info(_FED + name, kind, [None] * value.ndim))
