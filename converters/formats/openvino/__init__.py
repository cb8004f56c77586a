"""OpenVINO: a graph (.xml) and its weights (.bin), for Intel, AMD and ARM processors.

Where a processor has bfloat16, OpenVINO computes float32 models in it unless it is told not to:
models are opened with ``INFERENCE_PRECISION_HINT`` f32, and what the machine would do by itself
is measured beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.formats import Format, Source

if TYPE_CHECKING:
    from scrfdconv.converters.formats.convolution import Convolution
    from scrfdconv.converters.runner import Runner

_START = 1024  # bytes in which the root element of an .xml must begin, behind a comment perhaps


class OpenVino(Format):
    """OpenVINO's intermediate representation, version 11."""

    name = "openvino"
    title = "OpenVINO"
    summary = "Convert to OpenVINO (.xml and .bin) and verify; dynamic unless --shape."
    suffixes = (".xml", ".bin")
    precisions = ("fp32", "fp16", "int8")
    native_precisions = ("fp16",)  # half weights: the numbers of a run are the processor's choice
    libraries = ("openvino",)
    extra = "openvino"
    modules = ("openvino",)
    int8_target = "openvino"

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
        """Open ours or a foreign one with float32 arithmetic on the CPU."""
        from scrfdconv.converters.formats.openvino.runner import OpenVinoRunner

        return OpenVinoRunner(path, threads)

    def describe(self, path: Path) -> dict[str, Any]:
        """Operators, weights, and what this processor computes in by default."""
        from scrfdconv.converters.formats.openvino.reading import facts_of_model

        return super().describe(path) | facts_of_model(path)

    def convolutions(self, path: Path) -> Iterator[Convolution] | None:
        """The weights at rest."""
        from scrfdconv.converters.formats.openvino.reading import convolutions_of

        return convolutions_of(path)
