"""The verb bench: latency side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrfdconv.cli.artifacts import options as o
from scrfdconv.cli.main import PROVE, app
from scrfdconv.cli.terminal import output

if TYPE_CHECKING:
    from scrfdconv.checks.benchmark import Workload
    from scrfdconv.recipes.bench import ComparedModel

MEGABYTE = 1e6
HEADINGS = ("model", "median ms", "p90", "p99", "images/s", "cores", "file MB", "peak MB", "ratio")


@app.command(rich_help_panel=PROVE)
def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL", help="Models of any kind; the first is what others are compared with."
        ),
    ],
    shape: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="H W", help="Of the images.", show_default="the models', or 640 640"),
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images per run.", show_default="the models', or 1")
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Of each runtime.", show_default="its own choice")
    ] = None,
    runs: Annotated[int, typer.Option(min=1, help="Measured runs of each model.")] = 50,
    architecture: o.Architecture = None,
    config: o.Config = None,
    norm_groups: o.NormGroups = None,
    seed: o.Seed = 0,
    allow_host_code: o.AllowHostCode = False,
    json: o.Json = False,
) -> None:
    """Time models in turns (A B A B), each in its own process, after a warm-up."""
    from scrfdconv.checks.benchmark import bench_environment
    from scrfdconv.recipes.artifacts.conversion import SourceOptions
    from scrfdconv.recipes.bench import BenchOptions, compare_speed

    bench_options = BenchOptions(shape, batch, threads, runs)
    options = SourceOptions(
        architecture=architecture,
        config=config,
        groups=norm_groups,
        seed=seed,
        allow_host_code=allow_host_code,
    )
    with output.progress("timing") as advance:
        compared, workload = compare_speed(models, options, bench_options, advance)
    machine = bench_environment(threads)
    if json:
        rows = [_row(model) for model in compared]
        output.print_json({**_conditions(workload), **machine, "models": rows})
    else:
        _print(compared, workload, machine)


def _conditions(workload: Workload) -> dict[str, Any]:
    return {
        "batch": workload.batch,
        "shape": list(workload.shape),
        "runs": workload.runs,
        "warm_up": workload.warm_up,
    }


def _row(model: ComparedModel) -> dict[str, Any]:
    timing = model.timing
    return {
        "model": timing.name,
        "format": model.format,
        "median_ms": 1e3 * timing.median,
        "p90_ms": 1e3 * timing.percentile(90),
        "p99_ms": 1e3 * timing.percentile(99),
        "images_per_second": timing.throughput,
        "cores_used": timing.cores,
        "file_bytes": model.file_bytes,
        "peak_memory_bytes": timing.peak_bytes,
        "ratio": model.ratio.median,
        "ratio_p10": model.ratio.low,
        "ratio_p90": model.ratio.high,
    }


def _print(compared: list[ComparedModel], workload: Workload, machine: dict[str, Any]) -> None:
    rows = [HEADINGS, *(_cells(model) for model in compared)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for name, *cells in rows:
        numbers = (cell.rjust(width) for cell, width in zip(cells, widths[1:], strict=True))
        output.show("  ".join((name.ljust(widths[0]), *numbers)))
    height, width = workload.shape
    output.show(
        f"{workload.batch} x 3 x {height} x {width}, {workload.runs} runs in turns after "
        f"{workload.warm_up}; ratio: of the time to the first model's, median (10 % - 90 % of the "
        "rounds)"
    )
    libraries = ", ".join(f"{name} {found}" for name, found in machine["libraries"].items())
    output.show(
        f"{machine['cpu']}, {machine['processors']} processors, threads: {machine['threads']}; "
        f"{machine['platform']}, Python {machine['python']}, {libraries}"
    )


def _cells(model: ComparedModel) -> tuple[str, ...]:
    t, r = model.timing, model.ratio
    return (
        Path(t.name).name,
        f"{1e3 * t.median:.2f}",
        f"{1e3 * t.percentile(90):.2f}",
        f"{1e3 * t.percentile(99):.2f}",
        f"{t.throughput:.1f}",
        f"{t.cores:.2f}",
        f"{model.file_bytes / MEGABYTE:.2f}" if model.file_bytes else "-",
        f"{t.peak_bytes / MEGABYTE:.0f}",
        f"{r.median:.3f} ({r.low:.3f}-{r.high:.3f})",
    )
