"""The verb optimize: which file is the fastest here and keeps the faces?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scrfdconv.cli.artifacts import options as o
from scrfdconv.cli.artifacts.reading import READ_FROM_OPTIONS, Reading
from scrfdconv.cli.main import MAKE, verb
from scrfdconv.cli.terminal import output
from scrfdconv.converters.precision.int8 import DEFAULT_FACE_LOSS

if TYPE_CHECKING:
    from scrfdconv.recipes.bench import ComparedModel
    from scrfdconv.recipes.optimize import Optimized

FAILED = 1
MEGABYTE = 1e6
HEADINGS = (
    "candidate", "", "threads", "median ms", "ratio", "runs", "file MB", "faces lost/new",
)  # fmt: skip
WORDS = 3  # columns on the left that are no numbers

Source = Annotated[
    str, typer.Argument(metavar="SOURCE", help="A checkpoint, or an ONNX file to lift one from.")
]
Photographs = Annotated[
    list[Path], typer.Option("--images", help="Photographs with faces, files or folders.")
]
FaceLoss = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Share of SOURCE's faces that the file may lose, and as many that may be new.",
    ),
]
Threads = Annotated[
    list[str] | None,
    typer.Option(
        metavar="N|all",
        help="Of each runtime; given twice, both are timed and the first decides.",
        show_default="all, then 1",
        parser=lambda text: o.number_or_word(text, o.ALL, 1),
    ),
]
Candidates = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME", help="A format, or FORMAT-PRECISION; repeatable.", show_default="all"
    ),
]
Out = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="DIR", help="New.", show_default="NAME_fastest"),
]


@verb(MAKE)
def optimize(
    source: Source,
    images: Photographs,
    shape: o.Shape = None,
    max_face_loss: FaceLoss = DEFAULT_FACE_LOSS,
    threads: Threads = None,
    candidates: Candidates = None,
    runs: Annotated[int, typer.Option(min=1, help="Most measured runs of a candidate.")] = 48,
    out: Out = None,
    reading: Reading = READ_FROM_OPTIONS,
    json: o.Json = False,
) -> None:
    """Keep the fastest file for this machine that keeps the faces of SOURCE.

    Every format and precision that runs here is built, verified, judged on the photographs and
    timed in turns.
    """
    from scrfdconv.checks.faces.images import image_files
    from scrfdconv.cli.artifacts.sources import open_for_making, tell_source
    from scrfdconv.recipes.optimize import OptimizeOptions
    from scrfdconv.recipes.optimize import optimize as search

    options = OptimizeOptions(
        images=image_files(images),
        shape=shape,
        max_face_loss=max_face_loss,
        threads=o.thread_counts(threads or [o.ALL, "1"]),
        candidates=tuple(candidates or ()),
        runs=runs,
    )
    opened = open_for_making(source, reading)
    tell_source(opened)
    folder = out or Path(f"{opened.name}_fastest")
    found = search(source, opened, reading, options, folder, output.progress, output.say)
    if json:
        output.print_json(found.to_dict())
    else:
        _show(found)
    if not found.kept:
        output.say(
            f"scrfdconv: no candidate keeps the faces within --max-face-loss {max_face_loss:g}; "
            "nothing was kept."
        )
        raise typer.Exit(FAILED)


def _show(found: Optimized) -> None:
    from scrfdconv.recipes.optimize import told

    numbers = len(HEADINGS) - 2
    failed = [(name, "left out", *("-",) * numbers) for name in found.left_out]
    rows = [_cells(one, found) for one in found.compared]
    output.show_columns([HEADINGS, *rows, *failed], WORDS)
    judged = found.compared[0].agreement
    assert judged is not None
    allowed = found.budget.allowed(found.compared[0])
    output.show(
        f"faces: of the {judged.reference_faces} that the source finds on {judged.images} "
        f"photographs, {allowed} may be lost and {allowed} new; front: no other candidate is "
        "faster and keeps as many"
    )
    for why in dict.fromkeys(found.left_out.values()):
        names = [name for name, reason in found.left_out.items() if reason == why]
        output.show(f"left out: {', '.join(names)}: {why}")
    if found.note:
        output.say(f"note: {found.note}")
    if found.kept:
        model = found.kept.model
        output.show(f"{found.kept.path}  {told(model)}, {1e3 * model.timing.median:.2f} ms")
        if found.in_two_arithmetics(model):
            output.show(f"computed in {model.timing.precision}: set {model.timing.setting}")
        output.show(f"again, without a search: {found.kept.command}")


def _cells(model: ComparedModel, found: Optimized) -> tuple[str, ...]:
    from scrfdconv.recipes.optimize import told

    timing, kept = model.timing, model.agreement
    assert kept is not None
    marks = {
        "kept": found.is_kept(model),
        "front": found.is_on_front(model),
        "loses too many": not found.budget.holds(model),
    }
    return (
        told(model),
        next((mark for mark, true in marks.items() if true), ""),
        str(model.threads or o.ALL),
        f"{1e3 * timing.median:.2f}",
        f"{model.ratio.median:.3f}",
        str(len(timing.seconds)),
        f"{model.file_bytes / MEGABYTE:.2f}" if model.file_bytes else "-",
        f"{model.faces_lost}/{kept.extra}",
    )
