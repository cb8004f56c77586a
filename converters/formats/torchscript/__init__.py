"""TorchScript: traced, frozen, one file that loads with torch alone.

torch deprecates TorchScript: a DeprecationWarning in 2.13, a FutureWarning in 2.15. TorchScript
still runs everywhere that libtorch runs, so the format stays, and the one warning is suppressed on
purpose.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrfdconv.converters.formats import Format, Source
from scrfdconv.converters.options import SizeOptions

if TYPE_CHECKING:
    from scrfdconv.converters.graph.convolution import Convolution
    from scrfdconv.converters.runner import Runner


class TorchScript(Format):
    """A traced and frozen module."""

    name = "torchscript"
    title = "TorchScript"
    summary = "Trace and freeze to TorchScript and verify; dynamic unless --shape."
    suffixes = (".pt",)
    source = "pytorch"
    options = SizeOptions
    libraries = ("torch",)
    modules = ("torch",)
    fresh_process = True

    def recognises(self, path: Path, head: bytes) -> bool:
        """True for torch's archives with code in them."""
        from scrfdconv.converters.system.archive import archive_members

        return "constants.pkl" in (archive_members(path) or ())

    def build(self, source: Source, options: Any, out: Path, precision: str) -> None:
        """Trace the network; it reads sizes from its input, unless the shape is fixed."""
        from scrfdconv.converters.formats.torchscript.tracing import torchscript_from_checkpoint

        out.write_bytes(torchscript_from_checkpoint(source, options))  # type: ignore[arg-type]

    def open(self, path: Path, threads: int | None = None) -> Runner:
        """Load a TorchScript file with the outputs of an SCRFD."""
        from scrfdconv.converters.formats.torchscript.runner import TorchScriptRunner

        return TorchScriptRunner(path, threads)

    def describe(self, path: Path) -> dict[str, Any]:
        """What the archive says; no code in it runs."""
        from scrfdconv.converters.formats.torchscript.archive import describe_archive

        return describe_archive(path)

    def convolutions(self, path: Path) -> Iterator[Convolution]:
        """Every convolution with constant weights."""
        from scrfdconv.converters.formats.torchscript.weights import convolutions_of_torchscript

        return convolutions_of_torchscript(path)

    def remark(self, precision: str) -> str:
        """TorchScript is on its way out."""
        return "torch calls it deprecated; it still runs"
