"""The ONNX graph as pnnx needs it: sizes of maps not computed, GroupNorm as one node."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scrfdconv.converters.graph.edits import drop_unread, prepared, replace_all
from scrfdconv.converters.graph.model_file import image_input
from scrfdconv.converters.lifting.graph import Graph, Node
from scrfdconv.converters.lifting.units import EPSILON, Norm, norm_after

if TYPE_CHECKING:
    import onnx

_GROUP_NORM_OPSET = 21  # the first one with a scale for each channel
_DOUBLE = (1.0, 1.0, 2.0, 2.0)


def for_pnnx(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """A copy of ``model`` with a batch of 1 and without arithmetic on shapes.

    ``where`` names the file in errors; raises ArtifactError for a norm of another form.

    1. Upsampling becomes doubling. Exports take the size of the map that is added, which pnnx
       cannot follow. For sides that are multiples of the largest stride, both are the same.
    2. GroupNorm, which exports spell with a dozen nodes, becomes one node, as ncnn has it.
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
    if _fuse_group_norms(result, where):
        opset = next(o for o in result.opset_import if o.domain in ("", "ai.onnx"))
        opset.version = max(opset.version, _GROUP_NORM_OPSET)
    drop_unread(graph)
    return result


def _double_instead_of_sizes(graph: onnx.GraphProto) -> None:
    from onnx import numpy_helper

    name = "scales.double"
    for node in graph.node:
        if node.op_type == "Resize":
            node.input[:] = [node.input[0], "", name]
    graph.initializer.append(numpy_helper.from_array(np.array(_DOUBLE, np.float32), name))


def _fuse_group_norms(model: onnx.ModelProto, where: str) -> int:
    """Replace every spelled-out GroupNorm by one node; returns their number."""
    graph = Graph(model, where)
    fused: dict[str, onnx.NodeProto] = {}
    for node in graph.live:
        if node.operator != "Conv":
            continue
        norm, nodes = norm_after(graph, node.output, graph.channels(node.output))
        if norm and norm.kind == "gn":
            fused[nodes[-1].output] = _one_node(model.graph, norm, node.output, nodes[-1])
    replace_all(model.graph.node, [fused.get(n.output[0], n) for n in model.graph.node])
    return len(fused)


def _one_node(graph: onnx.GraphProto, norm: Norm, source: str, last: Node) -> onnx.NodeProto:
    """GroupNorm of ``source`` in place of the node that was the ``last`` of its nodes."""
    from onnx import helper, numpy_helper

    names = [f"{last.output}.scale", f"{last.output}.shift"]
    for name, values in zip(names, (norm.weight, norm.bias), strict=True):
        graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), name))
    return helper.make_node(
        "GroupNormalization",
        [source, *names],
        [last.output],
        last.name,
        num_groups=norm.groups,
        epsilon=EPSILON,
    )
