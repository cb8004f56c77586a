"""One INT8 conversion: the request, and facts about its float graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats import Source, open_artifact
from scrfdconv.converters.graph.interface.forms import image_range
from scrfdconv.converters.graph.interface.preamble import preamble_of
from scrfdconv.converters.graph.kept_float import require_convertible
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.precision.int8 import TRAITS, Arrangement, Int8Options
from scrfdconv.converters.precision.int8.calibration import CalibrationTable
from scrfdconv.converters.precision.int8.conversion import (
    Int8Settings,
    float_rows,
    kept_for,
    needs_reduced_range,
)
from scrfdconv.converters.runner import Interface, Runner
from scrfdconv.recipes.order import DEFAULT_SIZE, Order, Progress, Stage

if TYPE_CHECKING:
    import onnx

    from scrfdconv.recipes.artifacts.target import Target


@dataclass(frozen=True, kw_only=True)
class Int8Conversion:
    """A source, the float graph that is quantized, and the options."""

    source: Source
    parent: Artifact
    target: Target
    options: Int8Options
    arrangement: Arrangement
    images: tuple[Path, ...]
    stage: Stage
    interface: Interface  # of the parent
    size: tuple[int, int]  # of the pictures
    trained: bool  # False for seeded weights, which find no faces
    verified: bool  # False: nothing is verified

    @classmethod
    def of(cls, order: Order) -> Int8Conversion:
        """Raises UsageError or ArtifactError for impossible requests before anything is measured.

        Impossible are an unknown name in --keep-float, a wrong size, and a model of another kind.
        """
        interface = require_convertible(order.parent.path)
        options = order.target.of(Int8Options)
        found = cls(
            source=order.source,
            parent=order.parent,
            target=order.target,
            options=options,
            arrangement=options.target or order.target.maker.int8_target,  # type: ignore[arg-type]
            images=order.images,
            stage=order.stage,
            interface=interface,
            size=calibration_size(interface, options),
            trained=not is_seeded(order.source, order.parent),
            verified=order.demand is not None,
        )
        kept_for(found.model(), interface.outputs, found.settings(empty_table()))
        return found

    @property
    def batch(self) -> int:
        """Images that the parent takes at once."""
        return self.interface.batch or 1

    def opened(self, path: Path) -> Runner:
        """A quantized ONNX as it will run: in the format that is made of it, where that is quick.

        Runtimes round in different places, so that a face may be lost in one of them alone.
        """
        maker = self.target.maker
        if not maker.judges_int8:
            return OnnxRunner(path)
        graph = maker.chain()[0].artifact_at(path)
        options = maker.settled_options(graph, self.target.of(maker.options))
        out = path.with_suffix(maker.suffix)
        return open_artifact(maker.convert(graph, out, options, None, "int8").path)

    def model(self) -> onnx.ModelProto:
        """The parent graph, prepared for Q/DQ pairs."""
        return float_rows(self.parent)

    def settings(self, table: CalibrationTable) -> Int8Settings:
        """The settings of the quantization, before any layer is put back to float."""
        reduce = not TRAITS[self.arrangement].symmetric and needs_reduced_range()
        return Int8Settings(table, self.arrangement, reduce, self.options.keep_float)

    def require_same_pictures(self, table: CalibrationTable, path: Path) -> None:
        """Raise UsageError for measurements on pictures that were prepared in another way."""
        normalization, model = self.interface.normalization, self.model()
        measured = table.ranges.get(preamble_of(model).image)
        if measured != image_range(model, normalization):
            raise UsageError(
                f"{path}: was measured on pictures that were not prepared as {normalization}; "
                "name a new file to measure anew."
            )

    def notes(self) -> Iterator[str]:
        """Notes for users before anything is measured."""
        maker = self.target.maker
        if maker.judges_int8 and self.trained:
            yield f"the accuracy budget is judged in {maker.title} itself"
        if not self.trained:
            yield (
                "the weights are seeded, not trained: limits of raw outputs apply, and nothing is "
                "said about faces"
            )


def empty_table() -> CalibrationTable:
    """A table without measurements, to check options before measuring."""
    return CalibrationTable(
        source_sha256="",
        images_sha256="",
        images=0,
        shape=DEFAULT_SIZE,
        calibrator="minmax",
        ranges={},
    )


def counted(
    images: Callable[[], Iterator[np.ndarray]], total: int, progress: Progress
) -> Callable[[], Iterator[np.ndarray]]:
    """The same images, reporting how many were taken."""

    def counted() -> Iterator[np.ndarray]:
        for done, batch in enumerate(images(), 1):
            yield batch
            progress(done, total)

    return counted


def calibration_size(interface: Interface, options: Int8Options) -> tuple[int, int]:
    """Height and width of the pictures; raises UsageError for those that the model refuses."""
    wanted, fixed = options.calibration_size, interface.shape
    if wanted and fixed and wanted != fixed:
        raise UsageError(
            f"--calibration-size {wanted[0]} {wanted[1]}: the model is fixed to {fixed[0]}x"
            f"{fixed[1]}; leave the option out."
        )
    size = wanted or fixed or DEFAULT_SIZE
    if not interface.accepts(interface.batch or 1, *size):
        raise UsageError(
            f"--calibration-size {size[0]} {size[1]}: height and width must be multiples of "
            f"{interface.size_multiple}."
        )
    return size


def is_seeded(source: Source, parent: Artifact) -> bool:
    """True if the weights were drawn, not trained, as far as the files say."""
    if isinstance(source, Checkpoint):
        return source.seeded
    return OnnxRunner(parent.path).metadata.get("weights", "").startswith("seeded")
