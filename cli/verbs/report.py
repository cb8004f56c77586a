"""The verbs that work on reports of builds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scrfdconv.cli.artifacts import options as o
from scrfdconv.cli.main import PROVE, verbs_below
from scrfdconv.cli.terminal.results import publish

report = typer.Typer(
    help="Merge the reports of builds.",
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
)
verbs_below(report, "report", "Merge the reports of builds.", PROVE)


@report.callback()
def reports() -> None:
    """Work on the reports that `build` writes."""  # a group, although it has one verb


@report.command()
def merge(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="REPORT.json...", help="The report.json of every machine."),
    ],
    out: Annotated[
        Path, typer.Option("-o", "--output", metavar="DIR", help="Where to write the reports.")
    ] = Path(),
    json: o.Json = False,
) -> None:
    """Merge the reports of several machines into one; exit 1 if anything failed on any machine.

    Manifests beside the reports are merged, too, for artifacts that are collected in one folder.
    """
    from scrfdconv.checks.reports.files import NAMES, make_folder
    from scrfdconv.checks.reports.merge import merge_reports
    from scrfdconv.converters.artifact import require_distinct
    from scrfdconv.recipes.build.manifest import NAME as MANIFEST
    from scrfdconv.recipes.build.manifest import merge_manifests

    manifests = [file.with_name(MANIFEST) for file in files]
    read = dict.fromkeys(files, "a report that is read")
    read |= {path: "a manifest that is read" for path in manifests if path.exists()}
    require_distinct([out / name for name in (*NAMES, MANIFEST)], read)
    result = merge_reports(files)
    make_folder(out)
    merge_manifests(manifests, result.recipe, out)
    publish(result, out)
