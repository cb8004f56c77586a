"""The verb bisect: where does an artifact begin to differ?"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from scrfdconv.cli.artifacts import options as o
from scrfdconv.cli.artifacts.reading import READ_FROM_OPTIONS, Reading
from scrfdconv.cli.artifacts.sources import open_for_making
from scrfdconv.cli.main import PROVE, verb
from scrfdconv.cli.terminal import output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scrfdconv.checks.bisection.layer_errors import Bisection, LayerError
    from scrfdconv.converters.formats import Source

FAILED = 1
MOST_SENSITIVE = 5  # layers that the last line names; --json has all
Artifact = Annotated[Path, typer.Argument(help="A file whose runtime shows what its layers give.")]
Reference = Annotated[
    str, typer.Option(help="What ARTIFACT should be: a checkpoint, another ONNX model, or a name.")
]
Everything = Annotated[
    bool, typer.Option("--all", help="Name every layer that is at fault, not the first one alone.")
]


@verb(PROVE)
def bisect(
    artifact: Artifact,
    reference: Reference,
    images: o.Images = None,
    everything: Everything = False,
    reading: Reading = READ_FROM_OPTIONS,
    json: o.Json = False,
) -> None:
    """Name the first layer where ARTIFACT differs from the reference, and how; exit 1 if one does.

    Every layer runs on the values of the reference: its error is its own.
    """
    from scrfdconv.checks.faces.images import image_files
    from scrfdconv.checks.verification import Demand, verify
    from scrfdconv.converters.formats import format_of

    format_of(artifact)  # what is wrong with the artifact is said before the reference is loaded
    source = open_for_making(reference, reading)
    pictures = image_files(images)
    with output.working(f"comparing {artifact.name} with {source.name}"):
        report = verify(source, artifact, Demand(pictures))
        found = _bisected(source, artifact, pictures, passed=report.passed)
    verdict = found.line()
    if report.passed:  # the same function in another arrangement is no fault
        verdict = f"no layer is at fault: {artifact.name} is {source.name}, {report.summary()}"
    if json:
        output.print_json(_to_dict(found, verdict, passed=report.passed))
    else:
        output.show(verdict)
        for layer in found.faulty[1:] if everything and not report.passed else ():
            output.show(f"and {layer.line()}")
        _show_table(found)
    if not report.passed:
        output.say(f"scrfdconv: {artifact} is not {source.name}: {verdict}.")
        raise typer.Exit(FAILED)


def _bisected(source: Source, path: Path, images: Sequence[Path], *, passed: bool) -> Bisection:
    """The comparison layer by layer; a right model may be arranged so that none is possible."""
    from scrfdconv.checks.bisection.layer_errors import Bisection
    from scrfdconv.converters.errors import ArtifactError
    from scrfdconv.recipes.bisection import bisected

    try:
        return bisected(source, path, images)
    except ArtifactError:
        if passed:
            return Bisection(())
        raise


def _to_dict(found: Bisection, verdict: str, *, passed: bool) -> dict[str, Any]:
    from scrfdconv.converters.structured import to_plain

    def plain(layer: LayerError) -> dict[str, Any]:
        fields = asdict(layer)
        return {k: to_plain(v) if isinstance(v, float) else v for k, v in fields.items()}

    return {
        "passed": passed,
        "verdict": verdict,
        "faulty": [] if passed else [layer.layer for layer in found.faulty],
        "layers": [plain(layer) for layer in found.layers],
        "unaligned": list(found.unaligned),
        "sensitivity": {layer.layer: to_plain(layer.sqnr) for layer in found.sensitive},
    }


def _show_table(found: Bisection) -> None:
    from scrfdconv.checks.metrics import SILENT_SQNR

    if not found.layers:
        return
    output.show("")
    output.show("in     dB, alone  slope    dB, whole  layer")
    for layer in found.layers:
        alone, whole = (
            "equal" if value >= SILENT_SQNR else f"{value:.1f}"
            for value in (layer.sqnr, layer.whole)
        )
        mark = f"  <- {layer.fault}" if layer.fault else ""
        output.show(
            f"{layer.precision:<5}  {alone:>9}  {layer.slope:<7.1e}  {whole:>9}  "
            f"{layer.layer}{mark}"
        )
    for name in found.unaligned:
        output.show(f"not aligned: {name}")
    if found.sensitive:
        most = ", ".join(
            f"{one.layer} {one.sqnr:.1f} dB" for one in found.sensitive[:MOST_SENSITIVE]
        )
        output.show(f"8 bits cost most in: {most}")
