"""Verbs that make artifacts: onnx, torchscript, simplify."""

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
    from scrfdconv.converters.formats import Source


class Exporter(StrEnum):
    """The two exporters of torch.onnx."""

    torchscript = "torchscript"
    dynamo = "dynamo"


@app.command(rich_help_panel=MAKE)
def onnx(
    source: o.Source = None,
    shape: o.Shape = None,
    batch: o.Batch = 1,
    opset: Annotated[int | None, typer.Option(help="11 to 20.", show_default="17")] = None,
    exporter: Annotated[
        Exporter, typer.Option(help="Which of torch's exporters; dynamo is slower.")
    ] = Exporter.torchscript,
    out: o.Output = None,
    images: o.Images = None,
    recipe: o.Recipe = None,
    config: o.Config = None,
    norm_groups: o.NormGroups = None,
    seed: o.Seed = 0,
    loosen: o.Loosen = 1.0,
    no_verify: o.NoVerify = False,
    json: o.Json = False,
) -> None:
    """Export to ONNX, simplify and verify; dynamic in batch, height and width unless --shape."""
    from scrfdconv.converters.formats.onnx.format import OnnxOptions

    require_shape_for_batch(shape, batch)
    _make(
        open_for_making(source, recipe, config, norm_groups, seed),
        "onnx",
        out,
        shape,
        OnnxOptions(shape, batch, opset, exporter.value),
        images,
        loosen,
        no_verify,
    )


@app.command(rich_help_panel=MAKE)
def torchscript(
    source: o.Source = None,
    shape: o.Shape = None,
    batch: o.Batch = 1,
    out: o.Output = None,
    images: o.Images = None,
    recipe: o.Recipe = None,
    config: o.Config = None,
    norm_groups: o.NormGroups = None,
    seed: o.Seed = 0,
    loosen: o.Loosen = 1.0,
    no_verify: o.NoVerify = False,
    json: o.Json = False,
) -> None:
    """Trace and freeze to TorchScript and verify; dynamic unless --shape."""
    from scrfdconv.converters.formats.torchscript import TorchScriptOptions

    require_shape_for_batch(shape, batch)
    _make(
        open_for_making(source, recipe, config, norm_groups, seed),
        "torchscript",
        out,
        shape,
        TorchScriptOptions(shape, batch),
        images,
        loosen,
        no_verify,
    )


@app.command(rich_help_panel=MAKE)
def simplify(
    model: Annotated[Path, typer.Argument(metavar="MODEL.onnx", help="Any ONNX model.")],
    shape: o.Shape = None,
    batch: o.Batch = 1,
    out: o.Output = None,
    no_verify: o.NoVerify = False,
    json: o.Json = False,
) -> None:
    """Simplify any ONNX model and verify the result against it; --shape makes it fixed."""
    from scrfdconv.checks.verify import Demand
    from scrfdconv.converters.artifact import artifact_at, require_kind
    from scrfdconv.converters.formats.onnx.format import OnnxOptions
    from scrfdconv.converters.graph.model_file import node_count
    from scrfdconv.recipes.convert import convert
    from scrfdconv.recipes.naming import default_output

    require_shape_for_batch(shape, batch)
    require_kind(model, "onnx")
    name = model.stem if shape else f"{model.stem}_simplified"
    target = out or default_output(name, ".onnx", shape)
    before = node_count(model)
    with output.working(f"simplifying {model.name}"):
        made = convert(
            artifact_at(model, "onnx"),
            "onnx",
            target,
            OnnxOptions(shape, batch),
            None if no_verify else Demand(),
        )
    after = node_count(target)
    show_made(made, {"nodes": {"before": before, "after": after}})
    output.show(f"{before} nodes before, {after} after")


def _make(
    opened: Source,
    target: str,
    out: Path | None,
    shape: tuple[int, int] | None,
    options: Any,
    images: list[Path] | None,
    loosen: float,
    no_verify: bool,
) -> None:
    from scrfdconv.checks.faces.images import image_files
    from scrfdconv.checks.verify import Demand
    from scrfdconv.converters.artifact import require_folder
    from scrfdconv.converters.formats import formats
    from scrfdconv.recipes.convert import convert
    from scrfdconv.recipes.naming import default_output

    path = out or default_output(opened.name, formats()[target].suffix, shape)
    require_folder(path)
    found = image_files(images)
    tell_source(opened)
    demand = None if no_verify else Demand(found, loosen, weights=False)
    with output.working(f"converting {opened.name} to {path.name}"):
        made = convert(opened, target, path, options, demand)
    show_made(made, {"source": opened.name})
