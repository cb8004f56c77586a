"""ONNX: exported once per checkpoint with free batch, height and width; the rest is derived.

A fixed shape is the dynamic graph with its input dimensions set, simplified: a fraction of the
time of a new export. Rules that every written model keeps:

1. Outputs keep names, order and exact declared shapes; deployers bind to them.
2. The same input gives the same bytes: no paths, times, counters or removed-node lists.
3. The opset is the one that was asked for, checked in the written model.
"""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scrfdconv.converters.architecture import Architecture, require_shape
from scrfdconv.converters.artifact import readable
from scrfdconv.converters.checkpoint import Checkpoint
from scrfdconv.converters.errors import ArtifactError, MissingError, ScrfdconvError, UsageError
from scrfdconv.converters.formats import Format, Source
from scrfdconv.converters.metadata import (
    PREFIX,
    architecture_from_metadata,
    metadata_for,
    package_version,
)
from scrfdconv.converters.precision import precision_of
from scrfdconv.converters.runner import (
    CHANNELS,
    INPUT_NAME,
    Interface,
    Runner,
    canonical_outputs,
    thread_limit,
    trace_size,
)

if TYPE_CHECKING:
    import onnx

OPSETS = range(11, 21)
# 17 runs on every ONNX Runtime since 1.12 and every TensorRT since 8.5; the CUDA provider of
# ONNX Runtime lacks kernels of opset 19 and later.
DEFAULT_OPSET = 17
IMAGE_RANK = 4
SIMPLIFIER = "onnxsim."  # prefix of the metadata that it leaves
Exporter = Literal["torchscript", "dynamo"]


@dataclass(frozen=True)
class OnnxOptions:
    """Dynamic unless ``shape`` (H, W) is given; then ``batch`` images of that shape."""

    shape: tuple[int, int] | None = None
    batch: int = 1
    opset: int | None = None  # None: 17 for exports, unchanged for a model that is ONNX already
    # The TorchScript exporter takes 0.4-3 s per network, dynamo 4-25 s, for the same graph.
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
    export = _export_dynamo if options.exporter == "dynamo" else _export_torchscript
    model = export(checkpoint, opset)
    _use_own_axis_names(model, a)
    _pin_output_reshapes(model, a)
    _size_upsampling_by_lateral(model)
    if options.shape:
        fix_input(model, options.batch, options.shape)
    model = _simplify(model)
    _constants_as_initializers(model.graph)
    _declare_outputs(model, a, options)
    _use_own_tensor_names(model)
    metadata = metadata_for(checkpoint, "fp32", options.shape, options.batch)
    _describe(model, {PREFIX + key: value for key, value in metadata.items()}, a.name)
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
    model = _simplify(model)
    architecture = architecture_from_metadata(_own(kept))
    if architecture:
        _declare_outputs(model, architecture, options)
    _set_metadata(model, kept)
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


# ---------------------------------------------------------------- exporters


def _axes(a: Architecture) -> dict[str, dict[int, str]]:
    # One name per size: a shared name would promise equal sizes, and runtimes reuse buffers by it.
    axes = {INPUT_NAME: {0: "batch", 2: "height", 3: "width"}}
    return axes | {n: {0: "batch", 1: f"anchors_{n.rpartition('_')[2]}"} for n in a.output_names}


def _export_torchscript(checkpoint: Checkpoint, opset: int) -> onnx.ModelProto:
    import onnx
    import torch

    buffer = io.BytesIO()
    with warnings.catch_warnings(), torch.inference_mode():
        # This exporter is chosen on purpose; its deprecation is no news for a user, and its
        # tracer warns of nothing that the checks at several sizes would not find.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            checkpoint.model(),
            (torch.zeros(1, CHANNELS, *trace_size(checkpoint.architecture)),),
            buffer,  # type: ignore[arg-type]  # file objects are fine for this exporter
            dynamo=False,
            opset_version=opset,
            input_names=[INPUT_NAME],
            output_names=list(checkpoint.architecture.output_names),
            dynamic_axes=_axes(checkpoint.architecture),
        )
    return onnx.load_from_string(buffer.getvalue())


def _export_dynamo(checkpoint: Checkpoint, opset: int) -> onnx.ModelProto:
    import torch

    try:
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise MissingError(
            "--exporter dynamo needs onnxscript: pip install 'scrfdconv[dynamo]'."
        ) from error
    a = checkpoint.architecture
    free = dict.fromkeys(("batch", "height", "width"), torch.export.Dim.DYNAMIC)
    with _quiet(), torch.inference_mode():
        program = torch.onnx.export(
            checkpoint.model(),
            # a batch of 2: torch.export takes a size of 1 for a constant
            (torch.zeros(2, CHANNELS, *trace_size(a)),),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT_NAME],
            output_names=list(a.output_names),
            dynamic_shapes=({0: free["batch"], 2: free["height"], 3: free["width"]},),
            external_data=False,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings and log lines of torch.export and onnxscript."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


# ---------------------------------------------------------------- graph passes


def _use_own_axis_names(model: onnx.ModelProto, a: Architecture) -> None:
    """Rule 1 for the input; dynamo calls its axes s77, and inner shapes are inferred anew."""
    del model.graph.value_info[:]
    axes = _axes(a)
    for value in (*model.graph.input, *model.graph.output):
        for i, dim in enumerate(value.type.tensor_type.shape.dim):
            if i in axes[value.name]:
                dim.dim_param = axes[value.name][i]


def _pin_output_reshapes(model: onnx.ModelProto, a: Architecture) -> None:
    """Give the last Reshape of every output the constant shape (0, -1, width).

    The exporters compute it from the batch at run time (Shape, Gather, Concat); 0 means "as the
    input" and serves every batch, so that all of that falls away.
    """
    from onnx import numpy_helper

    makers = {output: node for node in model.graph.node for output in node.output}
    for name in a.output_names:
        node = makers[name]
        while node.op_type != "Reshape":
            if node.op_type not in ("Sigmoid", "Identity"):
                raise AssertionError(f"{name}: {node.op_type} behind the last Reshape")
            node = makers[node.input[0]]
        width = a.widths[name.partition("_")[0]]
        shape = numpy_helper.from_array(np.array([0, -1, width]), f"{name}.shape")
        model.graph.initializer.append(shape)
        node.input[1] = shape.name
        del node.attribute[:]  # dynamo's allowzero=1, under which 0 means an empty axis


def _size_upsampling_by_lateral(model: onnx.ModelProto) -> None:
    """Let every Resize take its size from the tensor it is added to, in the shortest way.

    sizes = concat(shape(coarse)[:2], shape(lateral)[2:]). TorchScript's exporter gathers height
    and width one by one, dynamo computes them from the image's by formula.
    """
    import onnx
    from onnx import helper, numpy_helper

    graph = model.graph
    bounds = {f"slice.{i}": numpy_helper.from_array(np.array([i]), f"slice.{i}") for i in (0, 2, 4)}
    graph.initializer.extend(bounds.values())
    nodes = []
    for node in graph.node:
        if node.op_type == "Resize":
            lateral = _added_to(graph, node.output[0])
            name, coarse = node.name or node.output[0], node.input[0]
            nodes += [
                helper.make_node("Shape", [coarse], [f"{name}.coarse"], f"{name}/Shape"),
                helper.make_node("Shape", [lateral], [f"{name}.lateral"], f"{name}/Shape_1"),
                helper.make_node(
                    "Slice", [f"{name}.coarse", "slice.0", "slice.2"], [f"{name}.batch"],
                    f"{name}/Slice",
                ),
                helper.make_node(
                    "Slice", [f"{name}.lateral", "slice.2", "slice.4"], [f"{name}.size"],
                    f"{name}/Slice_1",
                ),
                helper.make_node(
                    "Concat", [f"{name}.batch", f"{name}.size"], [f"{name}.sizes"],
                    f"{name}/Concat", axis=0,
                ),
            ]  # fmt: skip
            node.input[3] = f"{name}.sizes"
        nodes.append(node)
    rewritten = onnx.GraphProto(node=nodes)  # copies, before the originals go
    graph.ClearField("node")
    graph.node.extend(rewritten.node)


def _added_to(graph: onnx.GraphProto, name: str) -> str:
    """The other operand of the Add that reads ``name``."""
    (add,) = (node for node in graph.node if name in node.input)
    assert add.op_type == "Add", add.op_type
    (other,) = (operand for operand in add.input if operand != name)
    return str(other)


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


def _simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx
    import onnxsim

    try:
        # certify: by default it depends on whether an SMT solver happens to be installed
        smaller, ok = onnxsim.simplify(model, check_n=0, certify=False)
    except (RuntimeError, ValueError) as error:
        raise ArtifactError(f"{model.graph.name}: cannot be simplified: {error}.") from error
    if not ok:
        raise ArtifactError(f"{model.graph.name}: the simplifier says that it changed the model.")
    assert isinstance(smaller, onnx.ModelProto)
    del smaller.graph.value_info[:]  # inferred shapes, with counters for names; rule 2
    return smaller


def _declare_outputs(model: onnx.ModelProto, a: Architecture, options: OnnxOptions) -> None:
    """Rule 1: (batch, anchors_8, 1) and so on, or the numbers of a fixed shape."""
    axes = _axes(a)
    rows = a.rows(*options.shape) if options.shape else {}
    for value in model.graph.output:
        shape = value.type.tensor_type.shape
        del shape.dim[:]
        batch, anchors, width = shape.dim.add(), shape.dim.add(), shape.dim.add()
        if options.shape:
            batch.dim_value, anchors.dim_value = options.batch, rows[value.name]
        else:
            batch.dim_param, anchors.dim_param = axes[value.name][0], axes[value.name][1]
        width.dim_value = a.widths[value.name.partition("_")[0]]


def _constants_as_initializers(graph: onnx.GraphProto) -> None:
    """One home for constants: tools that edit weights look at initializers only."""
    nodes = [n for n in graph.node if n.op_type == "Constant" and n.attribute[0].name == "value"]
    for node in nodes:
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def _use_own_tensor_names(model: onnx.ModelProto) -> None:
    """Name constants after their first reader; exporters and simplifier number them."""
    graph = model.graph
    slots = {"Conv": {1: "weight", 2: "bias"}, "Reshape": {1: "shape"}, "Resize": {3: "sizes"}}
    constants = {tensor.name for tensor in graph.initializer}
    renamed: dict[str, str] = {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in constants and name not in renamed:
                slot = slots.get(node.op_type, {}).get(i, f"input{i}")
                renamed[name] = f"{node.name.strip('/').replace('/', '.')}.{slot}"
    assert len(set(renamed.values())) == len(renamed)
    for tensor in graph.initializer:
        tensor.name = _tidy(renamed.get(tensor.name, tensor.name))
    for node in graph.node:
        node.name = _tidy(node.name)
        node.input[:] = [_tidy(renamed.get(name, name)) for name in node.input]
        node.output[:] = [_tidy(name) for name in node.output]


def _tidy(name: str) -> str:
    """Mmdet's ``(8, 8)`` as ``8``: names are typed in shells."""
    return re.sub(r"\((\d+), \1\)", r"\1", name)


def _describe(model: onnx.ModelProto, metadata: Mapping[str, str], name: str) -> None:
    """Rule 2: our metadata and nothing of the tools that were used."""
    model.producer_name, model.producer_version = "scrfdconv", package_version()
    model.graph.name = name
    model.doc_string = ""
    _set_metadata(model, metadata)


def _set_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    import onnx

    graph = model.graph
    items: list[Any] = [graph, *graph.node, *graph.input, *graph.output]
    for item in items:
        item.doc_string = ""
        del item.metadata_props[:]  # dynamo's stack traces, with local paths
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(sorted(metadata.items())))


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
