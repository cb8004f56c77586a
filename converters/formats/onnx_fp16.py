"""FP16 ONNX: weights and convolutions in half precision, what FP16 does not suit in float32.

Which nodes those are is decided here, each with a reason that ends up in the metadata; how the
graph is converted is `precision.fp16.half`'s matter. TensorRT 11 knows no other way to FP16: it
takes the types of the graph as they are.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.errors import ArtifactError, UsageError
from scrfdconv.converters.formats import Format, Source
from scrfdconv.converters.graph.edits import prepared
from scrfdconv.converters.graph.inference import Images
from scrfdconv.converters.graph.model_file import load_onnx, serialised
from scrfdconv.converters.graph.number_types import nodes_asked_for
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.metadata import PREFIX
from scrfdconv.converters.network.architecture import BOX_SIDES
from scrfdconv.converters.network.seeded import seeded_pictures
from scrfdconv.converters.precision.fp16.half import blocked_operators, half_from_float
from scrfdconv.converters.precision.fp16.range import Kept, out_of_range
from scrfdconv.converters.runner import Interface, Runner
from scrfdconv.converters.structured import json_as

if TYPE_CHECKING:
    import onnx

Io = Literal["float32", "float16"]

# InstanceNormalization is the worst FP16 operator in the field: its sums of squares overflow.
NORMALISATIONS = (
    "InstanceNormalization",
    "GroupNormalization",
    "LayerNormalization",
    "BatchNormalization",
)
# What follows an InstanceNormalization to make GroupNorm of it: the shape back, scale, shift.
_AFFINE = ("Reshape", "Mul", "Add")
# Black and white, the ends of the input range: (0 - 127.5) / 128 and its opposite.
EXTREME = 127.5 / 128
_PROBE_SEED = 0
_WIDTHS = {"bbox": BOX_SIDES}  # last dimension; scores have as many as classes
KEPT = "kept_float"  # metadata: {reason: [node, ...]} as JSON


@dataclass(frozen=True)
class Fp16Options:
    """Everything in FP16 but the image, the outputs and what FP16 does not suit."""

    io: Io = "float32"  # float16: the image and the outputs, too
    all_fp16: bool = False  # normalisations and the stem's depthwise convolution, too
    keep_float: tuple[str, ...] = ()  # nodes or operators that stay float32
    # Besides the built-in pictures, to measure ranges on: yields (N, 3, H, W) float32.
    images: Images | None = field(default=None, compare=False)


class OnnxFp16(Format):
    """FP16 ONNX with float32 where it matters."""

    name = "onnx_fp16"
    suffix = ".onnx"
    sources = ("onnx",)
    options = Fp16Options

    def precision(self, options: Fp16Options) -> str:
        """FP16, whatever stays float32 inside."""
        return "fp16"

    def build(self, source: Source, options: Fp16Options) -> bytes:
        """Convert a float ONNX model; names, order, shapes, opset and metadata are its own."""
        assert isinstance(source, Artifact)
        interface = require_convertible(source.path)
        model = prepared(load_onnx(source.path))
        kept = list(kept_nodes(model, interface, options))
        nodes = {name for entry in kept for name in entry.nodes}
        result = half_from_float(model, nodes, half_io=options.io == "float16")
        _describe(result, kept, options, source.digest)
        return serialised(result)

    def open(self, path: Path, threads: int | None = None) -> Runner:
        """Open with ONNX Runtime on the CPU, which computes FP16 in float32."""
        return OnnxRunner(path, threads)


def kept_float(metadata: dict[str, str]) -> dict[str, list[str]]:
    """What stayed float32, by reason, from the metadata of an FP16 artifact of ours."""
    where = f"The model's metadata {PREFIX}{KEPT}"
    return json_as(metadata.get(KEPT, "{}"), dict[str, list[str]], where, error=ArtifactError)


# ---------------------------------------------------------------- what stays float32


def kept_nodes(
    model: onnx.ModelProto, interface: Interface, options: Fp16Options
) -> Iterator[Kept]:
    """Yield what stays float32 in a prepared model, and why; every node once."""
    seen: set[str] = set()

    def new(reason: str, nodes: Iterable[str]) -> Iterator[Kept]:
        fresh = tuple(name for name in nodes if name not in seen)
        seen.update(fresh)
        if fresh:
            yield Kept(reason, fresh)

    blocked = blocked_operators()
    yield from new("has no FP16 form", (n.name for n in model.graph.node if n.op_type in blocked))
    yield from new("asked for (--keep-float)", nodes_asked_for(model, options.keep_float))
    if not options.all_fp16:
        yield from new("normalisation", _normalisations(model))
        # Its 2 % of the multiply-adds make more than half of the error of an FP16 500M_KPS.
        yield from new("first depthwise convolution", _first_depthwise(model))
    for entry in out_of_range(model, frozenset(seen), _probes(interface, options.images)):
        yield from new(entry.reason, entry.nodes)


def _normalisations(model: onnx.ModelProto) -> Iterator[str]:
    """Every normalisation, with the scale and shift that make GroupNorm of it."""
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    for node in model.graph.node:
        if node.op_type in NORMALISATIONS:
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
    pictures = seeded_pictures(_PROBE_SEED).astype(np.float32)
    height = interface.height or pictures.shape[2]
    width = interface.width or pictures.shape[3]
    down, across = -(-height // pictures.shape[2]), -(-width // pictures.shape[3])
    yield from np.tile(pictures, (1, 1, down, across))[:, :, :height, :width]
    for level in (-EXTREME, EXTREME):
        yield np.full((pictures.shape[1], height, width), level, np.float32)


def _fitting(batch: np.ndarray, interface: Interface) -> Iterator[np.ndarray]:
    """``batch`` in the model's own batch size; pictures of another shape are an error."""
    for picture in batch:
        if not interface.accepts(interface.batch or 1, *picture.shape[1:]):
            raise UsageError(
                f"Pictures of {picture.shape[1]}x{picture.shape[2]} do not fit a model of "
                f"{interface.height or 'any'}x{interface.width or 'any'}."
            )
        yield np.repeat(picture[None], interface.batch or 1, axis=0)


# ---------------------------------------------------------------- refusing and describing


def require_convertible(path: Path) -> Interface:
    """The interface of a float SCRFD in ONNX; raises ArtifactError for other files.

    Runs once on a built-in picture: other detectors have six or nine outputs, too.
    """
    runner = OnnxRunner(path)
    if runner.precision != "fp32":
        raise ArtifactError(
            f"{path}: is {runner.precision} already, at least in part; convert from the float32 "
            "model."
        )
    picture = next(_built_in(runner.interface))
    outputs = runner.run(np.repeat(picture[None], runner.interface.batch or 1, axis=0))
    for name, value in outputs.items():
        _require_head(path, name, value.shape, picture.shape[1:])
    return runner.interface


def _require_head(path: Path, name: str, shape: tuple[int, ...], image: tuple[int, ...]) -> None:
    kind, _, stride = name.partition("_")
    cells = math.prod(side // int(stride) for side in image)
    rows, width = shape[-2:] if len(shape) > 1 else (0, 0)
    if not rows or rows % cells or width != _WIDTHS.get(kind, width):
        raise ArtifactError(
            f"{path}: is not an SCRFD: {name} has the shape {list(shape)}, for {cells} cells at "
            f"stride {stride}."
        )


def _describe(model: onnx.ModelProto, kept: list[Kept], options: Fp16Options, parent: str) -> None:
    import onnx

    by_reason: dict[str, list[str]] = {}
    for entry in kept:
        by_reason.setdefault(entry.reason, []).extend(entry.nodes)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    metadata |= {
        PREFIX + "precision": "fp16",
        PREFIX + "io": options.io,
        PREFIX + KEPT: json.dumps(by_reason),
        PREFIX + "parent_sha256": parent,
    }
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(sorted(metadata.items())))
