"""ONNX: exported once per checkpoint with free batch, height and width; the rest is derived.

A fixed shape is the dynamic graph with its input dimensions set, simplified: a fraction of the
time of a new export. Rules that every written model keeps:

1. Outputs keep names, order and exact declared shapes; deployers bind to them.
2. The same input gives the same bytes: no paths, times, counters or removed-node lists.
3. The opset is the requested one, checked in the written model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.checkpoint.metadata import metadata_for
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats.onnx import (
    DEFAULT_OPSET,
    OnnxOptions,
    require_outputs,
)
from scrfdconv.converters.formats.onnx.export import exported
from scrfdconv.converters.graph.interface.faces import append_faces
from scrfdconv.converters.graph.interface.forms import form_of, network_of
from scrfdconv.converters.graph.interface.inputs import write_input
from scrfdconv.converters.graph.interface.kinds import KEY, FaceRules, OutputKind, output_kind
from scrfdconv.converters.graph.interface.outputs import declare_outputs, write_outputs
from scrfdconv.converters.graph.model_file import (
    image_input,
    load_onnx,
    metadata_of,
    opset_of,
)
from scrfdconv.converters.graph.norms import write_group_norms
from scrfdconv.converters.graph.passes import (
    constants_as_initializers,
    describe,
    pin_output_reshapes,
    set_metadata,
    simplify,
    use_own_axis_names,
    use_own_tensor_names,
)
from scrfdconv.converters.input_form import PLAIN
from scrfdconv.converters.metadata import PREFIX, architecture_from_metadata
from scrfdconv.converters.metadata import own_metadata as _own
from scrfdconv.converters.network.architecture import require_shape
from scrfdconv.converters.network.preprocessing import metadata_of_pictures
from scrfdconv.converters.options import DYNAMIC

if TYPE_CHECKING:
    import onnx

    from scrfdconv.converters.formats import Source

OPSETS = range(11, 21)
SIMPLIFIER = "onnxsim."  # prefix of the metadata that onnxsim leaves


def onnx_from_source(source: Source, options: OnnxOptions) -> onnx.ModelProto:
    """Export a checkpoint, or simplify a model that is ONNX already."""
    if isinstance(source, Checkpoint):
        return onnx_from_checkpoint(source, options)
    return simplified(load_onnx(source.path), options)


def onnx_from_checkpoint(checkpoint: Checkpoint, options: OnnxOptions) -> onnx.ModelProto:
    """The network as a simplified ONNX model with our names, shapes and metadata."""
    a = checkpoint.architecture
    opset = DEFAULT_OPSET if options.opset is None else options.opset
    require_opset(opset)
    require_outputs(options)
    if options.shape:
        require_shape(options.shape, a.size_multiple)
    model = exported(checkpoint, opset, options.exporter)
    use_own_axis_names(model, a)
    pin_output_reshapes(model, a)
    if a.head_groups:  # before the shape is set: the fixed graph equals the dynamic one
        model = simplify(model)
        constants_as_initializers(model.graph)
        write_group_norms(model)
    kind = options.outputs or "raw"
    if options.shape:
        fix_input(model, options.batch, options.shape)
    elif kind == "flat":
        fix_batch(model, 1)
    model = simplify(model)
    constants_as_initializers(model.graph)
    if kind == "faces":
        append_faces(model, a, options.rules)
    else:
        write_outputs(model, kind, a)
    declare_outputs(model, kind, a, options.shape, options.batch, options.max_faces)
    form = options.form(a.normalization)
    write_input(model, form, a.normalization)
    use_own_tensor_names(model)
    metadata = metadata_for(checkpoint, "fp32", options.shape, options.batch)
    metadata |= metadata_of_pictures(a.normalization, form)
    metadata |= {} if kind == "raw" else {KEY: kind}
    metadata |= {"batch": "1"} if kind == "flat" else {}
    metadata |= options.rules.metadata if kind == "faces" else {}
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
    if options.outputs is not None and not _has_outputs(model, options.outputs):
        raise UsageError(
            f"--outputs {options.outputs}: outputs are chosen where a network is exported, and "
            "this graph is taken as it is."
        )
    kept = {k: v for k, v in metadata_of(model).items() if not k.startswith(SIMPLIFIER)}
    kept |= _with_input(model, options)
    if options.shape:
        require_shape(options.shape)
        fix_input(model, options.batch, options.shape)
        if PREFIX + "shape" in kept:
            height, width = options.shape
            batch = str(options.batch or DYNAMIC)
            kept |= {PREFIX + "shape": f"{height}x{width}", PREFIX + "batch": batch}
    for output in model.graph.output:
        # Released models declare the shapes of the size they were exported at, or zeros.
        for dim in output.type.tensor_type.shape.dim:
            dim.Clear()
    del model.graph.value_info[:]
    model = simplify(model)
    own = _own(kept)
    architecture, kind = architecture_from_metadata(own), output_kind(own)
    names = {output.name for output in model.graph.output}
    if architecture and kind != "faces" and names != set(architecture.output_names):
        architecture = None  # somebody renamed, added or left out outputs: not one of our exports
    if architecture:
        faces = FaceRules.of(own).max_faces if kind == "faces" else 0
        declare_outputs(model, kind, architecture, options.shape, options.batch, faces)
    if architecture and own.get("precision") == "fp32":  # one of our exports: the same bytes again
        constants_as_initializers(model.graph)
        use_own_tensor_names(model)
    set_metadata(model, kept)
    return model


def _with_input(model: onnx.ModelProto, options: OnnxOptions) -> dict[str, str]:
    """Write the input that is asked for into a graph that has another one; its metadata."""
    if not options.asks_for_input:
        return {}
    network, have = network_of(model), form_of(model)
    form = options.form(network)
    if form == have:
        return {}
    if have != PLAIN:
        raise UsageError(
            f"--input, --layout and --input-color: {model.graph.name} takes "
            f"{have.words(network)} already; start from its checkpoint."
        )
    write_input(model, form, network)
    return {PREFIX + key: value for key, value in metadata_of_pictures(network, form).items()}


def _has_outputs(model: onnx.ModelProto, kind: OutputKind) -> bool:
    own = _own(metadata_of(model))
    return architecture_from_metadata(own) is not None and output_kind(own) == kind


def fix_batch(model: onnx.ModelProto, batch: int) -> None:
    """Set the number of images alone; height and width stay free."""
    dim = image_input(model).type.tensor_type.shape.dim[0]
    dim.Clear()
    dim.dim_value = batch


def fix_input(model: onnx.ModelProto, batch: int | None, shape: tuple[int, int]) -> None:
    """Set the input to (batch, C, H, W), a batch of None left free.

    Raises UsageError where the input is fixed to another shape.
    """
    if batch is not None and batch < 1:
        raise UsageError(f"--batch {batch}: must be at least 1.")
    dims = image_input(model).type.tensor_type.shape.dim
    places = form_of(model).sizes((0, 1, 2, 3))
    for i, size in ((0, batch or DYNAMIC), (2, shape[0]), (3, shape[1])):
        dim = dims[places[i]]
        fixed = dim.dim_value
        if fixed and fixed != size:
            axis = ("batch", "", "height", "width")[i]
            raise UsageError(
                f"The model's {axis} is fixed to {fixed} and cannot become {size}; export anew "
                "from the checkpoint."
            )
        if isinstance(size, int):
            dim.Clear()
            dim.dim_value = size


def _require_written_opset(model: onnx.ModelProto, opset: int, exporter: str) -> None:
    """Rule 3: dynamo warns and writes 18 where it cannot convert down."""
    if opset_of(model) != opset:
        raise UsageError(
            f"--opset {opset}: the {exporter} exporter wrote opset {opset_of(model)} instead; "
            "use --exporter torchscript."
        )
