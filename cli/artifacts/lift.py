"""The verb lift: back from a released ONNX file to the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scrfdconv.cli.artifacts import options as o
from scrfdconv.cli.artifacts.conversion import show_made
from scrfdconv.cli.artifacts.sources import tell_source
from scrfdconv.cli.main import MAKE, verb
from scrfdconv.cli.terminal import output


@verb(MAKE)
def lift(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="Float32 or FP16, any size.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--output", help="Where to write.", show_default="NAME_lifted.pth"),
    ] = None,
    images: o.Images = None,
    mean: o.Mean = None,
    std: o.Std = None,
    color: o.Color = None,
    no_verify: o.NoVerify = False,
    json: o.Json = False,
) -> None:
    """Recover the checkpoint that an ONNX file was exported from, verified against the file."""
    from scrfdconv.checks.faces.images import image_files
    from scrfdconv.checks.verification import Demand
    from scrfdconv.converters.artifact import require_folder
    from scrfdconv.converters.formats import require_format
    from scrfdconv.converters.formats.onnx import Onnx
    from scrfdconv.converters.normalization import NormalizationOptions
    from scrfdconv.recipes.artifacts.lift import default_checkpoint
    from scrfdconv.recipes.artifacts.lift import lift as lift_model

    require_format(model, Onnx.name)
    path = out or default_checkpoint(model)
    require_folder(path)
    demand = None if no_verify else Demand(image_files(images))
    with output.working(f"lifting {model.name}"):
        made, checkpoint = lift_model(
            model, path, demand, NormalizationOptions.read(mean, std, color)
        )
    tell_source(checkpoint)
    facts = {
        "source": str(model),
        "architecture": checkpoint.architecture.to_dict(),
        "tensors": len(checkpoint.weights),
        "weights_sha256": checkpoint.weights_digest,
        "notes": list(checkpoint.notes),
    }
    show_made(made, facts)
