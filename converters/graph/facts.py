"""What ``inspect`` says of model files, whatever their format."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from scrfdconv.converters.input_form import PLAIN
from scrfdconv.converters.metadata import architecture_from_metadata
from scrfdconv.converters.network.architecture import Architecture
from scrfdconv.converters.network.complexity import complexity
from scrfdconv.converters.normalization import Normalization
from scrfdconv.converters.runner import Interface, Runner
from scrfdconv.converters.signature import Signature, Tensor

_TYPES = {1: "float32", 2: "uint8", 3: "int8", 10: "float16"}  # onnx.TensorProto.DataType


def facts_of_architecture(architecture: Architecture) -> dict[str, Any]:
    """Name, size and cost of a network, and everything that determines it."""
    cost = complexity(architecture)
    return {
        "model": architecture.name,
        "parameters": cost.parameters,
        "gflops_vga": round(cost.flops / 1e9, 4),
        "architecture": architecture.to_dict(),
        "outputs": list(architecture.output_names),
    }


def facts_of_normalization(normalization: Normalization, *, stated: bool) -> dict[str, Any]:
    """How pictures for a model are prepared, and whether the model says so."""
    return {"normalization": f"{normalization}{'' if stated else ' (assumed: nothing says it)'}"}


def _facts_of_pictures(interface: Interface) -> dict[str, Any]:
    """What a photograph becomes for the file, and for the network in it."""
    form, stated = interface.form, interface.stated is not None
    if form == PLAIN:
        return facts_of_normalization(interface.normalization, stated=stated)
    facts = facts_of_normalization(interface.normalization, stated=stated) if stated else {}
    return {**facts, "input_form": form.words(interface.normalization)}


def facts_of_runner(runner: Runner) -> dict[str, Any]:
    """What an opened model takes and returns, and what it says of itself."""
    interface = runner.interface
    sizes = (interface.batch, interface.channels, interface.height, interface.width)
    dims = interface.form.dims(sizes)
    facts: dict[str, Any] = {
        "takes": [dim or "any" for dim in dims],
        "returns": list(runner.face_names or interface.outputs),
        **({"extra_outputs": list(interface.extras)} if interface.extras else {}),
        **({"remark": runner.remark} if runner.remark else {}),
        **_facts_of_pictures(interface),
        "precision": runner.precision,
        "metadata": {k: v for k, v in runner.metadata.items() if k != "architecture"},
    }
    architecture = architecture_from_metadata(runner.metadata)
    return {**facts_of_architecture(architecture), **facts} if architecture else facts


def facts_of_onnx(path: Path) -> dict[str, Any]:
    """What an ONNX file declares."""
    from onnx import numpy_helper

    from scrfdconv.converters.graph.model_file import load_onnx, opset_of

    model = load_onnx(path)
    constants = {tensor.name for tensor in model.graph.initializer}
    return {
        "opset": opset_of(model),
        "ir_version": model.ir_version,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "inputs": {v.name: _declared(v) for v in model.graph.input if v.name not in constants},
        "declared_outputs": {v.name: _declared(v) for v in model.graph.output},
        "nodes": len(model.graph.node),
        "operators": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "constants": sum(numpy_helper.to_array(t).size for t in model.graph.initializer),
    }


def signature_of_onnx(path: Path) -> Signature:
    """The inputs and outputs that an ONNX file declares; constants among its inputs are none."""
    from scrfdconv.converters.graph.model_file import load_onnx

    graph = load_onnx(path).graph
    constants = {tensor.name for tensor in graph.initializer}
    return Signature(
        inputs=tuple(_tensor(value) for value in graph.input if value.name not in constants),
        outputs=tuple(_tensor(value) for value in graph.output),
    )


def _tensor(value: Any) -> Tensor:
    from onnx.helper import tensor_dtype_to_np_dtype

    declared = value.type.tensor_type
    dims = tuple(dim.dim_value or None for dim in declared.shape.dim)
    kind = str(tensor_dtype_to_np_dtype(declared.elem_type))
    return Tensor(name=value.name, kind=kind, dims=dims)


def _declared(value: Any) -> str:
    tensor = value.type.tensor_type
    dims = [d.dim_param or d.dim_value or "?" for d in tensor.shape.dim]
    return f"{_TYPES.get(tensor.elem_type, tensor.elem_type)} {dims}".replace("'", "")
