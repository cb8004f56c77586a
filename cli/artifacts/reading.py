"""How a model is read, as one parameter of a verb: typer sees the options, the verb their meaning.

A verb declares ``reading: Reading`` (or ``ReadingFile``, ``ReadingToRun``) and gets SourceOptions.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from scrfdconv.cli.artifacts import options as o
from scrfdconv.cli.artifacts.declared import parameter

if TYPE_CHECKING:
    from scrfdconv.recipes.artifacts.sources import SourceOptions


@dataclass(frozen=True)
class OptionGroup:
    """Options that are read together: by name, each as typer declares it, and its default."""

    members: Mapping[str, tuple[Any, Any]]

    def parameters(self) -> list[inspect.Parameter]:
        """The parameters that typer makes options of."""
        return [parameter(name, kind, default) for name, (kind, default) in self.members.items()]

    def taken_from(self, values: Mapping[str, Any]) -> SourceOptions:
        """How to read a model, from what typer read."""
        from scrfdconv.converters.normalization import NormalizationOptions
        from scrfdconv.recipes.artifacts.sources import SourceOptions

        own = {name: values[name] for name in self.members}
        said = (own.pop("mean"), own.pop("std"), own.pop("color"))
        groups = own.pop("norm_groups")
        normalization = NormalizationOptions.read(*said)
        return SourceOptions(groups=groups, normalization=normalization, **own)


_OF_A_FILE: dict[str, tuple[Any, Any]] = {
    "architecture": (o.Architecture, None),
    "config": (o.Config, None),
    "norm_groups": (o.NormGroups, None),
    "mean": (o.Mean, None),
    "std": (o.Std, None),
    "color": (o.Color, None),
}
_OF_A_MODEL = {**_OF_A_FILE, "seed": (o.Seed, 0)}
_TO_RUN = {
    **_OF_A_MODEL,
    "provider": (o.Provider, None),
    "allow_host_code": (o.AllowHostCode, False),
}
READING = OptionGroup(_OF_A_MODEL)
# The default of such a parameter: it stands behind others that have one, and typer never sees it.
READ_FROM_OPTIONS: Any = None
if TYPE_CHECKING:
    Reading: TypeAlias = SourceOptions
    ReadingFile: TypeAlias = SourceOptions
    ReadingToRun: TypeAlias = SourceOptions
else:
    Reading, ReadingFile, ReadingToRun = READING, OptionGroup(_OF_A_FILE), OptionGroup(_TO_RUN)


def spread_out(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` with the options of its groups as parameters of their own."""
    declared = inspect.signature(function, eval_str=True).parameters.values()
    groups = {p.name: p.annotation for p in declared if isinstance(p.annotation, OptionGroup)}
    if not groups:
        return function

    @functools.wraps(function)
    def run(**values: Any) -> Any:
        taken = {name: group.taken_from(values) for name, group in groups.items()}
        hidden = {member for group in groups.values() for member in group.members}
        rest = {name: value for name, value in values.items() if name not in hidden}
        return function(**rest, **taken)

    parameters = [
        shown
        for p in declared
        for shown in (
            groups[p.name].parameters()
            if p.name in groups
            else [parameter(p.name, p.annotation, p.default)]
        )
    ]
    del run.__wrapped__  # typer would look for its parameters there
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run
