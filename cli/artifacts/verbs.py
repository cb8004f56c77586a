"""The verbs that make artifacts: one for each format, and one for each reduced precision of ONNX.

Their options come from the declarations of formats and precisions in ``converters``, and from what
every verb needs (the source, what to prove, where to write).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any

import typer

from scrfdconv.cli.artifacts import options as o
from scrfdconv.cli.artifacts.conversion import Wish, make
from scrfdconv.cli.artifacts.sources import reading
from scrfdconv.converters.formats import Format, formats
from scrfdconv.converters.options import OptionField, option_fields
from scrfdconv.converters.precision import FLOAT, Precision, precisions

GRAPH = next(one for one in formats().values() if one.from_itself)
PLAN_ONLY = Annotated[
    bool,
    typer.Option(
        "--plan-only",
        help="Build nothing: write what another machine needs to build it. Needs none of the "
        "libraries.",
    ),
]


@dataclass(frozen=True)
class MakingVerb:
    """One verb: makes artifacts of a format, in the verb's own precision or in a requested one."""

    name: str
    summary: str
    format: Format
    precision: str | None = None  # None: --precision decides

    @property
    def short_help(self) -> str:
        """The first sentence, for the list of verbs."""
        return self.summary.partition("\n")[0]


def making_verbs() -> dict[str, MakingVerb]:
    """All verbs that make artifacts, by name, in the order of formats and precisions."""
    of_formats = (
        MakingVerb(one.verb, one.summary, one)
        for one in formats().values()
        if one.source is not None
    )
    of_precisions = (
        MakingVerb(name, one.summary, GRAPH, name)
        for name, one in precisions().items()
        if one.summary
    )
    return {verb.name: verb for verb in (*of_formats, *of_precisions)}


def function_of(verb: MakingVerb) -> Any:
    """The function that typer makes a command of."""

    def run(context: typer.Context, **values: Any) -> None:
        source = context.get_parameter_source
        given = {name for name in values if getattr(source(name), "name", "") == "COMMANDLINE"}
        make(_wish(verb, values, given))

    parameters = [
        inspect.Parameter("context", inspect.Parameter.KEYWORD_ONLY, annotation=typer.Context),
        *_parameters(verb),
    ]
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    run.__name__ = verb.name
    run.__doc__ = inspect.cleandoc(verb.summary)
    return run


# ---------------------------------------------------------------- options


def _parameters(verb: MakingVerb) -> Iterator[inspect.Parameter]:
    yield _parameter("source", o.Source, None)
    for field in _format_fields(verb):
        yield _parameter(field.name, _annotation(field), _default(field))
    if verb.precision is None and verb.format.precisions != (FLOAT,):
        named: Any = StrEnum("Precision", {p: p for p in verb.format.precisions})  # type: ignore[misc]
        option = typer.Option(
            "--precision",
            help="Of weights and arithmetic; int8 needs --images.",
            show_default="the source's",
        )
        yield _parameter("precision", Annotated[named | None, option], None)
    for field in _precision_fields(verb):
        yield _parameter(field.name, _annotation(field, _heading(verb, field)), _default(field))
    if _plans(verb.format):
        yield _parameter("plan_only", PLAN_ONLY, default=False)
    yield _parameter("out", o.Output, None)
    yield _parameter("images", o.Images, None)
    yield _parameter("architecture", o.Architecture, None)
    yield _parameter("config", o.Config, None)
    yield _parameter("norm_groups", o.NormGroups, None)
    yield _parameter("mean", o.Mean, None)
    yield _parameter("std", o.Std, None)
    yield _parameter("color", o.Color, None)
    yield _parameter("seed", o.Seed, 0)
    yield _parameter("loosen", o.Loosen, 1.0)
    yield _parameter("no_lift", o.NoLift, default=False)
    yield _parameter("no_verify", o.NoVerify, default=False)
    yield _parameter("json", o.Json, default=False)


def _format_fields(verb: MakingVerb) -> list[OptionField]:
    kinds = dict.fromkeys(one.options for one in verb.format.chain())
    return [field for kind in kinds for field in option_fields(kind)]


def _precisions_of(verb: MakingVerb) -> list[Precision]:
    names = (verb.precision,) if verb.precision else verb.format.precisions
    native = verb.format.native_precisions
    return [one for name, one in precisions().items() if name in names and name not in native]


def _precision_fields(verb: MakingVerb) -> list[OptionField]:
    """Options of all precisions of the verb; an option of two precisions appears once."""
    found: dict[str, OptionField] = {}
    for one in _precisions_of(verb):
        for field in option_fields(one.options):
            found.setdefault(field.name, field)
    return list(found.values())


def _heading(verb: MakingVerb, field: OptionField) -> str:
    """``For --precision int8``, where the verb leaves the precision open."""
    if verb.precision:
        return ""
    names = [p.name for p in _precisions_of(verb) if field in option_fields(p.options)]
    return f"For --precision {' or '.join(names)}"


def _plans(one: Format) -> bool:
    return type(one).instructions is not Format.instructions


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(
        name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation
    )


def _annotation(field: OptionField, group: str = "") -> Any:
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


def _default(field: OptionField) -> Any:
    if field.repeated:
        return None
    return str(field.default) if field.option.word_for_none else field.default


# ---------------------------------------------------------------- what was asked for


def _wish(verb: MakingVerb, values: Mapping[str, Any], given: set[str]) -> Wish:
    """The values of the command line, sorted by what they are for."""
    precision = verb.precision or (values.get("precision") and str(values["precision"]))
    fields = {f.name: f for f in (*_format_fields(verb), *_precision_fields(verb))}
    return Wish(
        format=verb.format,
        precision=precision or None,
        chosen={name: _value(fields[name], values[name]) for name in fields if name in given},
        flags={name: field.flag for name, field in fields.items()},
        source=values["source"],
        plan_only=values.get("plan_only", False),
        out=values["out"],
        images=values["images"],
        reading=reading(
            (values["mean"], values["std"], values["color"]),
            architecture=values["architecture"],
            config=values["config"],
            groups=values["norm_groups"],
            seed=values["seed"],
        ),
        loosen=values["loosen"] if "loosen" in given else None,
        verify=not values["no_verify"],
        lift=not values["no_lift"],
    )


def _value(field: OptionField, value: Any) -> Any:
    if field.option.word_for_none:
        return None if value == field.option.word_for_none else int(value)
    if field.choices and value is not None:
        return str(value)
    if field.repeated:
        return tuple(value or ())
    return tuple(value) if isinstance(value, list) else value
