"""The steps of every verb that makes an artifact: open SOURCE, build, prove, show."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from scrfdconv.cli.artifacts.sources import open_for_making, tell_source
from scrfdconv.cli.terminal import output

if TYPE_CHECKING:
    from scrfdconv.checks.verification import Demand
    from scrfdconv.converters.formats import Format, Source
    from scrfdconv.recipes.artifacts.conversion import Made, Planned
    from scrfdconv.recipes.artifacts.network import Opened
    from scrfdconv.recipes.artifacts.sources import SourceOptions
    from scrfdconv.recipes.artifacts.target import Target


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What a user typed."""

    format: Format
    precision: str | None  # None: the precision of the source
    chosen: Mapping[str, Any]  # options of formats and precisions that were given
    flags: Mapping[str, str]  # names of the options on the command line
    source: str | None
    plan_only: bool
    out: Path | None
    images: list[Path] | None
    reading: SourceOptions
    loosen: float | None
    verify: bool
    lift: bool


def make(wish: Wish) -> None:
    """Make the artifact, verified, and show it."""
    from scrfdconv.checks.faces.images import image_files
    from scrfdconv.checks.verification import Demand
    from scrfdconv.converters.artifact import require_distinct, require_folder
    from scrfdconv.converters.errors import MissingError
    from scrfdconv.recipes.artifacts.conversion import target_in_full
    from scrfdconv.recipes.artifacts.naming import default_path
    from scrfdconv.recipes.artifacts.network import opened_for

    if not wish.plan_only and (missing := wish.format.why_not_built()):
        raise MissingError(missing)
    source = open_for_making(wish.source, wish.reading)
    opened = opened_for(source, _target(wish, source), lift=wish.lift, verify=wish.verify)
    source = opened.source
    target = _target(wish, source)
    _require_use(wish, target, source)
    target_in_full(target, source)  # a source that cannot become it, before where it would go
    path = wish.out or _beside(opened, default_path(source, target))
    for written in (path, *_named(wish)):
        require_folder(written)
    images = image_files(wish.images)
    require_distinct(_written(wish, path, source), _read(wish, opened, images))
    tell_source(source)
    loosen = 1.0 if wish.loosen is None else wish.loosen
    demand = Demand(images, loosen, weights=False) if wish.verify else None
    if wish.plan_only:
        _plan(opened, target, path, demand, images)
    else:
        _build(opened, target, path, demand, images)


def _beside(opened: Opened, path: Path) -> Path:
    """``path``, or ``NAME_dynamic.onnx`` where the file that was lifted has that name."""
    if opened.lifted and path.exists() and path.samefile(opened.lifted.path):
        return path.with_stem(f"{path.stem}_dynamic")
    return path


def _target(wish: Wish, source: Source) -> Target:
    """The target; raises BadParameter for options that would do nothing for it."""
    from scrfdconv.converters.artifact import Artifact
    from scrfdconv.converters.options import option_fields
    from scrfdconv.converters.precision import precisions
    from scrfdconv.recipes.artifacts.target import target_of

    graph = wish.format.chain()[0]
    is_graph = isinstance(source, Artifact) and source.format == graph.name
    have = graph.precision_of(source.path) if is_graph else "fp32"  # type: ignore[arg-type]
    for one in precisions().values():
        mine = {field.name for field in option_fields(one.options)} & wish.chosen.keys()
        reduced = wish.format is not graph and have == wish.precision != "fp32"
        if mine and reduced:
            raise typer.BadParameter(f"{_flag(wish, mine)}: {source.name} is {have} already.")
    for name in wish.chosen:
        fitting = _precisions_with(wish.format, name)
        if fitting and wish.precision not in fitting:
            wanted = " or ".join(fitting)
            raise typer.BadParameter(f"{wish.flags[name]} is for --precision {wanted}.")
    precision = wish.precision or (None if isinstance(source, Artifact) else "fp32")
    return target_of(wish.format.name, precision, wish.chosen)


def _flag(wish: Wish, names: set[str]) -> str:
    return wish.flags[next(name for name in wish.chosen if name in names)]


def _precisions_with(made: Format, name: str) -> list[str]:
    """The precisions that an option belongs to; none for an option of a format."""
    from scrfdconv.converters.options import option_fields
    from scrfdconv.converters.precision import precisions

    return [
        one.name
        for one in precisions().values()
        if one.name in made.precisions and name in {f.name for f in option_fields(one.options)}
    ]


def _require_use(wish: Wish, target: Target, source: Source) -> None:
    """Refuse options that would change nothing: a number that ignores an option misleads."""
    from scrfdconv.converters.artifact import Artifact

    if isinstance(source, Artifact) and "exporter" in wish.chosen:
        raise typer.BadParameter(
            f"{wish.flags['exporter']} is chosen where a checkpoint is exported; {source.path} is "
            f"{source.format}."
        )
    if isinstance(source, Artifact) and source.normalization.given:
        raise typer.BadParameter(
            f"--{next(iter(source.normalization.given))} says what a network wants; {source.path} "
            "is taken as the graph that it is."
        )
    if wish.verify:
        return
    if wish.loosen is not None:
        raise typer.BadParameter("--loosen is for the verification that --no-verify leaves out.")
    if wish.images and (target.precision or "fp32") == "fp32":
        raise typer.BadParameter("--images is for the verification that --no-verify leaves out.")


def _named(wish: Wish) -> list[Path]:
    """Files named by options, most of them outputs: none may be a file of the artifact."""
    return [value for value in wish.chosen.values() if isinstance(value, Path)]


def _written(wish: Wish, path: Path, source: Source) -> list[Path]:
    """Every file that the verb may write, companions and instructions included."""
    from scrfdconv.converters.formats import files_read

    beside = [file for file in wish.format.companions(path) if file != path]
    if wish.plan_only:  # a source that is the graph already stays there, unchanged
        read = {file.resolve() for file in files_read(source)}
        beside += [f for f in wish.format.instruction_files(path) if f.resolve() not in read]
    return [path, *beside, *_named(wish)]


def _read(wish: Wish, opened: Opened, images: tuple[Path, ...]) -> dict[Path, str]:
    """Input files, with what each is: no input is ever overwritten."""
    from scrfdconv.converters.formats import files_read

    read = dict.fromkeys(images, "a picture that is read")
    if wish.reading.config:
        read[wish.reading.config] = "the config"
    if wish.reading.architecture:
        read[Path(wish.reading.architecture)] = "the architecture"
    return read | files_read(opened.lifted or opened.source)


# ---------------------------------------------------------------- building


def _build(
    opened: Opened, target: Target, path: Path, demand: Demand | None, images: tuple[Path, ...]
) -> None:
    from scrfdconv.recipes.artifacts.conversion import convert

    source = opened.source
    made = convert(source, target, path, demand, images=images, timed=True, stage=output.progress)
    report = made.report and replace(made.report, notes=(*opened.notes, *made.report.notes))
    made = replace(made, report=report, notes=(*opened.notes, *made.notes))
    show_made(made, {"source": source.name, **_lifted(opened)})


def _lifted(opened: Opened) -> dict[str, Any]:
    """For ``--json``: the file that was lifted, and how well the network fits that file."""
    if opened.lifted is None:
        return {}
    fit = opened.fit.to_dict() if opened.fit else None
    changed = list(getattr(opened.source, "notes", ()))
    return {"lifted": {"from": str(opened.lifted.path), "fit": fit, "notes": changed}}


def show_made(made: Made, extra: Mapping[str, Any]) -> None:
    """Print the measurements, then path, size and digest; or all of it as JSON."""
    artifact, report = made.artifact, made.report
    for warning in made.warnings:
        output.say(f"WARNING: {warning}.")
    if output.wants_json():
        output.print_json(
            {
                "path": str(artifact.path),
                "format": artifact.format,
                "precision": artifact.precision,
                "sha256": artifact.digest,
                "size": artifact.size,
                "parents": list(artifact.parents),
                "verified": report is not None and not made.not_run,
                **({"not_run": made.not_run} if made.not_run else {}),
                "report": report.to_dict() if report else None,
                **extra,
                **made.facts,
            }
        )
    elif report:
        output.show_report(report)
    else:
        output.say("WARNING: not verified (--no-verify).")
        for note in made.notes:
            output.show(f"note: {note}")
    if made.not_run:
        output.say(f"WARNING: not run, no output was compared with the source. {made.not_run}")
    for line in made.lines:
        output.show(line)
    output.show(f"{artifact.path}  {artifact.size / 1e6:.2f} MB  sha256 {artifact.digest[:12]}")
    for remark in made.remarks:
        output.say(f"note: {remark}")


# ---------------------------------------------------------------- planning


def _plan(
    opened: Opened, target: Target, path: Path, demand: Demand | None, images: tuple[Path, ...]
) -> None:
    from scrfdconv.recipes.artifacts.conversion import plan_only

    source = opened.source
    for note in opened.notes:
        output.say(f"note: {note}")
    planned = plan_only(source, target, path, demand, images=images, stage=output.progress)
    if not output.wants_json():
        _show_plan(planned)
        return
    report = planned.verified
    output.print_json(
        {
            "built": False,
            "source": source.name,
            **_lifted(opened),
            **planned.instructions.facts,
            "lint": planned.lint.to_dict(),
            "verified": report is not None,
            "report": report.to_dict() if report else None,
        }
    )


def _show_plan(planned: Planned) -> None:
    for line in planned.instructions.lines:
        output.show(line)
    for note in planned.lint.notes:
        output.show(f"  note       {note}")
    if planned.verified:
        output.show(f"  verified   the graph: {planned.verified.summary()}")
    output.show("Copy these to the target machine and run the script:")
    for file in planned.instructions.files:
        output.show(f"  {file}")
