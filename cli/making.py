"""What every verb that makes an artifact says of its source and of what it made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from scrfdconv.cli import output

if TYPE_CHECKING:
    from pathlib import Path

    from scrfdconv.converters.formats import Source
    from scrfdconv.recipes.convert import Made


def require_shape_for_batch(shape: tuple[int, int] | None, batch: int) -> None:
    """Refuse --batch without --shape: a dynamic model takes any batch."""
    if batch != 1 and shape is None:
        raise typer.BadParameter(
            "--batch fixes the batch of a fixed shape: give --shape H W, too; a dynamic model "
            "takes any batch."
        )


def open_for_making(
    source: str | None, recipe: str | None, config: Path | None, groups: int | None, seed: int
) -> Source:
    """SOURCE; options that mean nothing for it are refused, not ignored."""
    from scrfdconv.converters.checkpoint.loading import Checkpoint
    from scrfdconv.recipes.convert import SourceOptions, open_source

    opened = open_source(source, SourceOptions(recipe, config, groups, seed))
    said = {"--recipe": recipe, "--config": config, "--norm-groups": groups}
    given = [option for option, value in said.items() if value is not None]
    if given and not isinstance(opened, Checkpoint):
        raise typer.BadParameter(
            f"{given[0]} says what a checkpoint is; {opened.path} is {opened.format}."
        )
    seeded = isinstance(opened, Checkpoint) and opened.seeded
    if groups is not None and seeded:
        raise typer.BadParameter(f"--norm-groups is for checkpoint files, not for {opened.name}.")
    if seed and not seeded:
        raise typer.BadParameter(f"--seed draws the weights of built-in models; {source} has some.")
    return opened


def tell_source(source: Source) -> None:
    """Say which network a checkpoint is, and loudly if its weights are untrained."""
    from scrfdconv.converters.checkpoint.loading import Checkpoint

    if not isinstance(source, Checkpoint):
        return
    output.say(f"{source.name}: {source.architecture.name}, by {source.recognised_by}")
    for note in source.notes:
        output.say(f"note: {note}")
    output.say_if_seeded(source)


def show_made(made: Made, extra: dict[str, Any]) -> None:
    """Print the measurements, then path, size and digest; or all of it as JSON."""
    artifact, report = made.artifact, made.report
    size = artifact.path.stat().st_size
    if output.wants_json():
        output.print_json(
            {
                "path": str(artifact.path),
                "format": artifact.format,
                "precision": artifact.precision,
                "sha256": artifact.digest,
                "size": size,
                "parents": list(artifact.parents),
                "verified": report is not None,
                "report": report.to_dict() if report else None,
                **extra,
            }
        )
        return
    if report:
        output.show_report(report)
    else:
        output.say("WARNING: not verified (--no-verify).")
    output.show(f"{artifact.path}  {size / 1e6:.2f} MB  sha256 {artifact.digest[:12]}")
