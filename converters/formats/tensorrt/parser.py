"""What NVIDIA's own parser makes of an ONNX: measured, without a GPU, by TensorRT for RTX.

Plain TensorRT parses nothing without a driver. The parser of both packages is onnx-tensorrt, and a
strongly typed network has the types that the engine will have.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.formats import Finding, Lint
from scrfdconv.converters.formats.tensorrt.api import RTX, tensorrt
from scrfdconv.converters.formats.tensorrt.build import parsed_network

CHECK = "parser"


@dataclass(frozen=True)
class TypedNetwork:
    """The layers of a parsed network."""

    layers: int
    convolutions: Mapping[str, int]  # precision -> number

    def __str__(self) -> str:
        counts = ", ".join(f"{count} {kind}" for kind, count in self.convolutions.items())
        return f"{self.layers} layers, convolutions: {counts or 'none'}"


def typed_network(model: bytes) -> TypedNetwork:
    """Parse an ONNX; raises ArtifactError, with what the parser says, where it is refused."""
    trt, parsed = tensorrt(RTX), parsed_network(model, RTX)
    network = parsed.network
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    dequantized = {
        typed_layer.get_output(0).name
        for typed_layer in layers
        if typed_layer.type == trt.LayerType.DEQUANTIZE
    }
    kinds = Counter(
        _kind(trt, typed_layer, dequantized)
        for typed_layer in layers
        if typed_layer.type == trt.LayerType.CONVOLUTION
    )
    return TypedNetwork(len(layers), dict(sorted(kinds.items())))


def _kind(trt: Any, typed_layer: Any, dequantized: set[str]) -> str:
    """int8 needs weights of 8 bits, too: a float convolution may read what another one rounds."""
    inputs = [typed_layer.get_input(index) for index in range(typed_layer.num_inputs)]
    if [tensor.name in dequantized for tensor in inputs[:2]] == [True, True]:
        return "int8"
    known = {trt.DataType.FLOAT: "fp32", trt.DataType.HALF: "fp16", trt.DataType.BF16: "bf16"}
    return known.get(inputs[0].dtype, str(inputs[0].dtype))


def parser_lint(path: Path) -> Lint:
    """Whether NVIDIA's parser takes a file, with which types; a remark where it is not here."""
    if not RTX.is_installed:
        return Lint(
            remarks=(
                "judged by rules alone: NVIDIA's own parser, which needs no GPU, comes with pip "
                f"install 'scrfdconv[{RTX.extra}]'",
            )
        )
    name = f"{RTX.title} {tensorrt(RTX).__version__}"
    try:
        typed = typed_network(path.read_bytes())
    except ArtifactError as error:
        refused = Finding(
            check=CHECK, subject=name, metric="faults", measured=1, limit=0, detail=str(error)
        )
        return Lint(findings=(refused,))
    return Lint(
        findings=tuple(_findings(path, name, typed)),
        remarks=(f"NVIDIA's parser ({name}) takes this file: {typed}",),
    )


def _findings(path: Path, name: str, typed: TypedNetwork) -> Iterator[Finding]:
    """The file was taken, and the network computes in what the graph says."""
    from scrfdconv.converters.graph.model_file import load_onnx
    from scrfdconv.converters.graph.number_types import convolutions

    yield Finding(check=CHECK, subject=name, metric="faults", measured=0, limit=0)
    meant = Counter(kind for _, kind in convolutions(load_onnx(path)))
    for kind, count in meant.items():
        yield Finding(
            check=CHECK,
            subject=name,
            metric=f"convolutions in {kind}",
            measured=typed.convolutions.get(kind, 0),
            limit=count,
            at_least=True,
            detail=str(typed),
        )
