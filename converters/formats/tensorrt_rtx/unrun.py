"""What is measured of an engine on a machine without a GPU: everything but what it computes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.formats import Finding
from scrfdconv.converters.formats.tensorrt.parser import parser_lint
from scrfdconv.converters.system.scratch import scratch_folder

if TYPE_CHECKING:
    from scrfdconv.converters.formats import Format

CHECK = "engine, not run"
# Of the ONNX's bytes: engines of our models have 1.3 to 2.9 times as many, and one that lost its
# weights would have a few thousand.
LEAST_SHARE = 0.5


def unrun_findings(maker: Format, path: Path, source: Artifact, options: Any) -> Iterator[Finding]:
    """The parser's findings, the size of the engine, and whether a second build has that size."""
    yield from parser_lint(source.path).findings
    yield Finding(
        check=CHECK,
        subject="engine",
        metric="bytes",
        measured=path.stat().st_size,
        limit=LEAST_SHARE * source.path.stat().st_size,
        at_least=True,
        detail="at least half of the ONNX's",
    )
    with scratch_folder() as folder:
        again = folder / path.name
        maker.build(source, options, again, source.precision)
        first, second = path.read_bytes(), again.read_bytes()
    # Engines with profiles are not repeated byte by byte: some 2000 bytes of 2 to 4 MB differ.
    differing = sum(one != other for one, other in zip(first, second, strict=False))
    yield Finding(
        check=CHECK,
        subject="second build",
        metric="size differs",
        measured=abs(len(first) - len(second)),
        limit=0,
        detail=f"{differing} of {len(first)} bytes differ",
    )
