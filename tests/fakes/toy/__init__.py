"""A format for tests: two files, an option of its own, and a library that most machines lack.

``model.toy`` says what ``model.weights`` must be; the weights are an ONNX file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from scrfdconv.converters.artifact import Artifact, digest_of
from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.formats import Finding, Format, Source
from scrfdconv.converters.options import Option, Options

MAGIC = b'{"toy"'


@dataclass(frozen=True, kw_only=True)
class ToyOptions(Options):
    """How the toy is made."""

    flavour: Annotated[
        Literal["plain", "spiced"], Option(help="How the toy tastes.", in_name="{}")
    ] = "plain"


class Toy(Format):
    """The toy itself."""

    name = "toy"
    title = "Toy"
    summary = "Make a toy of two files and verify it."
    suffixes = (".toy", ".weights")
    precisions = ("fp32", "fp16")
    options = ToyOptions
    libraries = ("numpy",)
    modules = ("toylibrary",)
    extra = "toy"

    def recognises(self, path: Path, head: bytes) -> bool:
        return head.startswith(MAGIC)

    def build(self, source: Source, options: Any, out: Path, precision: str) -> None:
        assert isinstance(source, Artifact)
        (weights,) = self.companions(out)
        weights.write_bytes(source.path.read_bytes())
        content = {"toy": options.flavour, "precision": precision, "sha256": digest_of(weights)}
        out.write_text(json.dumps(content))

    def open(self, path: Path, threads: int | None = None) -> Any:
        from scrfdconv.converters.graph.onnx_runner import OnnxRunner

        (weights,) = self.companions(path)
        content = json.loads(path.read_text())
        if not weights.is_file() or digest_of(weights) != content["sha256"]:
            raise ArtifactError(f"{path}: {weights.name} beside it is another model's.")
        return OnnxRunner(weights, threads)

    def findings(self, runner: Any) -> Iterator[Finding]:
        yield Finding(check="toy", subject="toy", metric="faults", measured=0, limit=0)
