"""One INT8 conversion: what is asked for, and what its float model says of itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.formats import Source
from scrfdconv.converters.formats.onnx_fp16 import require_convertible
from scrfdconv.converters.formats.onnx_int8 import Int8Options, kept_for, needs_reduced_range
from scrfdconv.converters.graph.model_file import load_onnx
from scrfdconv.converters.precision.int8.calibration import Table
from scrfdconv.converters.precision.int8.quantization import quantizable
from scrfdconv.converters.runner import Interface
from scrfdconv.recipes.int8.request import (
    Int8Recipe,
    Stage,
    calibration_size,
    empty_table,
    is_seeded,
)

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Task:
    """A source, the float ONNX that is quantized, and the wishes."""

    source: Source
    parent: Artifact
    recipe: Int8Recipe
    stage: Stage
    interface: Interface  # of the parent
    size: tuple[int, int]  # of the pictures
    trained: bool  # False for seeded weights, which find no faces

    @classmethod
    def of(cls, source: Source, parent: Artifact, recipe: Int8Recipe, stage: Stage) -> Task:
        """Raises UsageError or ArtifactError for what cannot be done, before anything is measured.

        That is an unknown name in --keep-float, a wrong size, or a model of another kind.
        """
        interface = require_convertible(parent.path)
        size = calibration_size(interface, recipe)
        task = cls(source, parent, recipe, stage, interface, size, not is_seeded(source, parent))
        kept_for(task.model(), interface.outputs, task.options(empty_table()))
        return task

    @property
    def batch(self) -> int:
        """Images that the parent takes at once."""
        return self.interface.batch or 1

    def model(self) -> onnx.ModelProto:
        """The parent, fit for Q/DQ pairs."""
        return quantizable(load_onnx(self.parent.path))

    def options(self, table: Table) -> Int8Options:
        """What the format is told, nothing put back to float yet."""
        reduce = self.recipe.target == "cpu" and needs_reduced_range()
        return Int8Options(table, self.recipe.target, reduce, self.recipe.keep_float)

    def notes(self) -> Iterator[str]:
        """What a user must know before anything is measured."""
        if not self.trained:
            yield (
                "the weights are seeded, not trained: limits of raw outputs apply, and nothing is "
                "said about faces"
            )
