"""One wanted artifact: a format, a precision, and the options of every conversion it needs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats import Format, formats
from scrfdconv.converters.options import OptionField, SizeOptions, option_fields
from scrfdconv.converters.precision import FLOAT, precisions

Options = TypeVar("Options")


@dataclass(frozen=True)
class Target:
    """What to make. ``options`` has an instance of each options class with a changed default."""

    format: str
    precision: str | None = FLOAT  # None: the precision of the source
    options: tuple[Any, ...] = ()

    @property
    def maker(self) -> Format:
        """The format itself."""
        return formats()[self.format]

    def of(self, kind: type[Options]) -> Options:
        """The options of one class: those that were given, or its defaults."""
        return next((one for one in self.options if type(one) is kind), None) or kind()

    @property
    def sizes(self) -> SizeOptions:
        """Shape and batch, which the first format on the way decides."""
        found: Any = self.of(self.maker.chain()[0].options)
        return found if isinstance(found, SizeOptions) else SizeOptions()

    @property
    def shape(self) -> tuple[int, int] | None:
        """(H, W), or None for a dynamic artifact."""
        return self.sizes.shape

    @property
    def batch(self) -> int | None:
        """Images per run of a fixed shape; None for any number."""
        return self.sizes.batch


def fields_for(format_name: str, precision: str) -> list[tuple[type, OptionField]]:
    """The options that mean something for a target, with the classes that hold them.

    Those of the formats on the way come first: an engine has the shape of its ONNX.
    """
    kinds = [one.options for one in formats()[format_name].chain()]
    kinds.append(precisions()[precision].options)
    return [(kind, field) for kind in dict.fromkeys(kinds) for field in option_fields(kind)]


def target_of(
    format_name: str, precision: str | None = FLOAT, values: Mapping[str, Any] | None = None
) -> Target:
    """The target with the options ``values``, each in the class that declares it.

    Raises UsageError for a precision that the format has not, for an option that means nothing
    to it, and for a batch without a shape.
    """
    maker, wanted = formats()[format_name], dict(values or {})
    if precision not in (None, *maker.precisions):
        have = ", ".join(maker.precisions)
        raise UsageError(f"{format_name} has no precision {precision}: it is made in {have}.")
    if wanted.get("shape") is None and wanted.get("batch", 1) is None:
        del wanted["batch"]  # free in a dynamic model anyway
    by_kind: dict[type, dict[str, Any]] = {}
    for kind, field in fields_for(format_name, precision or FLOAT):
        if field.name in wanted and wanted[field.name] != field.default:
            by_kind.setdefault(kind, {})[field.name] = wanted[field.name]
    known = {field.name for _, field in fields_for(format_name, precision or FLOAT)}
    if strange := wanted.keys() - known:
        raise UsageError(f"{min(strange)} means nothing for {format_name} in {precision}.")
    target = Target(format_name, precision, tuple(kind(**given) for kind, given in by_kind.items()))
    require_shape_for_batch(target.sizes)
    return target


def require_shape_for_batch(sizes: SizeOptions) -> None:
    """Refuse a batch without a shape: a dynamic model takes any batch."""
    if sizes.batch not in (1, None) and sizes.shape is None:
        raise UsageError(
            "--batch fixes the batch of a fixed shape: give --shape H W, too; a dynamic model "
            "takes any batch."
        )
