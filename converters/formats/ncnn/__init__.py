"""ncnn: a network as text (.param) and its weights (.bin), for phones, boards and browsers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats import Format, Source
from scrfdconv.converters.options import DYNAMIC
from scrfdconv.converters.system.libraries import missing

if TYPE_CHECKING:
    from scrfdconv.converters.graph.convolution import Convolution
    from scrfdconv.converters.layers import Layers
    from scrfdconv.converters.runner import Runner
    from scrfdconv.converters.signature import Signature

_MAGIC = b"7767517\n"  # the first line of every .param since 2017


class Ncnn(Format):
    """ncnn's text format, converted by pnnx."""

    name = "ncnn"
    title = "ncnn"
    summary = "Convert to ncnn (.param and .bin) and verify; dynamic in size unless --shape."
    suffixes = (".param", ".bin")
    precisions = ("fp32", "fp16")
    native_precisions = ("fp16",)
    libraries = ("pnnx",)
    extra = "ncnn"
    modules = ("pnnx", "ncnn")
    why_no_input_forms = "ncnn's own Mat::from_pixels and substract_mean_normalize prepare pictures"
    why_no_faces = "ncnn has no NonMaxSuppression"

    def recognises(self, path: Path, head: bytes) -> bool:
        """True for a text that begins with ncnn's number."""
        return head.replace(b"\r\n", b"\n").startswith(_MAGIC)

    def build(self, source: Source, options: Any, out: Path, precision: str) -> None:
        """Convert an ONNX file with pnnx; ``fp16`` halves the weights."""
        from scrfdconv.converters.formats.ncnn.building import write_model

        assert isinstance(source, Artifact)
        write_model(source.path, out, precision)

    def open(self, path: Path, threads: int | None = None) -> Runner:
        """Open a network, ours or foreign, with float32 arithmetic on the CPU."""
        from scrfdconv.converters.formats.ncnn.runner import NcnnRunner

        return NcnnRunner(path, threads)

    def signature(self, path: Path) -> Signature:
        """Names of the blobs, and the size of the picture where the text says it."""
        from scrfdconv.converters.formats.ncnn.reading import read_network, signature_of

        return signature_of(read_network(path))

    def describe(self, path: Path) -> dict[str, Any]:
        """Layers and weights, read without the library."""
        from scrfdconv.converters.formats.ncnn.reading import facts_of_network, read_network

        return facts_of_network(read_network(path)) | super().describe(path)

    def convolutions(self, path: Path) -> Iterator[Convolution] | None:
        """The weights at rest."""
        from scrfdconv.converters.formats.ncnn.reading import convolutions_of, read_network

        return convolutions_of(read_network(path))

    def layers(self, path: Path) -> Layers | None:
        """The network in pieces."""
        from scrfdconv.converters.formats.ncnn.layers import NcnnLayers

        return NcnnLayers(path)

    def precision_of(self, path: Path) -> str:
        """The precision of the stored weights."""
        from scrfdconv.converters.formats.ncnn.reading import read_network

        return read_network(path).precision

    keeps_metadata = False

    def why_not_run(self) -> str:
        """What this machine lacks to run a network; the converter is not needed."""
        return missing("ncnn", self.title, self.extra)

    def remark(self, precision: str) -> str:
        """FP16 says how weights are stored, not how a device computes."""
        return "half weights; the device chooses the arithmetic" if precision == "fp16" else ""

    def require_possible(self, source: Source, options: Any, sizes: Any) -> None:
        """Refuse a batch, and outputs without an axis that ncnn's outputs have not anyway."""
        if getattr(sizes, "outputs", None) == "flat":
            raise UsageError("--outputs flat: ncnn's raw outputs have no batch axis; leave it out.")
        if sizes.batch != 1:
            raise UsageError(
                f"--batch {sizes.batch or DYNAMIC}: ncnn takes one picture at a time; leave "
                "--batch out."
            )
