"""What is asked of an INT8 conversion, and what follows from it and its source alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats import Source, formats
from scrfdconv.converters.formats.onnx.format import OnnxOptions
from scrfdconv.converters.formats.onnx_fp16 import require_convertible
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.precision.int8.calibration import Calibrator, Table
from scrfdconv.converters.precision.int8.float_nodes import Target
from scrfdconv.converters.runner import Interface
from scrfdconv.converters.scratch import scratch_folder

DEFAULT_SIZE = (640, 640)  # of photographs for dynamic models: upstream's size
DEFAULT_LOSS = 0.01
DEFAULT_ROUNDS = 16  # each puts one layer back to float and takes 1 to 3 s

Progress = Callable[[int, int], None]
Stage = Callable[[str], Any]  # a context manager that gives a Progress


@dataclass(frozen=True)
class Int8Recipe:
    """What an INT8 artifact is to be, as the command line's options of the same names."""

    images: tuple[Path, ...] = ()
    shape: tuple[int, int] | None = None
    batch: int = 1
    opset: int | None = None
    calibration_size: tuple[int, int] | None = None
    # Extremes are as good as either rule that cuts them, and take one pass less.
    calibrator: Calibrator | Literal["auto"] = "minmax"
    target: Target = "cpu"
    keep_float: tuple[str, ...] = ()
    max_face_loss: float = DEFAULT_LOSS
    max_rounds: int = DEFAULT_ROUNDS
    plan: Path | None = None  # replayed if it is there, else written
    calibration_table: Path | None = None
    save_calibration: Path | None = None


@contextmanager
def silent(_: str) -> Iterator[Progress]:
    """A stage that shows nothing."""
    yield lambda done, total: None


def empty_table() -> Table:
    """A table that nothing was measured for, to check options before measuring."""
    return Table("", "", 0, DEFAULT_SIZE, "minmax", {})


def counted(
    images: Callable[[], Iterator[np.ndarray]], total: int, progress: Progress
) -> Callable[[], Iterator[np.ndarray]]:
    """The same images, reporting how many were taken."""

    def counted() -> Iterator[np.ndarray]:
        for done, batch in enumerate(images(), 1):
            yield batch
            progress(done, total)

    return counted


@contextmanager
def float_parent(source: Source, steps: Sequence[tuple[str, Any]]) -> Iterator[Artifact]:
    """The float ONNX that is quantized: the source itself, or its export in a temporary folder."""
    with scratch_folder() as folder:
        made: Source = source
        for name, options in steps:
            path = Path(folder, f"{source.name}.onnx")
            made = formats()[name].convert(made, path, options, None)
        assert isinstance(made, Artifact)
        yield made


def onnx_steps(source: Source, recipe: Int8Recipe) -> list[tuple[str, Any]]:
    """The float ONNX, unless the source is that already and stays as it is."""
    if not isinstance(source, Checkpoint):
        if source.format != "onnx":
            raise UsageError(
                f"INT8 is built from a checkpoint or a float ONNX model, not from {source.format}."
            )
        if recipe.shape is None and recipe.opset is None:
            return []
        require_convertible(source.path)
    return [("onnx", OnnxOptions(recipe.shape, recipe.batch, recipe.opset))]


def calibration_size(interface: Interface, recipe: Int8Recipe) -> tuple[int, int]:
    """Height and width of the pictures; raises UsageError for those that the model refuses."""
    wanted, fixed = recipe.calibration_size, interface.shape
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
