"""OpenVINO: a graph (.xml) and its weights (.bin), for Intel, AMD and ARM processors.

On a processor with bfloat16, OpenVINO computes float32 models in bfloat16 by default. So models are
opened with ``INFERENCE_PRECISION_HINT`` f32, and the default is measured beside f32.

INT8 comes from our own search, arranged for OpenVINO (``--target openvino``: unsigned activations,
the first convolution included, score convolutions in float). The table says how many times as fast
as float32 in ONNX Runtime a model is. Measured with 2.5G_KPS at 640x640 on 40 photographs with 414
faces, on a processor with AVX512-VNNI and without AMX, one thread, interleaved rounds. In column
bf16, the layers that are not quantized compute in bfloat16.

| model | f32 | bf16 | faces lost / won | mean IoU |
|---|---|---|---|---|
| float32 | 1.16 | 2.23 | 0 / 0 | 1.000, bf16 0.996 |
| ``--target openvino`` | 3.67 | 3.81 | 0 / 0 | 0.989 |
| ``--target cpu`` | 3.32 | 3.52 | 0 / 0 | 0.990 |
| ``--target tensorrt`` | 3.35 | 3.40 | 1 / 1 | 0.986 |
| score convolutions quantized, too | 3.74 | 3.83 | 0 / 3, bf16 0 / 1 | 0.988 |
| NNCF 3.4, 24 pictures | 3.77 | 3.85 | 1 / 1 | 0.982 |
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.formats import Format, Source
from scrfdconv.converters.signature import Serving

if TYPE_CHECKING:
    from scrfdconv.converters.graph.convolution import Convolution
    from scrfdconv.converters.layers import Layers
    from scrfdconv.converters.runner import Runner
    from scrfdconv.converters.signature import Signature

_START = 1024  # bytes in which the root element of an .xml must begin, behind a comment perhaps


class OpenVino(Format):
    """OpenVINO's intermediate representation, version 11."""

    name = "openvino"
    title = "OpenVINO"
    summary = "Convert to OpenVINO (.xml and .bin) and verify; dynamic unless --shape."
    suffixes = (".xml", ".bin")
    precisions = ("fp32", "fp16", "int8")
    native_precisions = ("fp16",)  # half weights: the processor chooses the arithmetic
    libraries = ("openvino",)
    extra = "openvino"
    modules = ("openvino",)
    int8_target = "openvino"
    judges_int8 = True  # its kernels round in other places than those of ONNX Runtime
    serving = Serving(backend="openvino", file="model.xml", cpu_only=True)

    def recognises(self, path: Path, head: bytes) -> bool:
        """True for XML whose root is a ``net``."""
        if not head.lstrip().startswith(b"<"):
            return False
        with path.open("rb") as file:
            return b"<net " in file.read(_START)

    def build(self, source: Source, options: Any, out: Path, precision: str) -> None:
        """Convert an ONNX file; ``fp16`` halves the weights, ``int8`` needs an INT8 ONNX."""
        from scrfdconv.converters.formats.openvino.building import write_model

        assert isinstance(source, Artifact)
        write_model(source.path, out, precision)

    def open(self, path: Path, threads: int | None = None) -> Runner:
        """Open a model, ours or foreign, with float32 arithmetic on the CPU."""
        from scrfdconv.converters.formats.openvino.runner import OpenVinoRunner

        return OpenVinoRunner(path, threads)

    def signature(self, path: Path) -> Signature:
        """What the graph declares."""
        from scrfdconv.converters.formats.openvino.reading import signature_of

        return signature_of(path)

    def describe(self, path: Path) -> dict[str, Any]:
        """Operators, weights, and the arithmetic of float32 models on this processor."""
        from scrfdconv.converters.formats.openvino.reading import facts_of_model
        from scrfdconv.converters.formats.openvino.runner import OpenVinoRunner
        from scrfdconv.converters.graph.facts import facts_of_runner

        runner = OpenVinoRunner(path, by_default=True)
        arithmetic = {"computes_by_default_in": runner.computes_in}
        return facts_of_model(path) | facts_of_runner(runner) | arithmetic

    def precision_of(self, path: Path) -> str:
        """The coarsest numbers in the graph."""
        from scrfdconv.converters.formats.openvino.api import read_model
        from scrfdconv.converters.formats.openvino.reading import stored_precision

        return stored_precision(read_model(path))

    def remark(self, precision: str) -> str:
        """FP16 says how weights are stored, not how a processor computes."""
        return "half weights; the processor chooses the arithmetic" if precision == "fp16" else ""

    def convolutions(self, path: Path) -> Iterator[Convolution] | None:
        """The weights at rest, those of 8 bits in steps; None where they cannot be read."""
        from scrfdconv.converters.formats.openvino.reading import convolutions_of

        found = convolutions_of(path)
        return None if found is None else iter(found)

    def layers(self, path: Path) -> Layers | None:
        """The file in pieces."""
        from scrfdconv.converters.formats.openvino.layers import OpenVinoLayers

        return OpenVinoLayers(path)
