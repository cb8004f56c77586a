"""The verb eval: average precision on WIDER FACE, or agreement with another model."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrfdconv.cli.artifacts import options as o
from scrfdconv.cli.artifacts.reading import READ_FROM_OPTIONS, ReadingToRun
from scrfdconv.cli.main import PROVE, verb
from scrfdconv.cli.terminal import output

if TYPE_CHECKING:
    from scrfdconv.checks.widerface.protocol import Evaluation
    from scrfdconv.recipes.artifacts.sources import SourceOptions
    from scrfdconv.recipes.faces.agreement import Spread
    from scrfdconv.recipes.faces.evaluation import EvaluationPlan, Score

PLOT_SUFFIXES = (".svg", ".png")
NO_LABELS = "--images needs a MODEL and --reference: without labels, another model is the truth."


Model = Annotated[str | None, typer.Argument(metavar="MODEL", help="A model of any kind.")]
Widerface = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="WIDER FACE: the validation images and the .mat files."),
]
Mode = Annotated[
    str | None,
    typer.Option(
        metavar="vga|original|N",
        help="Size: 640x640 as in the published table, each image's own, or NxN.",
        show_default="vga",
    ),
]
Results = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR|ZIP",
        help="Keep the detections here, and continue from them. Without MODEL: score these, "
        "a folder or a .zip.",
    ),
]
GroundTruth = Annotated[
    Path | None, typer.Option(metavar="DIR", help="The .mat files, to score --results.")
]
Images = Annotated[
    list[Path] | None,
    typer.Option(metavar="PATH", help="Photographs without labels: files, folders or globs."),
]
Reference = Annotated[
    str | None,
    typer.Option(metavar="MODEL", help="The model whose faces on --images are the truth."),
]
Limit = Annotated[int | None, typer.Option(min=1, help="The first N images only: a smoke run.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Processes.", show_default="one per processor")
]
Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Draw the curves of precision and recall: .svg or .png."),
]


Face = Annotated[
    str | None,
    typer.Option(
        "--class", metavar="N|NAME", help="Of a model with several classes, which is the face."
    ),
]


@verb(PROVE, "eval")
def evaluate(
    model: Model = None,
    widerface: Widerface = None,
    mode: Mode = None,
    results: Results = None,
    ground_truth: GroundTruth = None,
    images: Images = None,
    reference: Reference = None,
    limit: Limit = None,
    workers: Workers = None,
    scheduler: o.Scheduler = None,
    plot: Plot = None,
    face: Face = None,
    reading: ReadingToRun = READ_FROM_OPTIONS,
    json: o.Json = False,
) -> None:
    """Measure a detector: WIDER FACE validation (easy, medium, hard), or agreement with a model.

    MODEL --widerface DIR runs the model; --results DIR|ZIP --ground-truth DIR scores detections of
    any detector; MODEL --images DIR --reference REF needs no labels.
    """
    from scrfdconv.checks.widerface.geometry import parse_mode
    from scrfdconv.recipes.faces.agreement import Spread
    from scrfdconv.recipes.faces.evaluation import EvaluationPlan

    o.of_this_machine("--workers", workers, scheduler)
    _require_one_way(model, widerface, results, ground_truth, images, reference)
    _require_drawable(
        plot, [model, reading.architecture, reading.config], [widerface, ground_truth]
    )
    running = {"--mode": mode, "--workers": workers, "--scheduler": scheduler, "--class": face}
    if images and model and reference:
        labelled = {"--mode": mode, "--class": face, "--limit": limit, "--plot": plot}
        _require_absent(labelled, "--widerface")
        _agreement(model, reference, reading, images, Spread(workers, scheduler))
    elif model and widerface:
        plan = EvaluationPlan(parse_mode(mode or "vga"), results, limit, workers, scheduler, face)
        _run_model(model, reading, widerface, plan, plot)
    elif results and ground_truth:
        more = {
            "--architecture": reading.architecture,
            "--config": reading.config,
            "--norm-groups": reading.groups,
            "--provider": reading.provider,
            **{f"--{name}": value for name, value in reading.normalization.given.items()},
        }
        _require_absent({**running, **more}, "MODEL --widerface")
        _score_files(results, ground_truth, limit, plot)


def _require_one_way(
    model: str | None,
    widerface: Path | None,
    results: Path | None,
    ground_truth: Path | None,
    images: list[Path] | None,
    reference: str | None,
) -> None:
    if images or reference:
        if not (model and images and reference) or widerface or results or ground_truth:
            raise typer.BadParameter(NO_LABELS)
    elif model:
        if not widerface or ground_truth:
            raise typer.BadParameter(
                "MODEL needs --widerface DIR (images and .mat files), or --images and --reference."
            )
    elif widerface or not (results and ground_truth):
        raise typer.BadParameter(
            "Give MODEL --widerface DIR, or --results DIR|ZIP --ground-truth DIR."
        )


def _require_absent(options: Mapping[str, object], way: str) -> None:
    """Refuse options that would change nothing: a number that ignores an option misleads."""
    for name, value in options.items():
        if value is not None:
            raise typer.BadParameter(f"{name} is for {way} only.")


def _require_drawable(
    plot: Path | None, files: list[str | Path | None], folders: list[Path | None]
) -> None:
    """Refuse a plot that cannot be drawn, or that would replace what is read."""
    from scrfdconv.checks.reports.figures import require_plotting
    from scrfdconv.checks.widerface.plot import OPTION
    from scrfdconv.converters.artifact import require_distinct, require_folder
    from scrfdconv.converters.errors import OutputError

    if plot is None:
        return
    if plot.suffix.lower() not in PLOT_SUFFIXES:
        raise typer.BadParameter(f"--plot {plot}: name a file {' or '.join(PLOT_SUFFIXES)}.")
    require_folder(plot)  # refused now, not after an hour
    require_distinct((plot,), {Path(file): "a file that is read" for file in files if file})
    inside = any(plot.resolve().is_relative_to(folder.resolve()) for folder in folders if folder)
    if inside and plot.exists():
        raise OutputError(f"{plot}: is in a folder that is read; give another output file.")
    require_plotting(OPTION)


def _plot(evaluation: Evaluation, title: str, path: Path) -> None:
    from scrfdconv.checks.widerface.plot import plot_curves
    from scrfdconv.converters.artifact import replacing

    with replacing(path) as part:
        plot_curves(evaluation, title, part, path.suffix.lower())


def _run_model(
    model: str, options: SourceOptions, directory: Path, plan: EvaluationPlan, plot: Path | None
) -> None:
    from scrfdconv.recipes.faces.evaluation import score_model

    if plan.results is None:
        output.say("note: give --results DIR to keep detections and to continue when interrupted.")
    with output.progress("evaluating") as advance:
        score = score_model(model, options, directory, plan, advance)
    if score.interface:
        output.say_if_assumed(score.interface)
    if score.reused:
        output.say(f"note: {score.reused} images were finished before, in {plan.results}.")
    _show(score, model, plan, plot)


def _score_files(results: Path, ground_truth: Path, limit: int | None, plot: Path | None) -> None:
    from scrfdconv.recipes.faces.evaluation import EvaluationPlan, score_results

    with output.working(f"scoring {results.name}"):
        score = score_results(results, ground_truth, limit)
    _show(score, None, EvaluationPlan(results=results, limit=limit), plot)


def _show(score: Score, model: str | None, plan: EvaluationPlan, plot: Path | None) -> None:
    from scrfdconv.checks.widerface.geometry import mode_name

    evaluation, published = score.evaluation, score.published
    if plot:
        title = Path(model).stem if model else plan.results.stem if plan.results else ""
        _plot(evaluation, title, plot)
    if plan.limit:
        output.say("note: a smoke run on the first images; its AP compares with no other.")
    if output.wants_json():
        row = published and {
            "model": published.label,
            "mode": "vga",
            "easy": published.easy,
            "medium": published.medium,
            "hard": published.hard,
        }
        output.print_json(
            {
                "model": model,
                "mode": mode_name(plan.mode) if model else None,
                "results": str(plan.results) if plan.results else None,
                "images": evaluation.images,
                "limit": plan.limit,
                "detections": evaluation.predictions,
                "faces": {name: curve.faces for name, curve in evaluation.curves.items()},
                "ap": {name: _percent(ap) for name, ap in evaluation.ap.items()},
                "published": row,
                "plot": str(plot) if plot else None,
            }
        )
        return
    _show_table(score, plan.mode)
    output.show(f"{evaluation.images} images, {evaluation.predictions} detections")


def _show_table(score: Score, mode: int) -> None:
    from scrfdconv.checks.widerface.geometry import VGA

    rows = [("AP", [100 * ap for ap in score.evaluation.ap.values()])]
    if published := score.published:
        where = "" if mode == VGA else " at vga"
        values = [published.easy, published.medium, published.hard]
        rows.append((f"published, {published.label}{where}", values))
    width = max(len(label) for label, _ in rows)
    output.show(f"{'':{width}}" + "".join(f"{name:>8}" for name in score.evaluation.ap))
    for label, values in rows:
        output.show(f"{label:{width}}" + "".join(f"{value:8.2f}" for value in values))


def _percent(ap: float) -> float | None:
    """In percent, as in the published tables; None where a subset has no faces."""
    return None if math.isnan(ap) else 100 * ap


def _without_nan(value: Any) -> Any:
    """``value`` as JSON can hold it, with null for what was not measured."""
    if isinstance(value, dict):
        return {str(key): _without_nan(item) for key, item in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value


def _agreement(
    model: str, reference: str, options: SourceOptions, images: list[Path], spread: Spread
) -> None:
    from scrfdconv.checks.faces.images import find_images
    from scrfdconv.recipes.faces.agreement import score_agreement

    with output.progress("comparing") as advance:
        found = score_agreement(model, reference, options, find_images(images), advance, spread)
    values: dict[str, Any] = _without_nan(asdict(found))
    if output.wants_json():
        output.print_json({"model": model, "reference": reference, **values})
        return
    for key, value in values.items():
        if isinstance(value, dict | tuple):  # values by stride and by point are for programs
            continue
        shown = f"{value:.4f}" if isinstance(value, float) else value
        output.show(f"{key.replace('_', ' '):22} {'-' if value is None else shown}")
