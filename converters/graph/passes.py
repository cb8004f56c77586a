"""The passes over an exported ONNX graph, in the order in which they run: one function each.

Rules 1 and 2 stand at the head of ``formats/onnx/building.py``.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.metadata import package_version
from scrfdconv.converters.network.architecture import Architecture
from scrfdconv.converters.runner import INPUT_NAME

if TYPE_CHECKING:
    import onnx


def axis_names(a: Architecture) -> dict[str, dict[int, str]]:
    """Names of the free axes of the input and of every output."""
    # One name per size: a shared name would promise equal sizes, and runtimes reuse buffers by it.
    axes = {INPUT_NAME: {0: "batch", 2: "height", 3: "width"}}
    return axes | {n: {0: "batch", 1: f"anchors_{n.rpartition('_')[2]}"} for n in a.output_names}


def use_own_axis_names(model: onnx.ModelProto, a: Architecture) -> None:
    """Rule 1 for the input: dynamo names axes like s77. Inner shapes are inferred anew."""
    del model.graph.value_info[:]
    axes = axis_names(a)
    for value in (*model.graph.input, *model.graph.output):
        for i, dim in enumerate(value.type.tensor_type.shape.dim):
            if i in axes[value.name]:
                dim.dim_param = axes[value.name][i]


def pin_output_reshapes(model: onnx.ModelProto, a: Architecture) -> None:
    """Give the last Reshapes of every output constant shapes (0, -1, width).

    The exporters compute these shapes from the batch at run time (Shape, Gather, Concat). 0 means
    "as the input" and serves every batch, so that these nodes are not needed.
    """
    makers = {output: node for node in model.graph.node for output in node.output}
    for name in a.output_names:
        kind = name.partition("_")[0]
        last = _reshape_before(name, makers)
        _pin(model, last, a.widths[kind], f"{name}.shape")
        if kind == "bbox" and a.box_bins:
            _pin(model, _reshape_before(last.input[0], makers), a.box_bins, f"{name}.bins")


def _reshape_before(name: str, makers: Mapping[str, onnx.NodeProto]) -> onnx.NodeProto:
    node = makers[name]
    while node.op_type != "Reshape":
        if node.op_type not in ("Sigmoid", "Identity", "MatMul", "Softmax"):
            raise AssertionError(f"{name}: {node.op_type} behind the last Reshape")
        node = makers[node.input[0]]
    return node


def _pin(model: onnx.ModelProto, node: onnx.NodeProto, width: int, name: str) -> None:
    from onnx import numpy_helper

    shape = numpy_helper.from_array(np.array([0, -1, width]), name)
    model.graph.initializer.append(shape)
    node.input[1] = shape.name
    del node.attribute[:]  # dynamo's allowzero=1, under which 0 means an empty axis


def simplify(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph with the same outputs and fewer nodes; ArtifactError if there is none."""
    import onnx

    onnxsim = _simplifier()
    try:
        # certify: by default it depends on whether an SMT solver happens to be installed
        with redirect_stdout(StringIO()):  # names of unknown operators would be printed there
            smaller, ok = onnxsim.simplify(model, check_n=0, certify=False)
    except (RuntimeError, ValueError) as error:
        raise ArtifactError(f"{model.graph.name}: cannot be simplified: {error}.") from error
    if not ok:
        raise ArtifactError(f"{model.graph.name}: the simplifier says that it changed the model.")
    assert isinstance(smaller, onnx.ModelProto)
    del smaller.graph.value_info[:]  # inferred shapes, with counters for names; rule 2
    return smaller


def _simplifier() -> Any:
    """The module onnxsim, without torch where nothing else has loaded that.

    Its bridge to the quantizer PPQ, which nobody here uses, would load torch for two seconds; it
    takes torch for missing here, and goes without.
    """
    hidden = "torch" not in sys.modules
    if hidden:
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` an error
    try:
        return importlib.import_module("onnxsim")
    finally:
        if hidden:
            del sys.modules["torch"]


def constants_as_initializers(graph: onnx.GraphProto) -> None:
    """Make every constant an initializer: tools that edit weights look only there."""
    nodes = [n for n in graph.node if n.op_type == "Constant" and n.attribute[0].name == "value"]
    for node in nodes:
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        graph.initializer.append(tensor)
        graph.node.remove(node)


def use_own_tensor_names(model: onnx.ModelProto) -> None:
    """Name constants after their first reader, and sort them in the order of these readers.

    Exporters and the simplifier number constants, and keep the order in which they met them.
    """
    graph = model.graph
    slots = {"Conv": {1: "weight", 2: "bias"}, "Reshape": {1: "shape"}, "Resize": {2: "scales"}}
    constants = {tensor.name for tensor in graph.initializer}
    renamed: dict[str, str] = {}
    for node in graph.node:
        for i, name in enumerate(node.input):
            if name in constants and name not in renamed:
                slot = slots.get(node.op_type, {}).get(i, f"input{i}")
                renamed[name] = f"{node.name.strip('/').replace('/', '.')}.{slot}"
    assert len(set(renamed.values())) == len(renamed)
    by_name = {tensor.name: tensor for tensor in graph.initializer}
    ordered = [by_name[name] for name in (*renamed, *sorted(by_name.keys() - renamed.keys()))]
    rewritten = type(graph)(initializer=ordered)  # copies, before the originals go
    graph.ClearField("initializer")
    graph.initializer.extend(rewritten.initializer)
    for tensor in graph.initializer:
        tensor.name = _tidy(renamed.get(tensor.name, tensor.name))
    for node in graph.node:
        node.name = _tidy(node.name)
        node.input[:] = [_tidy(renamed.get(name, name)) for name in node.input]
        node.output[:] = [_tidy(name) for name in node.output]


def _tidy(name: str) -> str:
    """Mmdet's ``(8, 8)`` as ``8``: names are typed in shells."""
    return re.sub(r"\((\d+), \1\)", r"\1", name)


def describe(model: onnx.ModelProto, metadata: Mapping[str, str], name: str) -> None:
    """Rule 2: our names and metadata, and nothing of the tools that were used."""
    model.producer_name, model.producer_version = "scrfdconv", package_version()
    model.graph.name = name
    model.doc_string = ""
    set_metadata(model, metadata)


def set_metadata(model: onnx.ModelProto, metadata: Mapping[str, str]) -> None:
    """Rule 2: these metadata and no others, anywhere in the model."""
    import onnx

    graph = model.graph
    items: list[Any] = [graph, *graph.node, *graph.input, *graph.output]
    for item in items:
        item.doc_string = ""
        del item.metadata_props[:]  # dynamo's stack traces, with local paths
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(sorted(metadata.items())))
