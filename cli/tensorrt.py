"""The verb tensorrt: an engine, or the plan of one for a machine that has a GPU."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scrfdconv.cli import options as o
from scrfdconv.cli import output
from scrfdconv.cli.main import MAKE, app
from scrfdconv.cli.making import open_for_making, require_shape_for_batch, show_made, tell_source

if TYPE_CHECKING:
    from scrfdconv.checks.verify import Demand
    from scrfdconv.converters.formats import Source
    from scrfdconv.recipes.tensorrt import EngineRequest, Planned

PROFILE = "Profiles of dynamic models"
BUILDER = "Builder"
Profiles = list[str] | None


class Precision(StrEnum):
    """Of the ONNX on the way, and so of the engine."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


class Hardware(StrEnum):
    """On which GPUs an engine runs besides the one that built it."""

    none = "none"
    ampere = "ampere+"
    same = "same-compute-capability"


@app.command(rich_help_panel=MAKE)
def tensorrt(
    source: o.Source = None,
    precision: Annotated[
        Precision | None, typer.Option(help="int8 needs --images.", show_default="the source's")
    ] = None,
    shape: o.Shape = None,
    batch: o.Batch = 1,
    low: Annotated[
        Profiles,
        typer.Option(
            "--min",
            metavar="NxHxW",
            rich_help_panel=PROFILE,
            help="Smallest images; again for another profile.",
        ),
    ] = None,
    best: Annotated[
        Profiles,
        typer.Option("--opt", metavar="NxHxW", rich_help_panel=PROFILE, help="Images to tune for."),
    ] = None,
    high: Annotated[
        Profiles,
        typer.Option(
            "--max",
            metavar="NxHxW",
            rich_help_panel=PROFILE,
            help="Largest images. Default: 1x320x320, 1x640x640, 4x1280x1280 "
            "or what memory allows.",
        ),
    ] = None,
    plan_only: Annotated[
        bool,
        typer.Option(
            "--plan-only",
            help="Build nothing: write the ONNX and build_engine.sh "
            "for the target machine. Needs neither GPU nor TensorRT.",
        ),
    ] = False,
    tf32: Annotated[
        bool,
        typer.Option(
            "--tf32",
            rich_help_panel=BUILDER,
            help="Allow TF32 in float32 convolutions: faster, errors of 1e-3.",
        ),
    ] = False,
    workspace: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="MIB",
            rich_help_panel=BUILDER,
            help="Working memory.",
            show_default="all of the GPU's",
        ),
    ] = None,
    timing_cache: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=BUILDER, help="Measurements of former builds: read, and added to."
        ),
    ] = None,
    level: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=5,
            rich_help_panel=BUILDER,
            help="Builder optimization level.",
            show_default="3",
        ),
    ] = None,
    version_compatible: Annotated[
        bool,
        typer.Option(
            "--version-compatible",
            rich_help_panel=BUILDER,
            help="Runs on later versions of TensorRT, too.",
        ),
    ] = False,
    hardware: Annotated[
        Hardware,
        typer.Option(
            "--hardware-compatibility", rich_help_panel=BUILDER, help="Runs on other GPUs, too."
        ),
    ] = Hardware.none,
    refit: Annotated[
        bool, typer.Option("--refit", rich_help_panel=BUILDER, help="Weights can be replaced.")
    ] = False,
    strip_plan: Annotated[
        bool,
        typer.Option(
            "--strip-plan",
            rich_help_panel=BUILDER,
            help="Leave the weights out; a refit puts them back.",
        ),
    ] = False,
    max_aux_streams: Annotated[int | None, typer.Option(min=0, rich_help_panel=BUILDER)] = None,
    dla: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="CORE",
            rich_help_panel=BUILDER,
            help="Run on this DLA core, the rest on the GPU.",
        ),
    ] = None,
    opset: Annotated[
        int | None, typer.Option(help="Of the ONNX on the way.", show_default="17")
    ] = None,
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
    """Build a TensorRT engine (10.3 or later, 11) on this machine's GPU, audit and verify it."""
    from scrfdconv.checks.faces.images import image_files
    from scrfdconv.checks.verify import Demand
    from scrfdconv.converters.artifact import require_folder
    from scrfdconv.converters.formats.tensorrt.plan import TensorRTOptions
    from scrfdconv.recipes.tensorrt import EngineRequest, default_engine, require_target_here

    require_shape_for_batch(shape, batch)
    if not plan_only:
        require_target_here()
    options = TensorRTOptions(
        min=tuple(low or ()),
        opt=tuple(best or ()),
        max=tuple(high or ()),
        tf32=tf32,
        workspace=workspace,
        timing_cache=str(timing_cache) if timing_cache else None,
        level=level,
        version_compatible=version_compatible,
        hardware=hardware.value,
        refit=refit,
        strip_plan=strip_plan,
        max_aux_streams=max_aux_streams,
        dla=dla,
    )
    found = image_files(images)
    opened = open_for_making(source, recipe, config, norm_groups, seed)
    request = EngineRequest(
        precision.value if precision else None, shape, batch, opset, found, options
    )
    path = out or default_engine(opened, request)
    require_folder(path)
    tell_source(opened)
    demand = None if no_verify else Demand(found, loosen, weights=False)
    if plan_only:
        _plan(opened, request, path, demand)
    else:
        _build(opened, request, path, demand)


def _build(source: Source, request: EngineRequest, path: Path, demand: Demand | None) -> None:
    from scrfdconv.recipes.tensorrt import build_engine

    with _progress(f"building {path.name}"):
        made, linted = build_engine(source, request, path, demand)
    for note in linted.notes:
        output.say(f"note: {note}")
    show_made(made, {"source": source.name, "sidecar": f"{path}.json", "lint": linted.to_dict()})


def _plan(source: Source, request: EngineRequest, path: Path, demand: Demand | None) -> None:
    from scrfdconv.recipes.tensorrt import plan_engine

    with output.working(f"preparing {path.name}"):
        planned = plan_engine(source, request, path, demand)
    if output.wants_json():
        output.print_json(
            {
                "built": False,
                "source": source.name,
                "engine": str(planned.engine),
                "onnx": str(planned.onnx),
                "script": str(planned.script),
                "command": planned.command,
                "plan": planned.plan.to_dict(),
                "lint": planned.lint.to_dict(),
                "verified": planned.verified is not None,
                "report": planned.verified.to_dict() if planned.verified else None,
            }
        )
    else:
        _show_plan(planned)


def _show_plan(planned: Planned) -> None:
    plan = planned.plan
    output.show(f"A plan: nothing was built. {planned.engine} would be")
    output.show(f"  from       {planned.onnx}  sha256 {plan.onnx_sha256}")
    counts = ", ".join(f"{count} {kind}" for kind, count in plan.facts.convolutions.items())
    output.show(f"  precision  {plan.options.label} (convolutions: {counts})")
    fixed = "x".join(str(size) for size in plan.facts.free)
    for profile in plan.profiles or (f"none: the shape is fixed to {fixed}",):
        output.show(f"  profile    {profile}")
    for note in planned.lint.notes:
        output.show(f"  note       {note}")
    if planned.verified:
        output.show(f"  verified   the ONNX: {planned.verified.summary()}")
    output.show(f"  command    {shlex.join(planned.command)}")
    output.show("Copy these two to the target machine and run the script:")
    output.show(f"  {planned.onnx}\n  {planned.script}")


@contextmanager
def _progress(what: str) -> Iterator[None]:
    """TensorRT's own phases as bars on a terminal, silence elsewhere."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    from scrfdconv.converters.formats.tensorrt.progress import listening

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with ExitStack() as stack:
        progress = Progress(*columns, console=Console(stderr=True), transient=True)
        stack.enter_context(progress)
        progress.add_task(what, total=None)
        bars: dict[str, int] = {}

        def show(phase: str, parent: str | None, done: int, steps: int) -> None:
            if phase not in bars:
                indent = "  " if parent is None else "    "
                bars[phase] = int(progress.add_task(f"{indent}{phase}", total=steps))
            progress.update(bars[phase], completed=done)  # type: ignore[arg-type]
            if done >= steps:
                progress.remove_task(bars.pop(phase))  # type: ignore[arg-type]

        stack.enter_context(listening(show))
        yield
