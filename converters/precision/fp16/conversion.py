"""FP16 ONNX: weights and convolutions in half precision, what FP16 does not suit in float32.

This module decides which nodes stay float32, each with a reason that goes into the metadata;
`precision.fp16.half` converts the graph. TensorRT 11 has no other way to FP16: TensorRT uses the
types of the graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.graph.edits import prepared
from scrfdconv.converters.graph.inference import Images
from scrfdconv.converters.graph.interface.rows import rows_alone
from scrfdconv.converters.graph.kept_float import (
    KeptFloat,
    built_in_pictures,
    describe_reduced,
    require_convertible,
)
from scrfdconv.converters.graph.model_file import load_onnx
from scrfdconv.converters.graph.norms import norm_nodes
from scrfdconv.converters.graph.number_types import nodes_asked_for
from scrfdconv.converters.precision.fp16 import Fp16Options
from scrfdconv.converters.precision.fp16.half import blocked_operators, half_from_float
from scrfdconv.converters.precision.fp16.range import out_of_range
from scrfdconv.converters.runner import Interface

if TYPE_CHECKING:
    import onnx

# InstanceNormalization is the worst FP16 operator in the field: its sums of squares overflow.
NORMALISATIONS = (
    "InstanceNormalization",
    "GroupNormalization",
    "LayerNormalization",
    "BatchNormalization",
)
# Nodes that make GroupNorm of an InstanceNormalization: the shape back, scale, shift.
_AFFINE = ("Reshape", "Mul", "Add")
BLACK_AND_WHITE = (0, 255)  # the ends of the input range


@dataclass(frozen=True)
class Fp16Settings:
    """The options, and the photographs to measure ranges on besides the built-in pictures."""

    options: Fp16Options
    images: Images | None = None  # yields (N, 3, H, W) float32


def fp16_from_float(source: Artifact, settings: Fp16Settings) -> onnx.ModelProto:
    """Convert a float ONNX model; names, order, shapes, opset and metadata stay.

    Of a model that ends with faces, the rows are converted.
    """
    interface = require_convertible(source.path)
    model = prepared(rows_alone(load_onnx(source.path)))
    kept = list(kept_in_float32(model, interface, settings))
    nodes = {name for entry in kept for name in entry.nodes}
    io = settings.options.io
    result = half_from_float(model, nodes, half_io=io == "float16")
    describe_reduced(result, kept, {"precision": "fp16", "io": io}, source)
    return result


# ---------------------------------------------------------------- what stays float32


def kept_in_float32(
    model: onnx.ModelProto, interface: Interface, settings: Fp16Settings
) -> Iterator[KeptFloat]:
    """Yield what stays float32 in a prepared model, and why; every node once."""
    options = settings.options
    seen: set[str] = set()

    def new(reason: str, nodes: Iterable[str]) -> Iterator[KeptFloat]:
        fresh = tuple(name for name in nodes if name not in seen)
        seen.update(fresh)
        if fresh:
            yield KeptFloat(reason, fresh)

    blocked = blocked_operators()
    yield from new("has no FP16 form", (n.name for n in model.graph.node if n.op_type in blocked))
    yield from new("asked for (--keep-float)", nodes_asked_for(model, options.keep_float))
    if not options.all_fp16:
        yield from new("normalisation", _normalisations(model))
        # These 2 % of the multiply-adds cause more than half of the error of an FP16 500M_KPS.
        yield from new("first depthwise convolution", _first_depthwise(model))
    for entry in out_of_range(model, frozenset(seen), _probes(interface, settings.images)):
        yield from new(entry.reason, entry.nodes)


def _normalisations(model: onnx.ModelProto) -> Iterator[str]:
    """Every normalisation, with the scale and shift that make GroupNorm of it."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    written_out = norm_nodes(model)
    for node in model.graph.node:
        if node.name in written_out:
            yield node.name
        elif node.op_type in NORMALISATIONS:
            yield node.name
            yield from _affine_after(node, readers)


def _affine_after(node: onnx.NodeProto, readers: dict[str, list[onnx.NodeProto]]) -> Iterator[str]:
    for operator in _AFFINE:
        following = readers.get(node.output[0], [])
        if len(following) != 1 or following[0].op_type != operator:
            return
        node = following[0]
        yield node.name


def _first_depthwise(model: onnx.ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        groups = next((a.i for a in node.attribute if a.name == "group"), 1)
        if node.op_type == "Conv" and groups > 1:
            yield node.name
            return


# ---------------------------------------------------------------- pictures to measure on


def _probes(interface: Interface, images: Images | None) -> Images:
    """The built-in pictures, then ``images``; all of a shape that the model takes."""

    def probes() -> Iterator[np.ndarray]:
        for picture in _built_in(interface):
            yield np.repeat(picture[None], interface.batch or 1, axis=0)
        for batch in images() if images else ():
            yield from _fitting(batch, interface)

    return probes


def _built_in(interface: Interface) -> Iterator[np.ndarray]:
    """Structure at every scale, noise, black and white: (3, H, W) each."""
    pictures = built_in_pictures(interface)
    yield from pictures
    for byte in BLACK_AND_WHITE:
        picture = np.empty(pictures.shape[1:], np.float32)
        interface.normalization.fill(picture, byte)
        yield picture


def _fitting(batch: np.ndarray, interface: Interface) -> Iterator[np.ndarray]:
    """``batch`` in the model's own batch size; pictures of another shape are an error."""
    for picture in batch:
        if not interface.accepts(interface.batch or 1, *picture.shape[1:]):
            raise UsageError(
                f"Pictures of {picture.shape[1]}x{picture.shape[2]} do not fit a model of "
                f"{interface.height or 'any'}x{interface.width or 'any'}."
            )
        yield np.repeat(picture[None], interface.batch or 1, axis=0)
