"""The verb fp16: half precision, still ONNX."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from scrfdconv.cli import options as o
from scrfdconv.cli import output
from scrfdconv.cli.main import MAKE, app
from scrfdconv.cli.making import open_for_making, require_shape_for_batch, show_made, tell_source

_NAMED = 3  # nodes that a line names before it counts the rest
# Measured on three released models, one thread: 0.94 to 1.21 times the float model's time.
ON_CPU = (
    "note: FP16 is for GPUs and NPUs: ONNX Runtime on a CPU computes it in float32, in about the "
    "float model's time or up to a fifth more."
)


class InputOutput(StrEnum):
    """The type of the image and of the outputs."""

    float32 = "float32"
    float16 = "float16"


@app.command(rich_help_panel=MAKE)
def fp16(
    source: o.Source = None,
    shape: o.Shape = None,
    batch: o.Batch = 1,
    opset: Annotated[
        int | None, typer.Option(help="11 to 20, where a checkpoint is exported.")
    ] = None,
    io: Annotated[
        InputOutput, typer.Option("--io", help="Type of the image and of the outputs.")
    ] = InputOutput.float32,
    keep_float: Annotated[
        list[str] | None,
        typer.Option(
            "--keep-float", metavar="NODE|OP", help="Keep this node or operator in float32."
        ),
    ] = None,
    all_fp16: Annotated[
        bool,
        typer.Option(
            "--all-fp16",
            help="Normalisations and the first depthwise convolution in FP16, too.",
        ),
    ] = False,
    images: Annotated[
        list[Path] | None,
        typer.Option(
            "--images", help="Photographs to measure ranges and verify on: files or folders."
        ),
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
    """Convert to FP16 with float32 inputs and outputs, and verify against SOURCE.

    What FP16 does not suit stays float32 and is listed: normalisations, the first depthwise
    convolution, and weights and activations beyond its range.
    """
    from scrfdconv.checks.faces.images import image_files
    from scrfdconv.checks.verify import Demand
    from scrfdconv.converters.artifact import require_folder
    from scrfdconv.recipes.fp16 import Fp16Recipe
    from scrfdconv.recipes.fp16 import fp16 as make
    from scrfdconv.recipes.naming import default_output

    require_shape_for_batch(shape, batch)
    opened = open_for_making(source, recipe, config, norm_groups, seed)
    path = out or default_output(opened.name, ".onnx", shape, "fp16")
    require_folder(path)
    found = image_files(images)
    wanted = Fp16Recipe(shape, batch, opset, io.value, tuple(keep_float or ()), all_fp16, found)
    tell_source(opened)
    demand = None if no_verify else Demand(found, loosen, weights=False)
    with output.working(f"converting {opened.name} to {path.name}"):
        made = make(opened, path, wanted, demand)
    _show(made.artifact.path, made, opened.name)


def _show(path: Path, made: object, source: str) -> None:
    from scrfdconv.checks.precision import audit
    from scrfdconv.converters.formats.onnx_fp16 import kept_float
    from scrfdconv.converters.graph.onnx_runner import OnnxRunner
    from scrfdconv.recipes.convert import Made

    assert isinstance(made, Made)
    counted, kept = audit(path), kept_float(OnnxRunner(path).metadata)
    show_made(made, {"source": source, "kept_float": kept, "audit": counted.to_dict()})
    output.show(counted.sentence())
    for reason, nodes in kept.items():
        named = ", ".join(nodes[:_NAMED]) + (" ..." if len(nodes) > _NAMED else "")
        output.show(f"kept in float32: {len(nodes)} x {reason}: {named}")
    output.say(ON_CPU)
