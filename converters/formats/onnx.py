"""ONNX: exported once per checkpoint with free batch, height and width; the rest is derived.

A fixed shape is the dynamic graph with its input dimensions set, simplified: a fraction of the
time of a new export. Rules that every written model keeps:

1. Outputs keep names, order and exact declared shapes; deployers bind to them.
2. The same input gives the same bytes: no paths, times, counters or removed-node lists.
3. The opset is the one that was asked for, checked in the written model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scrfdconv.converters.architecture import require_shape
from scrfdconv.converters.artifact import readable
from scrfdconv.converters.checkpoint import Checkpoint
from scrfdconv.converters.errors import ArtifactError, ScrfdconvError, UsageError
from scrfdconv.converters.formats import Format, Source
from scrfdconv.converters.metadata import PREFIX, architecture_from_metadata, metadata_for
from scrfdconv.converters.onnx_export import Exporter, exported
from scrfdconv.converters.onnx_graph import (
    constants_as_initializers,
    declare_outputs,
    describe,
    pin_output_reshapes,
    set_metadata,
    simplify,
    size_upsampling_by_lateral,
    use_own_axis_names,
    use_own_tensor_names,
)
from scrfdconv.converters.precision import precision_of
from scrfdconv.converters.runner import (
    CHANNELS,
    Interface,
    Runner,
    canonical_outputs,
    thread_limit,
)

if TYPE_CHECKING:
    import onnx

OPSETS = range(11, 21)
# 17 runs on every ONNX Runtime since 1.12 and every TensorRT since 8.5; the CUDA provider of
# ONNX Runtime lacks kernels of opset 19 and later.
DEFAULT_OPSET = 17
IMAGE_RANK = 4
SIMPLIFIER = "onnxsim."  # prefix of the metadata that it leaves


@dataclass(frozen=True)
class OnnxOptions:
    """Dynamic unless ``shape`` (H, W) is given; then ``batch`` images of that shape."""

    shape: tuple[int, int] | None = None
    batch: int = 1
    opset: int | None = None  # None: 17 for exports, unchanged for a model that is ONNX already
    exporter: Exporter = "torchscript"


class Onnx(Format):
    """Float ONNX, simplified."""

    name = "onnx"
    suffix = ".onnx"
    sources = ("pytorch", "onnx")
    options = OnnxOptions

    def build(self, source: Source, options: OnnxOptions) -> bytes:
        """Export a checkpoint, or simplify a model that is ONNX already."""
        if isinstance(source, Checkpoint):
            model = onnx_from_checkpoint(source, options)
        else:
            model = simplified(load_onnx(source.path), options)
        return serialised(model)

    def open(self, path: Path, threads: int | None = None) -> Runner:
        """Open ours, upstream's or a released model with ONNX Runtime on the CPU."""
        return OnnxRunner(path, threads)


# ---------------------------------------------------------------- building


def onnx_from_checkpoint(checkpoint: Checkpoint, options: OnnxOptions) -> onnx.ModelProto:
    """The network as a simplified ONNX model with our names, shapes and metadata."""
    a = checkpoint.architecture
    opset = DEFAULT_OPSET if options.opset is None else options.opset
    require_opset(opset)
    if options.shape:
        require_shape(options.shape, a.size_multiple)
    model = exported(checkpoint, opset, options.exporter)
    use_own_axis_names(model, a)
    pin_output_reshapes(model, a)
    size_upsampling_by_lateral(model)
    if options.shape:
        fix_input(model, options.batch, options.shape)
    model = simplify(model)
    constants_as_initializers(model.graph)
    declare_outputs(model, a, options.shape, options.batch)
    use_own_tensor_names(model)
    metadata = metadata_for(checkpoint, "fp32", options.shape, options.batch)
    describe(model, {PREFIX + key: value for key, value in metadata.items()}, a.name)
    _require_written_opset(model, opset, options.exporter)
    return model


def require_opset(opset: int) -> None:
    """Raise UsageError for an opset that the exporters cannot write."""
    if opset not in OPSETS:
        raise UsageError(f"--opset {opset}: supported are {OPSETS.start} to {OPSETS.stop - 1}.")


def simplified(model: onnx.ModelProto, options: OnnxOptions) -> onnx.ModelProto:
    """A smaller graph with the same outputs, for any model with one image input.

    With ``options.shape`` its input is fixed. Names, order and foreign metadata stay.
    """
    if options.opset not in (None, opset_of(model)):
        raise UsageError(
            f"--opset {options.opset}: the model has opset {opset_of(model)}; an opset is chosen "
            "where a checkpoint is exported."
        )
    kept = {p.key: p.value for p in model.metadata_props if not p.key.startswith(SIMPLIFIER)}
    if options.shape:
        require_shape(options.shape)
        fix_input(model, options.batch, options.shape)
        if PREFIX + "shape" in kept:
            height, width = options.shape
            kept |= {PREFIX + "shape": f"{height}x{width}", PREFIX + "batch": str(options.batch)}
    for output in model.graph.output:
        # Released models declare the shapes of the size they were exported at, or zeros.
        for dim in output.type.tensor_type.shape.dim:
            dim.Clear()
    del model.graph.value_info[:]
    model = simplify(model)
    own = _own(kept)
    architecture = architecture_from_metadata(own)
    if architecture:
        declare_outputs(model, architecture, options.shape, options.batch)
    if architecture and own.get("precision") == "fp32":  # one of our exports: the same bytes again
        constants_as_initializers(model.graph)
        use_own_tensor_names(model)
    set_metadata(model, kept)
    return model


def serialised(model: onnx.ModelProto) -> bytes:
    """The bytes of a model that the checker accepts; the same for the same model."""
    import onnx

    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        first = str(error).strip().partition("\n")[0]
        raise ArtifactError(f"{model.graph.name}: is not valid ONNX: {first}.") from error
    return bytes(model.SerializeToString(deterministic=True))


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file; raises ArtifactError for anything else."""
    import onnx
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(readable(path)))
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ArtifactError(f"{path}: is no readable ONNX model ({error}).") from error
    if not model.graph.node or not model.opset_import:
        raise ArtifactError(f"{path}: is no ONNX model: it has no nodes.")
    return model


def node_count(path: Path) -> int:
    """Number of nodes in the graph of an ONNX file."""
    return len(load_onnx(path).graph.node)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the default operator set."""
    return int(next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0))


def fix_input(model: onnx.ModelProto, batch: int, shape: tuple[int, int]) -> None:
    """Set the input to (batch, C, H, W); raises UsageError where it is fixed to another shape."""
    if batch < 1:
        raise UsageError(f"--batch {batch}: must be at least 1.")
    dims = image_input(model).type.tensor_type.shape.dim
    for i, size in ((0, batch), (2, shape[0]), (3, shape[1])):
        fixed = dims[i].dim_value
        if fixed and fixed != size:
            axis = ("batch", "", "height", "width")[i]
            raise UsageError(
                f"The model's {axis} is fixed to {fixed} and cannot become {size}; export anew "
                "from the checkpoint."
            )
        dims[i].Clear()
        dims[i].dim_value = size


def image_input(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    """The one input (N, C, H, W) of a detector; raises ArtifactError for other models."""
    constants = {tensor.name for tensor in model.graph.initializer}  # old files list them as inputs
    inputs = [value for value in model.graph.input if value.name not in constants]
    ranks = [len(value.type.tensor_type.shape.dim) for value in inputs]
    if ranks != [IMAGE_RANK]:
        shown = ", ".join(value.name for value in inputs) or "none"
        raise ArtifactError(
            f"{model.graph.name}: expected one image input (N, C, H, W), it has: {shown}."
        )
    return inputs[0]


def _require_written_opset(model: onnx.ModelProto, opset: int, exporter: str) -> None:
    """Rule 3: dynamo warns and writes 18 where it cannot convert down."""
    if opset_of(model) != opset:
        raise UsageError(
            f"--opset {opset}: the {exporter} exporter wrote opset {opset_of(model)} instead; "
            "use --exporter torchscript."
        )


# ---------------------------------------------------------------- running


class OnnxRunner(Runner):
    """A model in ONNX Runtime on the CPU.

    ``scrfd=False`` keeps the outputs' own names and takes any model with one image input.
    """

    def __init__(self, path: Path, threads: int | None = None, *, scrfd: bool = True) -> None:
        self._path = path
        self._session = _session(path, threads)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(inputs[0].shape) != IMAGE_RANK:
            raise ArtifactError(f"{path}: is not an SCRFD: expected one image input (N, 3, H, W).")
        self._input = inputs[0]
        self.output_names = tuple(output.name for output in outputs)
        metadata = _own(self._session.get_modelmeta().custom_metadata_map)
        names = canonical_outputs(self.output_names, path) if scrfd else self.output_names
        batch, channels, height, width = (
            d if isinstance(d, int) and d > 0 else None for d in self._input.shape
        )
        if scrfd and channels not in (CHANNELS, None):
            raise ArtifactError(f"{path}: is not an SCRFD: its input has {channels} channels.")
        a = architecture_from_metadata(metadata)
        multiple = {"size_multiple": a.size_multiple} if a else {}
        super().__init__(
            Interface(names, batch, height, width, channels=channels or CHANNELS, **multiple),
            metadata,
        )

    @cached_property
    def precision(self) -> str:
        """What the graph computes in, not what its metadata claim: foreign files have none."""
        return precision_of(load_onnx(self._path))

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        if self._input.type == "tensor(float16)":
            images = images.astype(np.float16)
        try:
            return list(self._session.run(self.output_names, {self._input.name: images}))
        except Exception as error:  # onnxruntime's exceptions have no common public base
            raise ArtifactError(
                f"{self._path.name}: fails on images of shape {images.shape}: {_first(error)}"
            ) from error


def _session(path: Path, threads: int | None) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; released models warn of their stale output shapes
    threads = threads or thread_limit()
    if threads:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(
            str(readable(path)), options, providers=["CPUExecutionProvider"]
        )
    except ScrfdconvError:
        raise
    except Exception as error:  # as above
        raise ArtifactError(f"{path}: ONNX Runtime cannot load it: {_first(error)}") from error


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") + "."


def _own(metadata: Mapping[str, str]) -> dict[str, str]:
    """Our metadata without its prefix."""
    return {k.removeprefix(PREFIX): v for k, v in metadata.items() if k.startswith(PREFIX)}
