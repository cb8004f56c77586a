"""What every verb that makes an artifact says of its source and of what it made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from scrfdconv.cli import output

if TYPE_CHECKING:
    from scrfdconv.converters.formats import Source
    from scrfdconv.recipes.convert import Made


def require_shape_for_batch(shape: tuple[int, int] | None, batch: int) -> None:
    """Refuse --batch without --shape: a dynamic model takes any batch."""
    if batch != 1 and shape is None:
        raise typer.BadParameter(
            "--batch fixes the batch of a fixed shape: give --shape H W, too; a dynamic model "
            "takes any batch."
        )


def tell_source(source: Source) -> None:
    """Say which network a checkpoint is, and loudly if its weights are untrained."""
    from scrfdconv.converters.checkpoint import Checkpoint

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
