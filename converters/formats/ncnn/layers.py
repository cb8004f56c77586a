"""The layers of an ncnn network, whose extractor gives and takes the value of every blob."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scrfdconv.converters.formats.ncnn import reading
from scrfdconv.converters.formats.ncnn.reading import convolutions_of, read_network
from scrfdconv.converters.formats.ncnn.runner import NcnnRunner
from scrfdconv.converters.layers import Layer, Layers

_ACTIVATION = 9  # the parameter of a convolution
_NONE, _RELU = 0, 1  # its values that are known here
# Layers that ONNX calls by another name; the others have the same one.
_IN_ONNX = {
    **dict.fromkeys(reading.CONVOLUTIONS, "Conv"),
    "GroupNorm": "GroupNormalization",
    "Interp": "Resize",
    "Permute": "Transpose",
    "Pooling": "MaxPool",
    "ReLU": "Relu",
    "Split": "Identity",
}


@dataclass(frozen=True)
class _Before:
    """What stands between a blob and given ones."""

    operators: Counter[str]
    blobs: frozenset[str]  # the given ones that are read


class NcnnLayers(Layers):
    """The layers of one .param with its .bin, in float32 arithmetic."""

    def __init__(self, path: Path) -> None:
        """Read a file; raises ArtifactError where the file is no SCRFD."""
        self.path = path
        self.runner = self._opened = NcnnRunner(path, keep_blobs=True)
        self._network = read_network(path)
        self._makers = {blob: one for one in self._network.layers for blob in one.outputs}
        self.all = (*self._convolutions(), *self._outputs())
        self._by_name = {layer.name: layer for layer in self.all}

    def _convolutions(self) -> Iterator[Layer]:
        lines = {line.name: line for line in self._network.layers}
        for convolution in convolutions_of(self._network):
            line = lines[convolution.name]
            activation = line.number(_ACTIVATION)
            if activation in (_NONE, _RELU):
                yield Layer(
                    name=line.name,
                    value=line.outputs[0],
                    convolution=convolution.stored_in(self._network.precision),
                    activated=activation == _RELU,
                )

    def _outputs(self) -> Iterator[Layer]:
        for canonical, own in zip(
            self.runner.interface.outputs, self._opened.output_names, strict=True
        ):
            yield Layer(name=canonical, value=own)

    def values(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """See the base class."""
        blobs = [layer.value for layer in self.all]
        return self._named([self._opened.blobs(image, blobs) for image in images])

    def values_from(
        self, images: np.ndarray, given: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """See the base class."""
        inputs = {self._by_name[name].value: value for name, value in given.items()}
        found = []
        for at, image in enumerate(images):
            row = []
            for layer in self.all:
                # The layer itself is never set: the extractor would give what was set.
                read = self._before(layer.value, inputs).blobs
                fed = {blob: inputs[blob][at] for blob in read}
                row += self._opened.blobs(image, [layer.value], fed)
            found.append(row)
        return self._named(found)

    def operators(self, name: str, given: Mapping[str, np.ndarray]) -> Counter[str]:
        """See the base class."""
        stops = {self._by_name[other].value: value for other, value in given.items()}
        return self._before(self._by_name[name].value, stops).operators

    def _before(self, blob: str, stops: Mapping[str, np.ndarray]) -> _Before:
        open_ends, seen, read = [self._makers[blob]], set[str](), set[str]()
        found: Counter[str] = Counter()
        while open_ends:
            line = open_ends.pop()
            if line.name in seen:
                continue
            seen.add(line.name)
            found[_IN_ONNX.get(line.kind, line.kind)] += 1
            read |= stops.keys() & set(line.inputs)
            open_ends += [self._makers[one] for one in line.inputs if one not in stops]
        return _Before(found, frozenset(read))

    def _named(self, rows: list[list[np.ndarray]]) -> dict[str, np.ndarray]:
        """The values of all layers for each image, by the names of layers."""
        values = [np.stack(column) for column in zip(*rows, strict=True)]
        inner = [layer for layer in self.all if layer.convolution]
        found = dict(zip((layer.name for layer in inner), values, strict=False))
        return found | self.runner.named(values[len(inner) :], len(rows))
