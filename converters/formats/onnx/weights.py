"""The weights of an ONNX model at rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scrfdconv.converters.graph.convolution import Convolution
from scrfdconv.converters.graph.model_file import load_onnx
from scrfdconv.converters.graph.passes import simplify


def convolutions_of_onnx(path: Path) -> Iterator[Convolution]:
    """Every Conv of a float or FP16 ONNX model."""
    from onnx import numpy_helper

    model = load_onnx(path)
    if any(node.op_type in ("BatchNormalization", "Identity") for node in model.graph.node):
        model = simplify(model)  # foreign exports may leave BatchNorms and shared weights so
    graph = model.graph
    tensors = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    tensors |= {
        n.output[0]: numpy_helper.to_array(n.attribute[0].t)
        for n in graph.node
        if n.op_type == "Constant" and n.attribute[0].name == "value"
    }
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in tensors:
            weight = tensors[node.input[1]]
            bias = tensors.get("".join(node.input[2:]), np.zeros(len(weight)))
            yield Convolution(node.name or node.output[0], weight, bias)
