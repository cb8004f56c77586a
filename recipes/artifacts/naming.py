"""What artifacts are called: NAME, the fixed shape, the precision, the suffix."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.precision import FLOAT

if TYPE_CHECKING:
    from scrfdconv.converters.formats import Source
    from scrfdconv.recipes.artifacts.target import Target


def default_output(
    name: str, suffix: str, shape: tuple[int, int] | None = None, precision: str = "fp32"
) -> Path:
    """``NAME_shapeHxW_fp16.onnx`` in the working directory, without parts that do not apply."""
    size = f"_shape{shape[0]}x{shape[1]}" if shape and "_shape" not in name else ""
    kind = "" if precision == "fp32" else f"_{precision}"
    return Path(f"{name}{size}{kind}{suffix}")


def default_path(source: Source, target: Target) -> Path:
    """The default name of an artifact of ``source``; a source's name has its precision already."""
    maker = target.maker
    own = FLOAT
    graph = maker.chain()[0]
    if isinstance(source, Artifact) and source.format == graph.name:
        own = graph.precision_of(source.path)
    precision = target.precision or own
    shown = FLOAT if precision == own else precision
    kind = getattr(target.sizes, "outputs", None) or "raw"  # of the graph on the way
    name = source.name if kind == "raw" else f"{source.name}_{kind}"
    return default_output(name, maker.suffix, target.shape, shown)
