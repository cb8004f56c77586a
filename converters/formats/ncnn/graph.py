"""The ONNX graph as pnnx needs it: sizes of maps not computed, GroupNorm as one node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scrfdconv.converters.graph.edits import prepared, replace_all
from scrfdconv.converters.graph.model_file import image_input

if TYPE_CHECKING:
    import onnx

_GROUP_NORM_OPSET = 21  # the first one with a scale for each channel
_DOUBLE = (1.0, 1.0, 2.0, 2.0)


def for_pnnx(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of ``model`` with a batch of 1 and without arithmetic on shapes.

    1. Upsampling becomes doubling. Exports take the size of the map that is added, which pnnx
       cannot follow. For sides that are multiples of the largest stride, both are the same.
    2. GroupNorm, which exports spell as Reshape, InstanceNormalization, Reshape, Mul and Add,
       becomes one node, as ncnn has it.
    """
    result = prepared(model)
    graph = result.graph
    batch = image_input(result).type.tensor_type.shape.dim[0]
    batch.Clear()
    batch.dim_value = 1
    for output in graph.output:
        for dim in output.type.tensor_type.shape.dim:
            dim.Clear()
    del graph.value_info[:]
    _double_instead_of_sizes(graph)
    if _fuse_group_norms(graph):
        opset = next(o for o in result.opset_import if o.domain in ("", "ai.onnx"))
        opset.version = max(opset.version, _GROUP_NORM_OPSET)
    _drop_unread(graph)
    return result


def _double_instead_of_sizes(graph: onnx.GraphProto) -> None:
    from onnx import numpy_helper

    name = "scales.double"
    for node in graph.node:
        if node.op_type == "Resize":
            node.input[:] = [node.input[0], "", name]
    graph.initializer.append(numpy_helper.from_array(np.array(_DOUBLE, np.float32), name))


def _fuse_group_norms(graph: onnx.GraphProto) -> int:
    """Replace every spelled-out GroupNorm by one node; returns their number."""
    from onnx import helper, numpy_helper

    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    makers = {name: node for node in graph.node for name in node.output}
    readers = {name: node for node in graph.node for name in node.input}
    fused: dict[str, onnx.NodeProto] = {}
    for node in graph.node:
        if node.op_type != "InstanceNormalization":
            continue
        split = makers[node.input[0]]  # to (N, groups, -1)
        join = readers[node.output[0]]
        scale = readers[join.output[0]]
        shift = readers[scale.output[0]]
        kinds = [n.op_type for n in (split, join, scale, shift)]
        if kinds != ["Reshape", "Reshape", "Mul", "Add"]:
            continue
        groups = int(tensors[split.input[1]][1])
        constants = [_flat(graph, tensors, n) for n in (scale, shift)]
        epsilon = next(a.f for a in node.attribute if a.name == "epsilon")
        fused[shift.name] = helper.make_node(
            "GroupNormalization",
            [split.input[0], *constants],
            list(shift.output),
            shift.name,
            num_groups=groups,
            epsilon=epsilon,
        )
    replace_all(graph.node, [fused.get(node.name, node) for node in graph.node])
    return len(fused)


def _flat(graph: onnx.GraphProto, tensors: dict[str, np.ndarray], node: onnx.NodeProto) -> str:
    """The constant operand of ``node`` as one value for each channel, under a name of its own."""
    from onnx import numpy_helper

    operand = next(name for name in node.input if name in tensors)
    name = f"{operand}.flat"
    if name not in tensors:
        tensors[name] = tensors[operand].reshape(-1)
        graph.initializer.append(numpy_helper.from_array(tensors[name], name))
    return name


def _drop_unread(graph: onnx.GraphProto) -> None:
    """Remove the nodes and constants that nothing reads any more."""
    wanted = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if wanted.intersection(node.output):
            kept.append(node)
            wanted.update(node.input)
    replace_all(graph.node, list(reversed(kept)))
    replace_all(graph.initializer, [t for t in graph.initializer if t.name in wanted])
