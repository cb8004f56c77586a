"""What the outputs of a detector's graph look like: rows of anchors, matrices, or feature maps.

Every kind keeps names and order (rule 1 of ``formats/onnx/building.py``); only shapes differ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.graph.edits import drop_unread
from scrfdconv.converters.graph.interface.faces import face_dims
from scrfdconv.converters.graph.interface.kinds import OutputKind
from scrfdconv.converters.network.architecture import OUTPUT_KINDS, Architecture

if TYPE_CHECKING:
    import onnx

_BEHIND = ("Identity", "Sigmoid", "Reshape", "Transpose")  # between a head's maps and its rows
_SCORE = OUTPUT_KINDS[0]


def write_outputs(model: onnx.ModelProto, kind: OutputKind, a: Architecture) -> None:
    """Turn the raw outputs of a graph of ours into ``kind``."""
    if kind == "flat":
        _drop_batch_axis(model, a)
    if kind == "maps":
        _end_with_maps(model)


def _end_with_maps(model: onnx.ModelProto) -> None:
    """End with what the heads' last layers give, scores behind their sigmoid.

    NPUs and ncnn's demos read maps: they have no fast permutation, and decode cell by cell.
    """
    from onnx import helper

    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    added, ends = [], {}
    for value in graph.output:
        source = value.name
        while makers[source].op_type in _BEHIND:
            source = makers[source].input[0]
        if value.name.startswith(_SCORE):
            added.append(helper.make_node("Sigmoid", [source], [value.name], f"{value.name}/map"))
        else:
            ends[source] = value.name
    for node in graph.node:
        for i, name in enumerate(node.output):
            if name in {value.name for value in graph.output}:
                node.output[i] = f"{name}/rows"  # removed below: nothing reads this any more
            elif name in ends:
                node.output[i] = ends[name]
        node.input[:] = [ends.get(name, name) for name in node.input]
    graph.node.extend(added)
    drop_unread(graph)


def _drop_batch_axis(model: onnx.ModelProto, a: Architecture) -> None:
    """Reshape every output to (rows, width), which only one image has."""
    import numpy as np
    from onnx import numpy_helper

    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for value in graph.output:
        node = makers[value.name]
        while node.op_type != "Reshape":
            if node.op_type not in _BEHIND:
                raise ArtifactError(f"{value.name}: {node.op_type} stands behind its last Reshape.")
            node = makers[node.input[0]]
        shape = np.array([-1, a.widths[value.name.partition("_")[0]]])
        name = f"{value.name}.flat"
        old = tensors.get(node.input[1])
        node.input[1] = name
        graph.initializer.append(numpy_helper.from_array(shape, name))
        if old is not None and not any(old.name in n.input for n in graph.node):
            graph.initializer.remove(old)


def declare_outputs(
    model: onnx.ModelProto,
    kind: OutputKind,
    a: Architecture,
    shape: tuple[int, int] | None,
    batch: int | None,
    faces: int = 0,
) -> None:
    """Rule 1: declare shapes (batch, anchors_8, 1) and so on, or the numbers of a fixed shape."""
    images: int | str
    if kind == "faces":
        images = batch if shape and batch else "batch"
        for value in model.graph.output:
            _declare(value, face_dims(a, value.name, images, faces))
        return
    for value in model.graph.output:
        _declare(value, output_dims(a, value.name, kind, shape, batch if shape else None))


def output_dims(
    a: Architecture,
    output: str,
    kind: OutputKind,
    shape: tuple[int, int] | None,
    batch: int | None,
) -> list[int | str]:
    """The dimensions of one output that is not faces, a name for each that is free."""
    name, _, stride = output.partition("_")
    width, images = a.widths[name], batch or "batch"
    rows: int | str = f"anchors_{stride}"
    sides: list[int | str] = [f"height_{stride}", f"width_{stride}"]
    if shape:
        sides = [side // int(stride) for side in shape]
        rows = a.rows(*shape)[output]
    dims: dict[str, list[int | str]] = {
        "raw": [images, rows, width],
        "flat": [rows, width],
        "maps": [images, a.anchors * width, *sides],
    }
    return dims[kind]


def _declare(value: onnx.ValueInfoProto, dims: list[int | str]) -> None:
    declared = value.type.tensor_type.shape
    del declared.dim[:]
    for dim in dims:
        if isinstance(dim, int):
            declared.dim.add().dim_value = dim
        else:
            declared.dim.add().dim_param = dim
