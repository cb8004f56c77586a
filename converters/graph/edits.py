"""Small edits of ONNX graphs, and the facts on tensors that edits need."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.graph.number_types import live_nodes
from scrfdconv.converters.graph.passes import constants_as_initializers

if TYPE_CHECKING:
    import onnx


def prepared(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every node has its own name and every constant is an initializer in use."""
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    if any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute):
        raise ArtifactError(
            f"{graph.name}: has control flow (If, Loop), which no SCRFD has; simplify it first."
        )
    constants_as_initializers(graph)
    _name_nodes(graph)
    drop_unread_constants(graph)
    return result


def drop_unread(graph: onnx.GraphProto) -> None:
    """Remove the nodes that no output depends on, and the constants that nothing reads then."""
    replace_all(graph.node, live_nodes(graph))
    drop_unread_constants(graph)


def drop_unread_constants(graph: onnx.GraphProto) -> None:
    """Remove the initializers that no node reads and that are no output."""
    used = {name for node in graph.node for name in node.input}
    used |= {value.name for value in graph.output}
    replace_all(graph.initializer, [t for t in graph.initializer if t.name in used])


def float_tensors(model: onnx.ModelProto) -> frozenset[str]:
    """Names of the float32 values that nodes hand to each other, the image included."""
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    for value in bare.graph.output:  # released models declare the shapes of another size
        value.type.tensor_type.ClearField("shape")
    graph = onnx.shape_inference.infer_shapes(bare).graph
    constants = {tensor.name for tensor in graph.initializer}
    return frozenset(
        value.name
        for value in (*graph.input, *graph.value_info, *graph.output)
        if value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        and value.name not in constants
    )


def _name_nodes(graph: onnx.GraphProto) -> None:
    taken = {node.name for node in graph.node}
    seen: set[str] = set()
    for index, node in enumerate(graph.node):
        if not node.name or node.name in seen:
            node.name = free_name(node.name or f"{node.op_type}_{index}", taken)
        seen.add(node.name)


def free_name(name: str, taken: set[str]) -> str:
    """``name``, or the first free ``name.2`` ...; the result is added to ``taken``."""
    free, count = name, 1
    while free in taken:
        count += 1
        free = f"{name}.{count}"
    taken.add(free)
    return free


def replace_all(field: Any, items: Sequence[Any]) -> None:
    """Set a repeated field of a protobuf message to ``items``, some of which the field may hold."""
    copies = [type(item)() for item in items]
    for copy, item in zip(copies, items, strict=True):
        copy.CopyFrom(item)  # clearing the field deletes the originals
    del field[:]
    field.extend(copies)
