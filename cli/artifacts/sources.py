"""Open SOURCE and REFERENCE, and refuse options that mean nothing for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from scrfdconv.cli.terminal import output

if TYPE_CHECKING:
    from scrfdconv.converters.formats import Source
    from scrfdconv.recipes.artifacts.sources import SourceOptions


def open_for_making(source: str | None, options: SourceOptions) -> Source:
    """Open SOURCE; options that mean nothing for this source are refused, not ignored."""
    from scrfdconv.converters.checkpoint.loading import Checkpoint
    from scrfdconv.recipes.artifacts.sources import open_source

    opened = open_source(source, options)
    groups, seed = options.groups, options.seed
    said = {
        "--architecture": options.architecture,
        "--config": options.config,
        "--norm-groups": groups,
    }
    given = [option for option, value in said.items() if value is not None]
    if given and not isinstance(opened, Checkpoint):
        raise typer.BadParameter(
            f"{given[0]} says what a checkpoint is; {opened.path} is {opened.format}."
        )
    seeded = isinstance(opened, Checkpoint) and opened.seeded
    if groups is not None and seeded:
        raise typer.BadParameter(f"--norm-groups is for checkpoint files, not for {opened.name}.")
    if seed and not seeded:
        raise typer.BadParameter(
            f"--seed draws the weights of built-in models; {source} has weights already."
        )
    return opened


def tell_source(source: Source) -> None:
    """Say which network a checkpoint is, and warn if its weights are untrained."""
    from scrfdconv.converters.checkpoint.loading import Checkpoint

    if not isinstance(source, Checkpoint):
        return
    output.say(f"{source.name}: {source.architecture.name}, by {source.recognised_by}")
    for note in source.notes:
        output.say(f"note: {note}")
    output.say_if_seeded(source)
