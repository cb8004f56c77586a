"""The verb verify: is this deployed file that model?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrfdconv.cli.artifacts import options as o
from scrfdconv.cli.artifacts.reading import READ_FROM_OPTIONS, READING, Reading
from scrfdconv.cli.artifacts.sources import open_for_making
from scrfdconv.cli.main import PROVE, verb
from scrfdconv.cli.terminal import output

if TYPE_CHECKING:
    from scrfdconv.checks.verification import Demand
    from scrfdconv.converters.formats import Source

MANIFEST_SUFFIX = ".json"  # no model is a JSON file
FAILED = 1


Artifact = Annotated[
    Path,
    typer.Argument(help="A converted model, made here or released, or a manifest.json of build."),
]
Reference = Annotated[
    str | None,
    typer.Option(
        help="What ARTIFACT should be: a checkpoint, another artifact, or a name. "
        "For a manifest: a file or folder with its checkpoints."
    ),
]
RerunOption = Annotated[
    bool, typer.Option("--rerun", help="For a manifest: measure its artifacts again.")
]


@verb(PROVE)
def verify(
    artifact: Artifact,
    reference: Reference = None,
    rerun: RerunOption = False,
    images: o.Images = None,
    reading: Reading = READ_FROM_OPTIONS,
    allow_host_code: o.AllowHostCode = False,
    loosen: o.Loosen = 1.0,
    json: o.Json = False,
    *,
    context: typer.Context,
) -> None:
    """Measure whether ARTIFACT is the same function as the reference; exit 1 if it is not.

    A manifest.json is compared with the files beside it: digests, and with --rerun all numbers.
    """
    from scrfdconv.converters.system.permissions import allowing_host_code

    if artifact.suffix == MANIFEST_SUFFIX:
        _require_for_manifest(context)
        if allow_host_code and not rerun:
            raise typer.BadParameter("--allow-host-code is for --rerun: digests run nothing.")
        with allowing_host_code(allowed=allow_host_code):
            _verify_manifest(artifact, reference, images, json=json, rerun=rerun)
        return
    if reference is None or rerun:
        raise typer.BadParameter(
            "--rerun is for a manifest.json"
            if rerun
            else "--reference says what the artifact should be."
        )
    from scrfdconv.checks.faces.images import image_files
    from scrfdconv.checks.verification import Demand
    from scrfdconv.converters.formats import format_of

    format_of(artifact)  # what is wrong with the artifact is said before the reference is loaded
    source = open_for_making(reference, reading)
    with allowing_host_code(allowed=allow_host_code):
        _compare(artifact, source, Demand(image_files(images), loosen), json=json)


def _compare(artifact: Path, source: Source, demand: Demand, *, json: bool) -> None:
    from scrfdconv.checks.verification import verify as verify_artifact
    from scrfdconv.recipes.bisection import first_fault

    with output.working(f"comparing {artifact.name} with {source.name}"):
        report = verify_artifact(source, artifact, demand)
        begins = "" if report.passed else first_fault(source, artifact)
    if json:
        where = {"begins": begins} if begins else {}
        output.print_json({**_compared(artifact, source), **report.to_dict(), **where})
    else:
        output.show_report(report)
    if not report.passed:
        what = "; ".join(filter(None, [report.summary(), begins]))
        output.say(f"scrfdconv: {artifact} is not {source.name}: {what}.")
        raise typer.Exit(report.exit_code)


def _compared(artifact: Path, source: Source) -> dict[str, Any]:
    """Which files were compared."""
    from scrfdconv.converters.artifact import digest_of_files
    from scrfdconv.converters.formats import format_of

    found = format_of(artifact)
    return {
        "artifact": str(artifact),
        "kind": found.name,
        "sha256": digest_of_files(found.files(artifact)),
        "reference": {"name": source.name, "sha256": source.digest},
    }


def _require_for_manifest(context: typer.Context) -> None:
    """Refuse options that mean nothing for a manifest: each entry has its own."""
    for name in (*READING.members, "loosen"):
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            flag = f"--{name.replace('_', '-')}"
            raise typer.BadParameter(f"{flag} is not for a manifest.json: its entries say it.")


def _verify_manifest(
    path: Path, reference: str | None, images: list[Path] | None, *, json: bool, rerun: bool
) -> None:
    from scrfdconv.checks.faces.images import image_files
    from scrfdconv.recipes.build.verify_manifest import Rerun, verify_manifest

    again = None
    if rerun:
        places = (Path(reference),) if reference else ()
        again = Rerun(places, image_files(images))
    elif reference or images:
        raise typer.BadParameter("--reference and --images are for --rerun.")
    with output.progress(f"checking {path.name}") as progress:
        reports = verify_manifest(path, again, progress)
    bad = [name for name, report in reports.items() if not report.passed]
    for name, report in reports.items():
        output.show(f"{'FAILED' if name in bad else 'ok':<8}{name}  {report.summary()}")
        for note in report.notes:
            output.show(f"        note: {note}")
    if json:
        artifacts = {name: report.to_dict() for name, report in reports.items()}
        passed = bool(reports) and not bad
        output.print_json({"manifest": str(path), "passed": passed, "artifacts": artifacts})
    if bad or not reports:
        first = f", first {bad[0]}: {reports[bad[0]].summary()}" if bad else ""
        output.say(f"scrfdconv: {path}: {len(bad)} of {len(reports)} artifacts failed{first}.")
        raise typer.Exit(FAILED)
