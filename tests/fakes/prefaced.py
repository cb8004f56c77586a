"""Detectors as other tools prepare them: operators before the first convolution."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import helper, numpy_helper

PREFACES = {
    "identity": (),
    "bytes": ("Cast", "Sub", "Div"),
    "frame": ("Cast", "Transpose", "Gather", "Sub", "Mul"),  # uint8 NHWC, BGR
    "transpose first": ("Transpose", "Slice", "Cast", "Add", "Div"),
    "unit": ("UnitSub", "UnitDiv"),  # 0 to 1, as torchvision's Normalize has them
    "batch norm": ("Cast", "BatchNormalization"),
    "channels last": ("Transpose",),
}
NHWC = ("frame", "transpose first", "channels last")
BYTES = ("bytes", "frame", "transpose first", "batch norm")
BGR = ("frame", "transpose first")
MEAN, STD = np.float32(127.5), np.float32(128)
SPREAD = np.ones((1, 3, 1, 1), np.float32)
ONES = np.ones(3, np.float32)
STEPS = {  # operator, constants behind the picture, attributes
    "Identity": ("Identity", [], {}),
    "Cast": ("Cast", [], {"to": onnx.TensorProto.FLOAT}),
    "Transpose": ("Transpose", [], {"perm": [0, 3, 1, 2]}),
    "Gather": ("Gather", [[2, 1, 0]], {"axis": 1}),
    "Slice": ("Slice", [[-1], [-4], [1], [-1]], {}),  # axis 1 backwards
    "Sub": ("Sub", [MEAN * SPREAD], {}),
    "Add": ("Add", [-MEAN * SPREAD], {}),
    "Div": ("Div", [STD * SPREAD], {}),
    "Mul": ("Mul", [SPREAD / STD], {}),
    "UnitSub": ("Sub", [np.float32(0.5)], {}),
    "UnitDiv": ("Div", [STD / np.float32(255)], {}),
    "BatchNormalization": (
        "BatchNormalization",
        [ONES, 0 * ONES, MEAN * ONES, STD**2 * ONES],
        {"epsilon": 0.0},
    ),
}


def prefaced(source: Path, out: Path, kind: str, *, metadata: bool = False) -> Path:
    """Write a copy of ``source`` that does in its graph what ``kind`` says."""
    model = onnx.load(source)
    graph = model.graph
    image = graph.input[0]
    network = "network"
    for node in graph.node:
        node.input[:] = [network if name == image.name else name for name in node.input]
    at, nodes = image.name, []
    steps = PREFACES[kind] or ("Identity",)
    for i, step in enumerate(steps):
        to = network if i == len(steps) - 1 else f"{step}.{i}"
        nodes.append(_node(graph, step, at, to))
        at = to
    rest = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *rest])
    dims = [dim.dim_param or dim.dim_value for dim in image.type.tensor_type.shape.dim]
    if kind in NHWC:
        dims = [dims[i] for i in (0, 2, 3, 1)]
    type_ = onnx.TensorProto.UINT8 if kind in BYTES else onnx.TensorProto.FLOAT
    graph.input[0].CopyFrom(helper.make_tensor_value_info(image.name, type_, dims))
    if not metadata:
        del model.metadata_props[:]
    onnx.checker.check_model(model)
    onnx.save(model, out)
    return out


def _node(graph: onnx.GraphProto, step: str, at: str, to: str) -> onnx.NodeProto:
    operator, constants, attributes = STEPS[step]
    names = [f"{step}.input{i}" for i in range(len(constants))]
    for name, value in zip(names, constants, strict=True):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return helper.make_node(operator, [at, *names], [to], step, **attributes)
