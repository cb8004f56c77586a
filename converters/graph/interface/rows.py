"""A graph that ends with faces, as the network in front of them: its rows of anchors.

Whatever rounds or reads a network works on the rows. The faces go behind the result again, so that
decoding and suppression compute in float32 in every precision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scrfdconv.converters.errors import ArtifactError, UsageError
from scrfdconv.converters.graph.edits import drop_unread
from scrfdconv.converters.graph.interface.faces import append_faces, with_raw_outputs
from scrfdconv.converters.graph.interface.forms import form_of
from scrfdconv.converters.graph.interface.kinds import KEY, FaceRules, output_kind
from scrfdconv.converters.graph.interface.outputs import declare_outputs
from scrfdconv.converters.graph.interface.preamble import dims_of
from scrfdconv.converters.graph.model_file import image_input, metadata_of
from scrfdconv.converters.graph.passes import set_metadata
from scrfdconv.converters.metadata import PREFIX, architecture_from_metadata, own_metadata

if TYPE_CHECKING:
    import onnx

    from scrfdconv.converters.network.architecture import Architecture


def rows_alone(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` without what decodes its rows; a model that ends with rows is returned as it is.

    Raises ArtifactError for a file that says that it ends with faces, and does not.
    """
    import onnx

    found = _ending(model)
    if found is None:
        return model
    architecture, rules = found
    result = onnx.ModelProto()
    result.CopyFrom(model)
    with_raw_outputs(result, architecture)
    rows = set(architecture.output_names)
    ends = [value for value in result.graph.output if value.name in rows]
    del result.graph.output[:]
    result.graph.output.extend(ends)
    drop_unread(result.graph)
    _declare(result, architecture, None)
    said = {PREFIX + key for key in (KEY, *rules.metadata)}
    set_metadata(result, {k: v for k, v in metadata_of(model).items() if k not in said})
    return result


def with_faces_of(rows: onnx.ModelProto, source: onnx.ModelProto) -> onnx.ModelProto:
    """``rows``, made from ``source``, with its faces; unchanged where ``source`` has none.

    Raises UsageError for rows that are not float32.
    """
    import onnx

    found = _ending(source)
    if found is None:
        return rows
    architecture, rules = found
    if any(v.type.tensor_type.elem_type != onnx.TensorProto.FLOAT for v in rows.graph.output):
        raise UsageError(
            "--io float16: faces are decoded from float32; leave --io or --outputs faces out."
        )
    append_faces(rows, architecture, rules)
    _declare(rows, architecture, rules)
    said = {PREFIX + key: value for key, value in {KEY: "faces", **rules.metadata}.items()}
    set_metadata(rows, metadata_of(rows) | said)
    return rows


def _ending(model: onnx.ModelProto) -> tuple[Architecture, FaceRules] | None:
    """What a graph that ends with faces decodes, and by which rules; None for other ends."""
    own = own_metadata(metadata_of(model))
    if output_kind(own) != "faces":
        return None
    architecture = architecture_from_metadata(own)
    if architecture is None:
        raise ArtifactError(
            f"{model.graph.name}: its faces have no architecture; convert it again."
        )
    return architecture, FaceRules.of(own)


def _declare(model: onnx.ModelProto, a: Architecture, rules: FaceRules | None) -> None:
    """Declare the outputs for the sizes of the input: faces with ``rules``, rows without."""
    batch, _, height, width = form_of(model).sizes(dims_of(image_input(model)))
    shape = (height, width) if height and width else None
    kind, faces = ("faces", rules.max_faces) if rules else ("raw", 0)
    declare_outputs(model, kind, a, shape, batch, faces)  # type: ignore[arg-type]
