"""MNN: one file for phones, as InspireFace and several Android projects ship SCRFD."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.formats import Format, Source

if TYPE_CHECKING:
    from scrfdconv.converters.graph.convolution import Convolution
    from scrfdconv.converters.runner import Runner


class Mnn(Format):
    """MNN's flatbuffer."""

    name = "mnn"
    title = "MNN"
    summary = "Convert to MNN and verify; dynamic unless --shape."
    suffixes = (".mnn",)
    precisions = ("fp32", "fp16", "int8")
    # MNN's converter offers half weights and weights of 8 bits. Activations stay float.
    native_precisions = ("fp16", "int8")
    libraries = ("MNN",)
    extra = "mnn"
    modules = ("MNN",)
    why_no_input_forms = "MNN's own ImageProcess prepares pictures"
    why_no_faces = "its converter does not keep the rows that faces are checked against"

    def recognises(self, path: Path, head: bytes) -> bool:
        """True for a flatbuffer whose root has layers where MNN has them."""
        from scrfdconv.converters.formats.mnn.reading import is_network

        return is_network(path, head)

    def build(self, source: Source, options: Any, out: Path, precision: str) -> None:
        """Convert an ONNX file; ``fp16`` and ``int8`` concern the weights only."""
        from scrfdconv.converters.formats.mnn.building import write_model

        assert isinstance(source, Artifact)
        write_model(source.path, out, precision)

    def open(self, path: Path, threads: int | None = None) -> Runner:
        """Open a model, ours or foreign, with precision "high" on the CPU."""
        from scrfdconv.converters.formats.mnn.runner import MnnRunner

        return MnnRunner(path, threads)

    def precision_of(self, path: Path) -> str:
        """The precision of the stored weights."""
        from scrfdconv.converters.formats.mnn.reading import read_network

        return read_network(path).precision

    def remark(self, precision: str) -> str:
        """The weights are smaller, the arithmetic is the device's choice."""
        kinds = {"fp16": "half weights", "int8": "weights of 8 bits"}
        told = kinds.get(precision)
        return f"{told}; the device chooses the arithmetic" if told else ""

    def describe(self, path: Path) -> dict[str, Any]:
        """Layers and weights, read without the library."""
        from scrfdconv.converters.formats.mnn.reading import facts_of_network, read_network

        return facts_of_network(read_network(path)) | super().describe(path)

    def convolutions(self, path: Path) -> Iterator[Convolution] | None:
        """The weights at rest; None where they have 8 bits."""
        from scrfdconv.converters.formats.mnn.reading import convolutions_of, read_network

        network = read_network(path)
        return None if network.precision == "int8" else convolutions_of(network)
