"""The verb pack: folders that a server or an app loads as they are, one command for each kind."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from scrfdconv.cli.artifacts import options as o
from scrfdconv.cli.artifacts.declared import annotation, default_of, parameter, value_of
from scrfdconv.cli.main import MAKE, Command, verbs_below
from scrfdconv.cli.terminal import output
from scrfdconv.converters.options import option_fields
from scrfdconv.recipes.packs import Pack, packs

pack = typer.Typer(
    help="Write a folder that a server or an app loads as it is.",
    rich_markup_mode=None,
    no_args_is_help=True,
    add_completion=False,
)
verbs_below(pack, "pack", "Write a folder that a server or an app loads as it is.", MAKE)

Model = Annotated[Path, typer.Argument(metavar="MODEL", help="A model that was converted.")]
Folder = Annotated[Path, typer.Option("-o", "--output", metavar="DIR", help="Where to write.")]


@pack.callback()
def kinds() -> None:
    """Write a folder that a server or an app loads as it is."""


def _command_of(kind: Pack) -> Any:
    """The function that typer makes a command of."""
    fields = option_fields(kind.options)

    def run(model: Path, out: Path, json: bool, **values: Any) -> None:
        chosen = {field.name: value_of(field, values[field.name]) for field in fields}
        _pack(kind, model, out, kind.options(**chosen))

    parameters = [
        parameter("model", Model, inspect.Parameter.empty),
        *(parameter(field.name, annotation(field), default_of(field)) for field in fields),
        parameter("out", Folder, inspect.Parameter.empty),
        parameter("json", o.Json, default=False),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__doc__ = kind.summary
    return run


for _kind in packs().values():
    pack.command(_kind.name, cls=Command)(_command_of(_kind))


def _pack(kind: Pack, model: Path, out: Path, options: Any) -> None:
    from scrfdconv.recipes.packs.writing import write_pack

    with output.working(f"packing {model.name}"):
        packed = write_pack(kind, model, out, options)
    report = packed.report
    if packed.not_run:
        output.say(f"WARNING: not run, nothing was read as {kind.title} does. {packed.not_run}")
    if output.wants_json():
        output.print_json(
            {
                "kind": kind.name,
                "name": packed.name,
                "path": str(packed.folder),
                "files": [str(file) for file in packed.files],
                "source": str(model),
                "sha256": packed.source.digest,
                "verified": report is not None,
                **({"not_run": packed.not_run} if packed.not_run else {}),
                "report": report.to_dict() if report else None,
            }
        )
    elif report:
        output.show_report(report)
    for file in packed.files:
        output.show(str(file))
