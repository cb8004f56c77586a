"""FP16 from any source: ONNX on the way where needed, ranges measured on the given photographs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scrfdconv.checks.faces.compare import model_input
from scrfdconv.checks.verify import Demand
from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.formats import Source
from scrfdconv.converters.formats.onnx.format import OnnxOptions
from scrfdconv.converters.formats.onnx_fp16 import Fp16Options, Io, require_convertible
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.recipes.convert import Made, convert

DEFAULT_SIZE = (640, 640)  # of photographs for dynamic models: upstream's size
# Ranges stop growing long before: one photograph has the largest activations within a factor of
# 1.6 of those of forty. Verification sees all of them.
MOST_MEASURED = 32


@dataclass(frozen=True)
class Fp16Recipe:
    """What an FP16 artifact is to be, as the command line's options of the same names."""

    shape: tuple[int, int] | None = None
    batch: int = 1
    opset: int | None = None
    io: Io = "float32"
    keep_float: tuple[str, ...] = ()
    all_fp16: bool = False
    images: tuple[Path, ...] = ()


def fp16(
    source: Source,
    out: Path,
    recipe: Fp16Recipe,
    demand: Demand | None,
    *,
    parent: Source | None = None,
) -> Made:
    """Build and verify an FP16 artifact at ``out``; ``demand`` None skips the verification.

    ``parent`` is the float ONNX of ``source``, where it is there already.
    """
    start = parent or source
    steps = _on_the_way(start, recipe)
    size = recipe.shape or DEFAULT_SIZE
    if not isinstance(start, Checkpoint) and start.format == "onnx":
        require_convertible(start.path)
        size = recipe.shape or OnnxRunner(start.path).interface.shape or DEFAULT_SIZE

    def photographs() -> Iterator[np.ndarray]:
        for path in _spread(recipe.images):
            yield model_input(path, size)[None]

    options = Fp16Options(recipe.io, recipe.all_fp16, recipe.keep_float, photographs)
    return convert(source, "onnx_fp16", out, options, demand, parent=parent, on_the_way=steps)


def _on_the_way(source: Source, recipe: Fp16Recipe) -> list[tuple[str, Any]]:
    """The float ONNX, unless the source is that already and stays as it is."""
    is_onnx = not isinstance(source, Checkpoint)
    if is_onnx and recipe.shape is None and recipe.opset is None:
        return []
    return [("onnx", OnnxOptions(recipe.shape, recipe.batch, recipe.opset))]


def _spread(paths: Sequence[Path]) -> list[Path]:
    """At most MOST_MEASURED of ``paths``, evenly spread: folders are sorted by kind of picture."""
    step = max(1, -(-len(paths) // MOST_MEASURED))
    return list(paths[::step])
