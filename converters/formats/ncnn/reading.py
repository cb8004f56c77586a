"""ncnn's files, read without the library: layers from .param, weights from .bin.

Sources: ncnn's wiki, "param and model file structure" and "operators". Every size is checked
here, because the library reads past the end of a file that is too short.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from scrfdconv.converters.artifact import digest_of, readable
from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.graph.convolution import Convolution
from scrfdconv.converters.network.architecture import CHANNELS
from scrfdconv.converters.signature import Signature, Tensor

MAGIC = "7767517"
_FLOAT = "float32"  # of every input and output
_HALF = 0x01306B47  # mark before float16 weights
_BYTES = 0x000D4B38  # mark before int8 weights
_FLAG_BYTES = 4
_NUMBER = re.compile(r"-?\d{1,10}")
_SHOWN = 40  # characters of a damaged value
_LARGEST_NUMBER = 2**31 - 1  # of a parameter; ncnn reads 32 bits
_ALIGNMENT = 4  # of float16 weights in the file
_LONGEST_PARAM = 4 << 20  # bytes; that of 34G has 30 thousand
_DIGEST = re.compile(r"scrfdconv-bin-sha256-([0-9a-f]{64})")
# Numbers of the parameters, as the format assigns them.
_OUT, _KERNEL, _BIAS, _WEIGHTS, _GROUP, _KERNEL_H = 0, 1, 5, 6, 7, 11
_CHANNELS, _AFFINE = 1, 3  # of GroupNorm
_CONSTANT, _COLUMNS, _ROWS = 5, 8, 9  # of Gemm's second factor
CONVOLUTIONS = ("Convolution", "ConvolutionDepthWise")
_MARKED = (*CONVOLUTIONS, "Gemm")  # before their weights stands a mark of the number type
# Layers without weights are not listed here. Weights of an unknown layer would stay unread, and
# `require_end` finds unread weights.
_MEMORY_SIDES = (0, 1, 2, 11)  # w, h, c, d of MemoryData


@dataclass(frozen=True)
class Layer:
    """One line of a .param."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    parameters: Mapping[int, str]

    def number(self, key: int, default: int = 0) -> int:
        """A parameter as a whole number; ArtifactError for anything else."""
        text = str(self.parameters.get(key, default))
        if not _NUMBER.fullmatch(text) or abs(int(text)) > _LARGEST_NUMBER:
            raise ArtifactError(
                f"Layer {self.name} is damaged: its parameter {key} is {text[:_SHOWN]!r}."
            )
        return int(text)


@dataclass(frozen=True)
class NcnnNetwork:
    """A .param with its .bin."""

    path: Path
    layers: tuple[Layer, ...]
    weights: Mapping[str, tuple[np.ndarray, ...]] = field(default_factory=dict)  # by layer name
    types: frozenset[str] = frozenset()  # of the stored weights: fp32, fp16, int8

    @property
    def precision(self) -> str:
        """The coarsest numbers among the weights."""
        return next((kind for kind in ("int8", "fp16") if kind in self.types), "fp32")

    @property
    def inputs(self) -> tuple[Layer, ...]:
        """The layers through which pictures come in."""
        return tuple(layer for layer in self.layers if layer.kind == "Input")

    @property
    def output_names(self) -> tuple[str, ...]:
        """Blobs that no layer reads."""
        read = {name for layer in self.layers for name in layer.inputs}
        made = (name for layer in self.layers for name in layer.outputs)
        return tuple(name for name in made if name not in read)


def read_network(path: Path) -> NcnnNetwork:
    """Layers and weights at ``path``; ArtifactError where text and weights do not fit together."""
    weights = path.with_suffix(".bin")
    if readable(path).stat().st_size > _LONGEST_PARAM:
        raise ArtifactError(f"{path}: is too long for a description of layers.")
    if not weights.is_file():
        raise ArtifactError(f"{path}: its weights are missing; put {weights.name} beside it.")
    layers = tuple(parsed_layers(path.read_text("utf-8", "replace"), path))
    said = next(filter(None, (_DIGEST.fullmatch(layer.name) for layer in layers)), None)
    if said and said[1] != digest_of(weights):
        raise ArtifactError(
            f"{path}: {weights.name} belongs to another build; take both files of one build."
        )
    reader = _Weights(weights)
    found = {layer.name: tuple(reader.of(layer)) for layer in layers}
    reader.require_end()
    return NcnnNetwork(path, layers, found, frozenset(reader.types))


def weights_name(digest: str) -> str:
    """A layer name that says which .bin belongs to the .param; the format has no other place."""
    return f"scrfdconv-bin-sha256-{digest}"


# ---------------------------------------------------------------- text


def parsed_layers(text: str, path: Path) -> Iterator[Layer]:
    """The layers of a .param; an ArtifactError names the first line that is not a layer."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) < 3 or lines[0].strip() != MAGIC:  # noqa: PLR2004 - magic, counts, a layer
        raise ArtifactError(f"{path}: is no ncnn network: its first line is not {MAGIC}.")
    layers = [_layer(line, number, path) for number, line in enumerate(lines[2:], 3)]
    counts = [str(len(layers)), str(sum(len(layer.outputs) for layer in layers))]
    if lines[1].split() != counts:
        raise ArtifactError(
            f"{path}: is damaged: line 2 announces {lines[1].strip()!r} layers and blobs, the file "
            f"has {' '.join(counts)}."
        )
    known: set[str] = set()
    for layer in layers:
        if not known.issuperset(layer.inputs) or known.intersection(layer.outputs):
            raise ArtifactError(f"{path}: is damaged: layer {layer.name} is not connected.")
        known.update(layer.outputs)
    yield from layers


def _layer(line: str, number: int, path: Path) -> Layer:
    words = line.split()
    try:
        kind, name = words[:2]
        inputs, outputs = int(words[2]), int(words[3])
        blobs, pairs = words[4 : 4 + inputs + outputs], words[4 + inputs + outputs :]
        parameters = {int(k): v for k, v in (pair.split("=", 1) for pair in pairs)}
        if min(inputs, outputs) < 0 or len(blobs) != inputs + outputs:
            raise ValueError
    except (ValueError, IndexError):
        raise ArtifactError(f"{path}: is damaged: line {number} describes no layer.") from None
    return Layer(
        kind=kind,
        name=name,
        inputs=tuple(blobs[:inputs]),
        outputs=tuple(blobs[inputs:]),
        parameters=parameters,
    )


def param_text(layers: list[Layer]) -> str:
    """The content of a .param."""
    blobs = sum(len(layer.outputs) for layer in layers)
    lines = [MAGIC, f"{len(layers)} {blobs}", *map(_line, layers)]
    return "\n".join(lines) + "\n"


def _line(layer: Layer) -> str:
    counts = (str(len(layer.inputs)), str(len(layer.outputs)))
    pairs = (f"{key}={value}" for key, value in layer.parameters.items())
    words = (*counts, *layer.inputs, *layer.outputs, *pairs)
    return f"{layer.kind:<24} {layer.name:<24} {' '.join(words)}"


# ---------------------------------------------------------------- weights


class _Weights:
    """Reads a .bin from its beginning to its end, in the order of the layers."""

    def __init__(self, path: Path) -> None:
        self._path, self._content, self._at = path, readable(path).read_bytes(), 0
        self.types: set[str] = set()

    def of(self, layer: Layer) -> Iterator[np.ndarray]:
        """The arrays of one layer."""
        try:
            if layer.kind in CONVOLUTIONS:
                yield self._flagged(layer.number(_WEIGHTS))
                if layer.number(_BIAS):
                    yield self._floats(layer.number(_OUT))
            elif layer.kind == "GroupNorm" and layer.number(_AFFINE, 1):
                yield self._floats(layer.number(_CHANNELS))
                yield self._floats(layer.number(_CHANNELS))
            elif layer.kind == "Gemm" and layer.number(_CONSTANT):
                yield self._flagged(layer.number(_COLUMNS) * layer.number(_ROWS))
            elif layer.kind == "MemoryData":
                yield self._floats(math.prod(max(layer.number(k), 1) for k in _MEMORY_SIDES))
        except ValueError:
            raise ArtifactError(
                f"{self._path}: is too short for {layer.name}; it is damaged or of another build."
            ) from None

    def require_end(self) -> None:
        """Raise ArtifactError if something is left over."""
        rest = len(self._content) - self._at
        if rest:
            raise ArtifactError(
                f"{self._path}: has {rest} bytes that no layer of the .param reads; it is damaged "
                "or of another build."
            )

    def _flagged(self, count: int) -> np.ndarray:
        flag = int(self._take(np.dtype("<u4"), 1)[0])
        if flag not in (0, _HALF):
            raise ArtifactError(
                f"{self._path}: has {'8-bit' if flag == _BYTES else 'coded'} weights, which are "
                "not read here; convert anew from the checkpoint."
            )
        self.types.add("fp16" if flag else "fp32")
        values = self._take(np.dtype("<f2" if flag else "<f4"), count)
        self._at += -self._at % _ALIGNMENT
        return values

    def _floats(self, count: int) -> np.ndarray:
        return self._take(np.dtype("<f4"), count)

    def _take(self, kind: np.dtype[Any], count: int) -> np.ndarray:
        if not 0 <= count * kind.itemsize <= len(self._content) - self._at:
            raise ValueError(count)
        values = np.frombuffer(self._content, kind, count, self._at)
        self._at += count * kind.itemsize
        return values


def half_weights(network: NcnnNetwork) -> bytes:
    """The .bin of ``network`` with weights that have a mark in float16, all else in float32.

    Raises ArtifactError for weights beyond float16.
    """
    return b"".join(
        part
        for layer in network.layers
        for at, values in enumerate(network.weights[layer.name])
        for part in _stored(layer, values, half=at == 0 and layer.kind in _MARKED)
    )


def _stored(layer: Layer, values: np.ndarray, *, half: bool) -> Iterator[bytes]:
    if not half:
        yield values.astype("<f4").tobytes()
        return
    if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
        raise ArtifactError(f"{layer.name} has weights beyond float16; take --precision fp32.")
    content = values.astype("<f2").tobytes()
    yield _HALF.to_bytes(_FLAG_BYTES, "little")
    yield content + bytes(-len(content) % _ALIGNMENT)


def convolutions_of(network: NcnnNetwork) -> Iterator[Convolution]:
    """Every convolution, grouped ones as (out, in / groups, k, k)."""
    for layer in network.layers:
        if layer.kind in CONVOLUTIONS:
            weight, *bias = (values.astype(np.float32) for values in network.weights[layer.name])
            out, kernel = layer.number(_OUT), layer.number(_KERNEL)
            sides = (layer.number(_KERNEL_H, kernel), kernel)
            if out < 1 or min(sides) < 1 or weight.size % (out * math.prod(sides)):
                raise ArtifactError(
                    f"{network.path}: is damaged: {layer.name} has {weight.size} weights for {out} "
                    f"filters of {sides[0]}x{sides[1]}."
                )
            shaped = weight.reshape(out, -1, *sides)
            yield Convolution(layer.name, shaped, bias[0] if bias else np.zeros(out, np.float32))


def signature_of(network: NcnnNetwork) -> Signature:
    """Inputs and outputs of one picture; a .param says nothing of the outputs' shapes."""
    sides = [(layer.number(1) or None, layer.number(0) or None) for layer in network.inputs]
    images = zip(network.inputs, sides, strict=True)
    return Signature(
        inputs=tuple(
            Tensor(name=layer.outputs[0], kind=_FLOAT, dims=(CHANNELS, *size))
            for layer, size in images
        ),
        outputs=tuple(Tensor(name=name, kind=_FLOAT, dims=()) for name in network.output_names),
    )


def facts_of_network(network: NcnnNetwork) -> dict[str, Any]:
    """What ``inspect`` says of the network."""
    return {
        "layers": len(network.layers),
        "operators": dict(Counter(layer.kind for layer in network.layers).most_common()),
        "precision": network.precision,
    }
