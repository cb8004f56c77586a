"""What an engine says of its layers: EngineInspector's JSON, in the forms of TensorRT 10 and 11.

10: {"Layers": [...], "Bindings": ["input.1", ...]}, tensors with "Format/Datatype".
11: {"Layers": [...], "I/O Tensors": [{"Name": ...}, ...]}, tensors with "Format" and "Datatype".
(NVIDIA, "Migrating IEngineInspector Usage from TensorRT 10.x to 11.x".)
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.structured import json_as, plain_as

# Words of both forms for a type, lower case, in the order in which they are looked for:
# "Thirty-two wide channel vectorized row major Int8 format" says a width, too.
_TYPES = (
    ("int8", r"int8"),
    ("fp8", r"fp8"),
    ("bf16", r"bf16|bfloat16"),
    ("fp16", r"fp16|half|float16"),
    ("fp32", r"fp32|float"),
)
# Names that convolutions go by: CaskConvolution and Convolution of the core, correlation and
# gemm (1x1) of its Myelin compiler.
_CONVOLUTIONS = re.compile(r"conv|correlation|gemm", re.IGNORECASE)
_CONV_NODE = re.compile(r"\[ONNX Layer: [^\]]*\bConv(_\d+)?\]")
_MOVES = re.compile(r"reformat|copy|shuffle|constant|signal|wait", re.IGNORECASE)


@dataclass(frozen=True)
class EngineLayers:
    """The layers of an engine, counted."""

    layers: int
    convolutions: dict[str, int]  # precision of their input -> number
    tensors: tuple[str, ...]  # inputs and outputs
    detailed: bool  # False: built without detailed verbosity, so that only names are known

    @property
    def precision(self) -> str | None:
        """The engine's precision, as for ONNX: the lowest one in it; None if unknown."""
        known = [p for p in ("int8", "fp16", "fp32") if self.convolutions.get(p)]
        return known[0] if known else None


def engine_layers(engine: Any, trt: Any) -> EngineLayers:
    """The layers of an opened engine."""
    inspector = engine.create_engine_inspector()
    return layers_from_json(inspector.get_engine_information(trt.LayerInformationFormat.JSON))


def layers_from_json(text: str) -> EngineLayers:
    """Read EngineInspector's answer for a whole engine."""
    where = f"EngineInspector answers in an unknown form: {text[:80]!r}"
    content = json_as(text, dict[str, Any], where, error=ArtifactError)
    layers = plain_as(content.get("Layers"), list[Any], where, "list", error=ArtifactError)
    tensors = content.get("I/O Tensors", content.get("Bindings", []))
    detailed = [layer for layer in layers if isinstance(layer, dict)]
    kinds = Counter(_precision(layer) for layer in detailed if _is_convolution(layer))
    return EngineLayers(
        len(layers),
        dict(sorted(kinds.items())),
        tuple(t["Name"] if isinstance(t, dict) else str(t) for t in tensors),
        detailed=bool(detailed) and any("Inputs" in layer for layer in detailed),
    )


def _is_convolution(layer: dict[str, Any]) -> bool:
    kind = f"{layer.get('LayerType', '')} {layer.get('ParameterType', '')}"
    if _MOVES.search(kind):
        return False
    return bool(_CONVOLUTIONS.search(kind) or _CONV_NODE.search(str(layer.get("Metadata", ""))))


def _precision(layer: dict[str, Any]) -> str:
    """The type of the first input, the image features: what the layer computes in."""
    inputs = layer.get("Inputs") or [{}]
    # Either form: every key that speaks of a type or a format, whatever its case.
    texts = [str(v) for k, v in inputs[0].items() if re.search("format|datatype", k, re.IGNORECASE)]
    text = " ".join(texts).lower()
    return next((name for name, words in _TYPES if re.search(words, text)), "unknown")
