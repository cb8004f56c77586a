"""Options of formats and precisions, declared once as the fields of a frozen class.

These declarations give the options of the command line, the keys of recipes and the cache keys of
builds. No library is imported here: every ``--help`` reads the declarations.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, fields
from functools import cache
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from scrfdconv.converters.errors import UsageError

DYNAMIC = "dynamic"  # the word for a size that is left free


@dataclass(frozen=True, kw_only=True)
class Option:
    """How one field of an options class appears on the command line and in recipes."""

    help: str
    flag: str = ""  # "": the field's name with dashes
    metavar: str = ""
    least: float | None = None
    most: float | None = None
    shown_default: str = ""  # what --help shows where the default is None
    in_name: str = ""  # what another value than the default adds to a file's name: "opset{}"
    none_means: Any = None  # the value that None has in builds, which start from checkpoints
    word_for_none: str = ""  # what users type for None, beside a value
    in_recipes: bool = True
    group: str = ""  # heading in --help


@dataclass(frozen=True, kw_only=True)
class OptionField:
    """One field of an options class, with everything that its declaration says."""

    name: str
    kind: Any  # the type without None
    optional: bool
    default: Any
    option: Option

    @property
    def flag(self) -> str:
        """``--keep-float``, as the command line has it."""
        return self.option.flag or f"--{self.name.replace('_', '-')}"

    @property
    def choices(self) -> tuple[Any, ...]:
        """All possible values; empty for a field that is not a choice."""
        return get_args(self.kind) if get_origin(self.kind) is Literal else ()

    @property
    def repeated(self) -> bool:
        """True for a field of any number of texts."""
        return bool(self.kind == tuple[str, ...])

    def require(self, value: Any) -> None:
        """Raise UsageError for a value that the declaration does not allow."""
        least, most = self.option.least, self.option.most
        if value is None and self.optional:
            return
        if self.choices and value not in self.choices:
            known = ", ".join(map(str, self.choices))
            raise UsageError(f"{self.flag} {value}: known are {known}.")
        if (least is not None and not value >= least) or (most is not None and not value <= most):
            bounds = [f"at least {least:g}"] if least is not None else []
            bounds += [f"at most {most:g}"] if most is not None else []
            raise UsageError(f"{self.flag} {value}: must be {' and '.join(bounds)}.")


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base of all options classes: values outside their declaration raise UsageError."""

    def __post_init__(self) -> None:
        kind: Any = type(self)  # a class is hashable, whatever type checkers think
        for field in option_fields(kind):
            field.require(getattr(self, field.name))


@dataclass(frozen=True, kw_only=True)
class NoOptions(Options):
    """Nothing to choose."""


@dataclass(frozen=True, kw_only=True)
class SizeOptions(Options):
    """Dynamic unless ``shape`` (H, W) is given; then ``batch`` images of it, None for any."""

    shape: Annotated[
        tuple[int, int] | None,
        Option(help="Fix height and width, multiples of 32.", metavar="H W"),
    ] = None
    batch: Annotated[
        int | None,
        Option(
            help="Images per run of a fixed shape, or dynamic: any number of them.",
            metavar="N",
            least=1,
            in_name="batch{}",
            none_means=DYNAMIC,
            word_for_none=DYNAMIC,
        ),
    ] = 1


@cache
def option_fields(options: type) -> tuple[OptionField, ...]:
    """The declared fields of an options class, in their order."""
    hints = get_type_hints(options, include_extras=True)
    return tuple(_field(f.name, hints[f.name], f.default) for f in fields(options))


def _field(name: str, hint: Any, default: Any) -> OptionField:
    if get_origin(hint) is not Annotated or default is MISSING:
        raise AssertionError(f"the option {name} needs an Annotated type and a default")
    kind, option = get_args(hint)
    parts = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    (bare,) = [part for part in parts if part is not type(None)]
    return OptionField(
        name=name, kind=bare, optional=len(parts) > 1, default=default, option=option
    )
