"""The verb verify: is this deployed file that model?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from scrfdconv.cli import options as o
from scrfdconv.cli import output
from scrfdconv.cli.main import PROVE, app
from scrfdconv.cli.making import open_for_making


@app.command(rich_help_panel=PROVE)
def verify(
    artifact: Annotated[Path, typer.Argument(help="A converted model, of ours or released.")],
    reference: Annotated[
        str, typer.Option(help="What it should be: a checkpoint, another artifact, or a name.")
    ],
    images: o.Images = None,
    recipe: o.Recipe = None,
    config: o.Config = None,
    norm_groups: o.NormGroups = None,
    seed: o.Seed = 0,
    loosen: o.Loosen = 1.0,
    json: o.Json = False,
) -> None:
    """Measure whether ARTIFACT is the same function as the reference; exit 1 if it is not."""
    from scrfdconv.checks.images import find_images
    from scrfdconv.checks.verify import Demand
    from scrfdconv.checks.verify import verify as verify_artifact
    from scrfdconv.converters.artifact import digest_of, kind_of

    kind = kind_of(artifact)
    source = open_for_making(reference, recipe, config, norm_groups, seed)
    demand = Demand(tuple(find_images(images)) if images else (), loosen)
    with output.working(f"comparing {artifact.name} with {source.name}"):
        report = verify_artifact(source, artifact, demand)
    if json:
        content = {"artifact": str(artifact), "kind": kind, "sha256": digest_of(artifact),
                   "reference": {"name": source.name, "sha256": source.digest}}  # fmt: skip
        output.print_json({**content, **report.to_dict()})
    else:
        output.show_report(report)
    if not report.passed:
        output.say(f"scrfdconv: {artifact} is not {source.name}: {report.summary()}.")
        raise typer.Exit(report.exit_code)
