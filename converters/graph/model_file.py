"""ONNX files: read, checked, written; the same model gives the same bytes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from google.protobuf.message import Message

from scrfdconv.converters.artifact import once_per_file
from scrfdconv.converters.errors import ArtifactError, reason_of

if TYPE_CHECKING:
    import onnx

IMAGE_RANK = 4
_VALUES = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
_PACKED = 4  # values of two bits in one number, the most
_BITS = {21: 4, 22: 4, 23: 4, 25: 2, 26: 2}  # of the types of TensorProto that are below a byte


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


def load_onnx(path: Path) -> onnx.ModelProto:
    """Read an ONNX file, its functions written out; raises ArtifactError for anything else.

    All names are text, and every tensor has as many values as its sizes say. The model is the
    caller's own, to be changed.
    """
    import onnx
    import onnx.external_data_helper

    found, others = _without_other_files(path)
    model = onnx.ModelProto()
    model.CopyFrom(found)
    if others:
        with _named(path):
            onnx.external_data_helper.load_external_data_for_model(model, str(path.parent))
            list(_sound_tensors(model))  # to the end: the tensors that were read just now, too
    return model


@once_per_file
def _without_other_files(path: Path) -> tuple[onnx.ModelProto, tuple[str, ...]]:
    """The model, and the names of the other files that some of its tensors are stored in."""
    import onnx
    import onnx.inliner

    with _named(path):
        model = onnx.load(str(path), load_external_data=False)
        outside = [tensor for tensor in _sound_tensors(model) if _is_outside(tensor)]
        places = [entry for tensor in outside for entry in tensor.external_data]
        others = dict.fromkeys(entry.value for entry in places if entry.key == "location")
        if model.functions:  # this package does not look into functions
            model = onnx.inliner.inline_local_functions(model)
    if not model.graph.node or not model.opset_import:
        raise ArtifactError(f"{path}: is no ONNX model: it has no nodes.")
    return model, tuple(others)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Raise ArtifactError, with the file's name, for what onnx and protobuf raise."""
    try:
        yield
    except Exception as error:  # whatever their C++ code raises
        raise ArtifactError(f"{path}: is no readable ONNX model ({reason_of(error)}).") from error


def _sound_tensors(message: Message) -> Iterator[onnx.TensorProto]:
    """Yield every tensor in a message.

    Raises ValueError for a text that is no UTF-8, or a tensor of other sizes than its values.
    """
    import onnx

    if isinstance(message, onnx.TensorProto):
        _require_values(message)
        yield message
    for kind, value in message.ListFields():
        texts = kind.type == kind.TYPE_STRING
        if not texts and kind.type != kind.TYPE_MESSAGE:
            continue
        for item in (value,) if isinstance(value, str | bytes | Message) else value:
            if isinstance(item, Message):
                yield from _sound_tensors(item)
            elif not isinstance(item, str):  # protobuf gives such texts as bytes
                raise ValueError(f"{kind.name} {item!r} is no text")


def _is_outside(tensor: onnx.TensorProto) -> bool:
    """True for a tensor whose values are stored in another file."""
    return bool(tensor.data_location == tensor.EXTERNAL)


def _require_values(tensor: onnx.TensorProto) -> None:
    from onnx.helper import tensor_dtype_to_np_dtype

    if _is_outside(tensor):  # not read
        return
    count, kind = math.prod(tensor.dims), tensor.data_type
    what = f"tensor {tensor.name} of sizes {list(tensor.dims)}"
    if min(tensor.dims, default=0) < 0:
        raise ValueError(f"{what} is impossible")
    if tensor.HasField("raw_data"):
        bits = _BITS.get(kind) or 8 * tensor_dtype_to_np_dtype(kind).itemsize
        if -(-count * bits // 8) != len(tensor.raw_data):
            raise ValueError(f"{what} has {len(tensor.raw_data)} bytes")
    elif count > (most := sum(len(getattr(tensor, field)) for field in _VALUES) * _PACKED):
        raise ValueError(f"{what} has at most {most} values")


def files_of_tensors(path: Path) -> tuple[Path, ...]:
    """The files beside an ONNX file that hold its tensors; raises as `load_onnx`."""
    _, names = _without_other_files(path)
    for name in names:
        if Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name:
            raise ArtifactError(f"{path}: its tensors are in {name}, which is not beside it.")
    return tuple(path.parent / name for name in names)


def node_count(path: Path) -> int:
    """Number of nodes in the graph of an ONNX file."""
    return len(load_onnx(path).graph.node)


def opset_of(model: onnx.ModelProto) -> int:
    """The version of the default operator set."""
    return int(next((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), 0))


def metadata_of(model: onnx.ModelProto) -> dict[str, str]:
    """All metadata of a model, ours and those of others."""
    return {entry.key: entry.value for entry in model.metadata_props}


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
