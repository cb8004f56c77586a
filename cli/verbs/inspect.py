"""The verb inspect: what is this file?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from scrfdconv.cli.artifacts import options as o
from scrfdconv.cli.artifacts.reading import READ_FROM_OPTIONS, ReadingFile
from scrfdconv.cli.main import LOOK_UP, verb
from scrfdconv.cli.terminal import output


@verb(LOOK_UP)
def inspect(
    file: Annotated[Path, typer.Argument(help="A checkpoint or an artifact.")],
    reading: ReadingFile = READ_FROM_OPTIONS,
    allow_host_code: o.AllowHostCode = False,
    json: o.Json = False,
) -> None:
    """Say what a file is: kind, architecture, inputs and outputs, precision, digest, metadata."""
    from scrfdconv.converters.system.permissions import allowing_host_code
    from scrfdconv.recipes.describe import facts_of_file

    with allowing_host_code(allowed=allow_host_code):
        facts = facts_of_file(file, reading)
    if json:
        output.print_json(facts)
        return
    for key, value in facts.items():
        _show(key, value)


def _show(key: str, value: Any, indent: str = "") -> None:
    if isinstance(value, dict):
        output.show(f"{indent}{key}:")
        for inner, item in value.items():
            _show(inner, item, indent + "  ")
    elif isinstance(value, list):
        output.show(f"{indent}{key}: {', '.join(map(str, value)) or '-'}")
    else:
        output.show(f"{indent}{key}: {value}")
