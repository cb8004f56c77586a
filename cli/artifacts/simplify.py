"""The verb simplify: a smaller graph that is the same function."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scrfdconv.cli.artifacts import options as o
from scrfdconv.cli.artifacts.conversion import show_made
from scrfdconv.cli.main import MAKE, verb
from scrfdconv.cli.terminal import output


@verb(MAKE)
def simplify(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="Any ONNX model.")],
    shape: o.Shape = None,
    batch: o.Batch = "1",
    images: Annotated[
        list[Path] | None,
        typer.Option("--images", help="Photographs, files or folders, to verify on, too."),
    ] = None,
    out: o.Output = None,
    no_verify: o.NoVerify = False,
    json: o.Json = False,
) -> None:
    """Simplify any ONNX model and verify the result against it; --shape makes it fixed."""
    from scrfdconv.checks.faces.images import image_files
    from scrfdconv.checks.verification import Demand
    from scrfdconv.converters.formats import require_format
    from scrfdconv.converters.graph.model_file import node_count
    from scrfdconv.recipes.artifacts.conversion import convert
    from scrfdconv.recipes.artifacts.naming import default_output
    from scrfdconv.recipes.artifacts.target import target_of

    if no_verify and images:
        raise typer.BadParameter("--images is for the verification that --no-verify leaves out.")
    target = target_of("onnx", None, {"shape": shape, "batch": o.batch(batch)})
    maker = require_format(model, target.format)
    name = model.stem if shape else f"{model.stem}_simplified"
    path = out or default_output(name, maker.suffix, shape)
    before = node_count(model)
    demand = None if no_verify else Demand(image_files(images))
    made = convert(maker.artifact_at(model), target, path, demand, stage=output.progress)
    after = node_count(path)
    show_made(made, {"nodes": {"before": before, "after": after}})
    output.show(f"{before} nodes before, {after} after")
