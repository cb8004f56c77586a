"""ONNX files: read, checked, written; the same model gives the same bytes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scrfdconv.converters.artifact import readable
from scrfdconv.converters.errors import ArtifactError

if TYPE_CHECKING:
    import onnx

IMAGE_RANK = 4


def serialised(model: onnx.ModelProto) -> bytes:
    """The bytes of a model that the checker accepts; the same for the same model."""
    require_valid(model, model.graph.name)
    return bytes(model.SerializeToString(deterministic=True))


def require_valid(model: onnx.ModelProto, where: str) -> None:
    """Raise ArtifactError for a model that the checker does not accept."""
    import onnx

    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        first = str(error).strip().partition("\n")[0]
        raise ArtifactError(f"{where}: is not valid ONNX: {first}.") from error


def load_onnx(path: Path, *, tensors: bool = True) -> onnx.ModelProto:
    """Read an ONNX file, its functions written out; raises ArtifactError for anything else.

    Without ``tensors``, those that are stored in other files are not read.
    """
    import onnx
    import onnx.inliner
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load(str(readable(path)), load_external_data=tensors)
    except (DecodeError, onnx.checker.ValidationError, OSError, ValueError) as error:
        raise ArtifactError(f"{path}: is no readable ONNX model ({error}).") from error
    if not model.graph.node or not model.opset_import:
        raise ArtifactError(f"{path}: is no ONNX model: it has no nodes.")
    if model.functions:  # this package does not look into functions
        model = onnx.inliner.inline_local_functions(model)
    return model


def files_of_tensors(path: Path) -> tuple[Path, ...]:
    """The files beside an ONNX file that hold its tensors; raises as `load_onnx`."""
    import onnx

    model = load_onnx(path, tensors=False)
    tensors = [*model.graph.initializer]
    tensors += [a.t for node in model.graph.node for a in node.attribute if a.HasField("t")]
    outside = [t for t in tensors if t.data_location == onnx.TensorProto.EXTERNAL]
    names = [entry.value for t in outside for entry in t.external_data if entry.key == "location"]
    return tuple(path.parent / name for name in dict.fromkeys(names))


def node_count(path: Path) -> int:
    """Number of nodes in the graph of an ONNX file."""
    return len(load_onnx(path).graph.node)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the default operator set."""
    return int(next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0))


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
