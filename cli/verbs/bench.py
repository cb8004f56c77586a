"""The verb bench: latency side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrfdconv.cli.artifacts import options as o
from scrfdconv.cli.main import PROVE, verb
from scrfdconv.cli.terminal import output

if TYPE_CHECKING:
    from scrfdconv.checks.benchmark import Workload
    from scrfdconv.recipes.artifacts.sources import SourceOptions
    from scrfdconv.recipes.bench import BenchOptions, ComparedModel

MEGABYTE = 1e6
HEADINGS = (
    "model", "precision", "threads", "median ms", "p90", "p99", "images/s", "cores", "file MB",
    "peak MB", "ratio",
)  # fmt: skip
LOST = "faces lost/extra"
WORDS = 3  # columns on the left that are no numbers


Models = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL", help="Models of any kind; the first is what others are compared with."
    ),
]
Runtimes = Annotated[
    bool,
    typer.Option(
        "--runtimes",
        help="Also make the first MODEL's files for every runtime of this machine, verified, and "
        "time these; INT8 needs --images.",
    ),
]
Shape = Annotated[
    tuple[int, int] | None,
    typer.Option(metavar="H W", help="Of the images.", show_default="the models', or 640 640"),
]
Batch = Annotated[
    int | None, typer.Option(min=1, help="Images per run.", show_default="the models', or 1")
]
Threads = Annotated[
    list[str] | None,
    typer.Option(
        metavar="N|all",
        help="Of each runtime; given twice, both are timed. all: its own choice.",
        show_default="all; with --runtimes, 1 and all",
        parser=lambda text: o.number_or_word(text, o.ALL, 1),
    ),
]
Runs = Annotated[int, typer.Option(min=1, help="Measured runs of each model.")]
Photographs = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="PATH", help="Photographs: tells the faces that a model loses of the first one's."
    ),
]


@verb(PROVE)
def bench(
    models: Models,
    runtimes: Runtimes = False,
    shape: Shape = None,
    batch: Batch = None,
    threads: Threads = None,
    runs: Runs = 50,
    images: Photographs = None,
    architecture: o.Architecture = None,
    config: o.Config = None,
    norm_groups: o.NormGroups = None,
    seed: o.Seed = 0,
    provider: o.Provider = None,
    allow_host_code: o.AllowHostCode = False,
    json: o.Json = False,
) -> None:
    """Time models in turns (A B A B), each in its own process, after a warm-up."""
    from scrfdconv.checks.faces.images import image_files
    from scrfdconv.recipes.artifacts.sources import SourceOptions
    from scrfdconv.recipes.bench import BenchOptions

    both = ["1", o.ALL] if runtimes else [o.ALL]
    bench_options = BenchOptions(
        shape=shape,
        batch=batch,
        threads=o.thread_counts(threads or both),
        runs=runs,
        images=image_files(images),
    )
    options = SourceOptions(
        architecture=architecture,
        config=config,
        groups=norm_groups,
        seed=seed,
        allow_host_code=allow_host_code,
        provider=provider,
    )
    if runtimes:
        _bench_runtimes(models, options, bench_options)
    else:
        _bench(models, {}, options, bench_options)


def _bench_runtimes(models: list[str], options: SourceOptions, bench: BenchOptions) -> None:
    """Time the files that the first model is made into, beside all models."""
    from scrfdconv.recipes.bench import files_of_runtimes

    with files_of_runtimes(models[0], options, bench, output.progress) as found:
        made = {one.label: str(one.path) for one in found if one.path}
        left_out = {one.label: one.why_not for one in found if not one.path}
        for label, why in left_out.items():
            output.say(f"note: left out: {label}: {why}")
        _bench(models, made, options, bench, left_out)


def _bench(
    models: list[str],
    made: dict[str, str],
    options: SourceOptions,
    bench: BenchOptions,
    left_out: dict[str, str] | None = None,
) -> None:
    from scrfdconv.checks.benchmark import bench_environment
    from scrfdconv.recipes.bench import compare_speed, labels

    with output.progress("timing") as advance:
        compared, workload = compare_speed({**labels(models), **made}, options, bench, advance)
    machine = bench_environment(bench.threads)
    if output.wants_json():
        rows = [model.to_dict() for model in compared]
        output.print_json(
            {
                **_conditions(workload),
                **machine,
                "photographs": len(bench.images),
                "left_out": left_out or {},
                "models": rows,
            }
        )
    else:
        _print(compared, workload, machine)


def _conditions(workload: Workload) -> dict[str, Any]:
    return {
        "batch": workload.batch,
        "shape": list(workload.shape),
        "runs": workload.runs,
        "warm_up": workload.warm_up,
    }


def _print(compared: list[ComparedModel], workload: Workload, machine: dict[str, Any]) -> None:
    judged = compared[0].agreement
    rows = [(*HEADINGS, LOST) if judged else HEADINGS, *(_cells(model) for model in compared)]
    output.show_columns(rows, WORDS)
    height, width = workload.shape
    output.show(
        f"{workload.batch} x 3 x {height} x {width}, {workload.runs} runs in turns after "
        f"{workload.warm_up}; ratio: of the time to the first model's, median (10 % - 90 % of the "
        "rounds)"
    )
    if judged:
        output.show(
            f"faces: of the {judged.reference_faces} that the first model finds on "
            f"{judged.images} photographs"
        )
    for remark in dict.fromkeys(
        f"{model.timing.name}: {model.timing.remark}" for model in compared if model.timing.remark
    ):
        output.show(remark)
    libraries = ", ".join(f"{name} {found}" for name, found in machine["libraries"].items())
    output.show(
        f"{machine['cpu']}, {machine['processors']} processors, threads: {machine['threads']}; "
        f"{machine['platform']}, Python {machine['python']}, {libraries}"
    )


def _cells(model: ComparedModel) -> tuple[str, ...]:
    t, r, kept = model.timing, model.ratio, model.agreement
    lost = (f"{model.faces_lost}/{kept.extra}",) if kept else ()
    return (
        Path(t.name).name,
        t.precision,
        str(model.threads or o.ALL),
        f"{1e3 * t.median:.2f}",
        f"{1e3 * t.percentile(90):.2f}",
        f"{1e3 * t.percentile(99):.2f}",
        f"{t.throughput:.1f}",
        f"{t.cores:.2f}",
        f"{model.file_bytes / MEGABYTE:.2f}" if model.file_bytes else "-",
        f"{t.peak_bytes / MEGABYTE:.0f}",
        f"{r.median:.3f} ({r.low:.3f}-{r.high:.3f})",
        *lost,
    )
