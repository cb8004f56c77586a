"""What calibration pictures show: faces, ranges, and what the pictures lack."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scrfdconv.checks.faces.coverage import Coverage, FacesSeen, coverage, seen
from scrfdconv.checks.faces.images import UInt8
from scrfdconv.converters.errors import InputFileError
from scrfdconv.converters.graph.interface.forms import image_range
from scrfdconv.converters.graph.interface.preamble import preamble_of
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.precision.int8.calibration import (
    CALIBRATORS,
    CalibrationTable,
    Extremes,
    chosen_ranges,
    extremes,
    load_table,
    widest,
)
from scrfdconv.recipes.faces.pictures import Pictures, batches, mosaics
from scrfdconv.recipes.int8.conversion import Int8Conversion, counted

# A quarter is held back to judge by, where enough remain to calibrate on; of hundreds, about 24 at
# most. These have five views each, some thousand faces, and cost 4 s in every round.
FEWEST_TO_SPLIT, HELD_SHARE, MOST_HELD = 16, 4, 24
SPLIT_SEED = 0


@dataclass(frozen=True)
class Split:
    """Indices of the pictures to calibrate on, and of the pictures to judge on."""

    inside: tuple[int, ...]
    held: tuple[int, ...]
    note: str

    @property
    def apart(self) -> bool:
        """False if there are so few pictures that all serve both purposes."""
        return self.inside != self.held


def split(faces: Sequence[FacesSeen]) -> Split:
    """Hold back every fourth picture by number of faces; of many pictures, fewer.

    So both parts see crowds and portraits alike; a seeded shuffle decides between equals.
    """
    count = len(faces)
    if count < FEWEST_TO_SPLIT:
        note = (
            f"the budget was judged on the calibration pictures: {count} are too few to hold "
            f"some back ({FEWEST_TO_SPLIT} are enough)"
        )
        return Split(tuple(range(count)), tuple(range(count)), note)
    step = max(HELD_SHARE, count // MOST_HELD)
    order = np.random.default_rng(SPLIT_SEED).permutation(count).tolist()
    held = sorted(sorted(order, key=lambda i: faces[i].faces)[step // 2 :: step])
    inside = [i for i in range(count) if i not in set(held)]
    note = (
        f"calibrated on {len(inside)} pictures, judged on {len(held)} others: of the pictures by "
        f"number of faces every {step}th (seed {SPLIT_SEED})"
    )
    return Split(tuple(inside), tuple(held), note)


def faces_seen(
    conversion: Int8Conversion, reference: OnnxRunner, pictures: Pictures
) -> Iterator[FacesSeen]:
    """The faces that the float model finds on each picture."""
    for images in batches(pictures.canvases, conversion.interface)():
        outputs = reference.run(images)
        yield seen({name: value[:1] for name, value in outputs.items()}, conversion.size)


@dataclass(frozen=True)
class Calibrated:
    """A table for each calibrator to try, and the pictures that were measured on."""

    coverage: Coverage
    tables: tuple[CalibrationTable, ...]
    canvases: tuple[UInt8, ...]
    notes: tuple[str, ...] = ()


def calibrate(
    conversion: Int8Conversion, pictures: Pictures, faces: Sequence[FacesSeen]
) -> Calibrated:
    """Measure ranges on ``pictures``, plus mosaics of the pictures if they show too little."""
    with conversion.stage("calibrating") as progress:
        images = counted(batches(pictures.canvases, conversion.interface), len(pictures), progress)
        parts = list(extremes(conversion.model(), images))
    shown = coverage(faces, parts, trained=conversion.trained)
    canvases, notes = pictures.canvases, []
    if shown.warnings:
        extra = mosaics(canvases)
        parts += extremes(conversion.model(), batches(extra, conversion.interface))
        canvases = (*canvases, *extra)
        notes.append(
            f"the calibration set is poor: {len(extra)} mosaics of its pictures at half and "
            "quarter size were added"
        )
    tables = tuple(_tables(conversion, pictures, canvases, widest(parts)))
    return Calibrated(shown, tables, canvases, tuple(notes))


def _given_table(conversion: Int8Conversion, path: Path) -> CalibrationTable:
    table = load_table(path)
    if table.source_sha256 != conversion.source.digest:
        raise InputFileError(
            f"{path}: was measured on another source (sha256 {table.source_sha256[:12]}...); "
            "calibrate anew with --images."
        )
    conversion.require_same_pictures(table, path)
    return table


def _tables(
    conversion: Int8Conversion, pictures: Pictures, canvases: Sequence[UInt8], whole: Extremes
) -> Iterator[CalibrationTable]:
    if conversion.options.calibration_table:
        yield _given_table(conversion, conversion.options.calibration_table)
        return
    model = conversion.model()
    normalization = conversion.interface.normalization
    reach = whole.ranges(preamble_of(model).image, image_range(model, normalization))
    means = {name: values.tolist() for name, values in whole.mean.items()}
    wanted = conversion.options.calibrator
    for calibrator in CALIBRATORS if wanted == "auto" else (wanted,):
        with conversion.stage(f"calibrating ({calibrator})") as progress:
            images = counted(batches(canvases, conversion.interface), len(canvases), progress)
            ranges = chosen_ranges(model, reach, calibrator, images)
        yield CalibrationTable(
            source_sha256=conversion.source.digest,
            images_sha256=pictures.digest,
            images=len(pictures),
            shape=conversion.size,
            calibrator=calibrator,
            ranges=ranges,
            means=means,
        )
