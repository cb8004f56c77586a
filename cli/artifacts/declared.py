"""Options of the command line from the fields of options classes (`converters.options`)."""

from __future__ import annotations

import inspect
from enum import StrEnum
from typing import Annotated, Any

import typer

from scrfdconv.cli.artifacts import options as o
from scrfdconv.converters.options import OptionField


def parameter(name: str, kind: Any, default: Any) -> inspect.Parameter:
    """A parameter of a command's function."""
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def annotation(field: OptionField, group: str = "") -> Any:
    """A field as typer declares options."""
    kind, option = field.kind, field.option
    if option.word_for_none:
        return _number_or_word(field)
    if field.choices:
        kind = _choices(field)
    elif field.repeated:
        kind = list[str]
    declared = typer.Option(
        field.flag,
        help=option.help,
        metavar=option.metavar or None,
        min=option.least,
        max=option.most,
        show_default=option.shown_default or True,
        rich_help_panel=option.group or group or None,
    )
    wanted = kind | None if field.optional or field.repeated else kind
    return Annotated[wanted, declared]


def _number_or_word(field: OptionField) -> Any:
    """An option whose value is a whole number, or the word for None."""

    def read(text: str) -> str:
        return o.number_or_word(text, field.option.word_for_none, int(field.option.least or 0))

    declared = typer.Option(
        field.flag, help=field.option.help, metavar=field.option.metavar, parser=read
    )
    return Annotated[str, declared]


def _choices(field: OptionField) -> Any:
    """An enumeration, as typer wants choices."""
    return StrEnum(field.name.title(), {choice: choice for choice in field.choices})


def default_of(field: OptionField) -> Any:
    """The default of a field as typer declares options."""
    if field.repeated:
        return None
    return str(field.default) if field.option.word_for_none else field.default


def value_of(field: OptionField, value: Any) -> Any:
    """The value for an options class, from what typer read."""
    if field.option.word_for_none:
        return None if value == field.option.word_for_none else int(value)
    if field.choices and value is not None:
        return str(value)
    if field.repeated:
        return tuple(value or ())
    return tuple(value) if isinstance(value, list) else value
