"""Everything that can be said about a model file without running it on images."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from scrfdconv.converters.artifact import digest_of, kind_of
from scrfdconv.converters.checkpoint.loading import load_checkpoint
from scrfdconv.converters.formats import formats
from scrfdconv.converters.metadata import architecture_from_metadata
from scrfdconv.converters.network.architecture import Architecture
from scrfdconv.converters.network.complexity import complexity


def describe(
    path: Path, recipe: str | None = None, config: Path | None = None, groups: int | None = None
) -> dict[str, Any]:
    """Facts about a checkpoint or an artifact, as plain types in reading order."""
    kind = kind_of(path)
    facts: dict[str, Any] = {
        "file": str(path),
        "kind": kind,
        "size": path.stat().st_size,
        "sha256": digest_of(path),
    }
    if kind == "pytorch":
        return facts | _checkpoint(path, recipe, config, groups)
    if kind == "tensorrt":
        from scrfdconv.recipes.tensorrt import describe_engine

        return facts | describe_engine(path)
    if kind == "onnx":
        facts |= _onnx(path)
    return facts | _artifact(path, kind)


def _checkpoint(
    path: Path, recipe: str | None, config: Path | None, groups: int | None
) -> dict[str, Any]:
    checkpoint = load_checkpoint(path, recipe=recipe, config=config, groups=groups)
    return {
        **_architecture(checkpoint.architecture),
        "recognised_by": checkpoint.recognised_by,
        "tensors": len(checkpoint.weights),
        "weights_sha256": checkpoint.weights_digest,
        "precision": "fp32",
        "notes": list(checkpoint.notes),
    }


def _architecture(architecture: Architecture) -> dict[str, Any]:
    cost = complexity(architecture)
    return {
        "model": architecture.name,
        "parameters": cost.parameters,
        "gflops_vga": round(cost.flops / 1e9, 4),
        "architecture": architecture.to_dict(),
        "outputs": list(architecture.output_names),
    }


def _onnx(path: Path) -> dict[str, Any]:
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


def _declared(value: Any) -> str:
    tensor = value.type.tensor_type
    dims = [d.dim_param or d.dim_value or "?" for d in tensor.shape.dim]
    return f"{_TYPES.get(tensor.elem_type, tensor.elem_type)} {dims}".replace("'", "")


_TYPES = {1: "float32", 2: "uint8", 3: "int8", 10: "float16"}  # onnx.TensorProto.DataType


def _artifact(path: Path, kind: str) -> dict[str, Any]:
    runner = formats()[kind].open(path)
    interface = runner.interface
    dims = [interface.batch, interface.channels, interface.height, interface.width]
    facts: dict[str, Any] = {
        "takes": [dim or "any" for dim in dims],
        "returns": list(interface.outputs),
        "precision": runner.precision,
        "metadata": {k: v for k, v in runner.metadata.items() if k != "architecture"},
    }
    architecture = architecture_from_metadata(runner.metadata)
    return {**_architecture(architecture), **facts} if architecture else facts
