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
from scrfdconv.cli.artifacts.declared import annotation, default_of, parameter, value_of
from scrfdconv.cli.artifacts.reading import READING
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
    yield parameter("source", o.Source, None)
    for field in _format_fields(verb):
        yield parameter(field.name, annotation(field), default_of(field))
    if verb.precision is None and verb.format.precisions != (FLOAT,):
        named: Any = StrEnum("Precision", {p: p for p in verb.format.precisions})  # type: ignore[misc]
        option = typer.Option(
            "--precision",
            help="Of weights and arithmetic; int8 needs --images.",
            show_default="the source's",
        )
        yield parameter("precision", Annotated[named | None, option], None)
    for field in _precision_fields(verb):
        yield parameter(field.name, annotation(field, _heading(verb, field)), default_of(field))
    if _plans(verb.format):
        yield parameter("plan_only", PLAN_ONLY, default=False)
    yield parameter("out", o.Output, None)
    yield parameter("images", o.Images, None)
    yield from READING.parameters()
    yield parameter("loosen", o.Loosen, 1.0)
    yield parameter("no_lift", o.NoLift, default=False)
    yield parameter("no_verify", o.NoVerify, default=False)
    yield parameter("json", o.Json, default=False)


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


# ---------------------------------------------------------------- what was asked for


def _wish(verb: MakingVerb, values: Mapping[str, Any], given: set[str]) -> Wish:
    """The values of the command line, sorted by what they are for."""
    precision = verb.precision or (values.get("precision") and str(values["precision"]))
    fields = {f.name: f for f in (*_format_fields(verb), *_precision_fields(verb))}
    return Wish(
        format=verb.format,
        precision=precision or None,
        chosen={name: value_of(fields[name], values[name]) for name in fields if name in given},
        flags={name: field.flag for name, field in fields.items()},
        source=values["source"],
        plan_only=values.get("plan_only", False),
        out=values["out"],
        images=values["images"],
        reading=READING.taken_from(values),
        loosen=values["loosen"] if "loosen" in given else None,
        verify=not values["no_verify"],
        lift=not values["no_lift"],
    )
