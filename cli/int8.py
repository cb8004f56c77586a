"""The verb int8: quantized, still ONNX, within an accuracy budget counted in faces."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrfdconv.cli import options as o
from scrfdconv.cli import output
from scrfdconv.cli.main import MAKE, app
from scrfdconv.cli.making import open_for_making, require_shape_for_batch, show_made, tell_source

if TYPE_CHECKING:
    from scrfdconv.recipes.int8.int8 import Int8Made
    from scrfdconv.recipes.int8.speed import Speed

_NAMED = 3  # nodes that a line names before it counts the rest


class Calibrators(StrEnum):
    """How ranges are chosen; auto tries all on pictures that were held back."""

    minmax = "minmax"
    entropy = "entropy"
    percentile = "percentile"
    auto = "auto"


class Targets(StrEnum):
    """What the artifact is to run on."""

    cpu = "cpu"
    tensorrt = "tensorrt"


@app.command(rich_help_panel=MAKE)
def int8(
    source: o.Source = None,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--images", help="Photographs to calibrate, judge and verify on: files or folders."
        ),
    ] = None,
    shape: o.Shape = None,
    batch: o.Batch = 1,
    opset: Annotated[
        int | None, typer.Option(help="13 to 20, where a checkpoint is exported.")
    ] = None,
    calibration_size: Annotated[
        tuple[int, int] | None,
        typer.Option(
            "--calibration-size",
            metavar="H W",
            help="Size of the pictures for a dynamic model.",
            show_default="640 640",
        ),
    ] = None,
    calibrator: Annotated[
        Calibrators, typer.Option(help="How ranges are chosen; auto tries all and keeps the best.")
    ] = Calibrators.minmax,
    target: Annotated[
        Targets,
        typer.Option(help="cpu: unsigned activations; tensorrt: symmetric, biases in float."),
    ] = Targets.cpu,
    max_face_loss: Annotated[
        float,
        typer.Option(
            "--max-face-loss",
            min=0.0,
            max=1.0,
            help="Share of the reference's faces that may be lost, and as many that may be new.",
        ),
    ] = 0.01,
    max_rounds: Annotated[
        int,
        typer.Option("--max-rounds", min=0, help="Layers put back to float to keep the budget."),
    ] = 16,
    keep_float: Annotated[
        list[str] | None,
        typer.Option("--keep-float", metavar="NODE|OP", help="Do not quantize this."),
    ] = None,
    plan: Annotated[
        Path | None,
        typer.Option(
            help="Everything decided, as JSON: replayed if the file is there (no search, and "
            "--images only to verify on), written if not."
        ),
    ] = None,
    save_calibration: Annotated[
        Path | None, typer.Option("--save-calibration", help="Write the measured ranges (JSON).")
    ] = None,
    calibration_table: Annotated[
        Path | None,
        typer.Option("--calibration-table", help="Ranges of --save-calibration instead of new."),
    ] = None,
    out: o.Output = None,
    recipe: o.Recipe = None,
    config: o.Config = None,
    norm_groups: o.NormGroups = None,
    seed: o.Seed = 0,
    loosen: o.Loosen = 1.0,
    no_verify: o.NoVerify = False,
    json: o.Json = False,
) -> None:
    """Quantize to INT8 (ONNX with Q/DQ), keep the faces, verify against SOURCE, and time it.

    A quarter of the pictures is held back; on it the INT8 model must keep the reference's faces
    (--max-face-loss). If it does not, sensitive layers go back to float one by one. The scores'
    convolutions and normalisations stay float always.
    """
    from scrfdconv.checks.faces.images import image_files
    from scrfdconv.checks.verify import Demand
    from scrfdconv.converters.artifact import require_folder
    from scrfdconv.recipes.int8.int8 import int8 as make
    from scrfdconv.recipes.int8.request import Int8Recipe
    from scrfdconv.recipes.int8.speed import measured_speed
    from scrfdconv.recipes.naming import default_output

    require_shape_for_batch(shape, batch)
    opened = open_for_making(source, recipe, config, norm_groups, seed)
    path = out or default_output(opened.name, ".onnx", shape, "int8")
    for written in (path, plan, save_calibration):
        if written:
            require_folder(written)
    wanted = Int8Recipe(
        image_files(images),
        shape,
        batch,
        opset,
        calibration_size,
        calibrator.value,
        target.value,
        tuple(keep_float or ()),
        max_face_loss,
        max_rounds,
        plan,
        calibration_table,
        save_calibration,
    )
    tell_source(opened)
    demand = None if no_verify else Demand((), loosen, weights=False)
    made = make(opened, path, wanted, demand, output.progress)
    speed = None
    if target is Targets.cpu and not no_verify:
        with output.working("timing"):
            speed = measured_speed(opened, path, wanted)
    _show(path, made, opened.name, speed)


def _show(path: Path, made: Int8Made, source: str, speed: Speed | None) -> None:
    from scrfdconv.checks.precision import audit
    from scrfdconv.converters.formats.onnx_fp16 import kept_float
    from scrfdconv.converters.graph.onnx_runner import OnnxRunner

    counted, kept = audit(path), kept_float(OnnxRunner(path).metadata)
    rounds = [one.to_dict() for one in made.search.rounds] if made.search else []
    extra: dict[str, Any] = {
        "source": source,
        "calibrator": made.options.table.calibrator,
        "target": made.options.target,
        "coverage": made.coverage.to_dict() if made.coverage else None,
        "rounds": rounds,
        "replayed": made.replayed,
        "kept_float": kept,
        "audit": counted.to_dict(),
        "speed": speed.to_dict() if speed else None,
        "warnings": list(made.warnings),
        "notes": list(made.notes),
    }
    for warning in made.warnings:
        output.say(f"WARNING: {warning}.")
    show_made(made.made, extra)
    if made.coverage:
        output.show(made.coverage.sentence())
    output.show(counted.sentence())
    for reason, nodes in kept.items():
        named = ", ".join(nodes[:_NAMED]) + (" ..." if len(nodes) > _NAMED else "")
        output.show(f"float32: {len(nodes)} nodes, {reason}: {named}")
    if not made.made.report:  # which shows them otherwise
        for note in made.notes:
            output.show(f"note: {note}")
    for line in speed.lines() if speed else ():
        output.show(line)
