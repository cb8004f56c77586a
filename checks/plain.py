"""Frozen dataclasses as what JSON can hold, and back, with the place of whatever is wrong.

Values that JSON lacks (NaN, the infinities) are strings. A class with ``to_dict`` and
``from_dict`` of its own is asked; other dataclasses are their fields, no more and no less.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

LARGEST = 2**63  # integers beyond are damage, and cannot become floats if long enough
_QUOTED = 40  # characters of a bad value that an error repeats


def to_plain(value: Any) -> Any:
    """Numbers, strings, lists and dicts that mean ``value``."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if is_dataclass(value):
        if hasattr(value, "to_dict"):
            return value.to_dict()
        return {name: to_plain(getattr(value, name)) for name in field_types(type(value))}
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: to_plain(item) for key, item in value.items()}
    return value


def from_plain(kind: Any, value: Any, where: str) -> Any:
    """The value of type ``kind`` that ``to_plain`` wrote.

    Raises ValueError, which says where and what was expected; ``from_dict`` of a class may raise
    KeyError, too.
    """
    if get_origin(kind) is not None:
        return _generic(kind, value, where)
    if is_dataclass(kind):
        return _object(kind, value, where)
    if kind is float:
        return _number(value, where)
    _require(type(value) is kind, where, kind.__name__, value)
    if kind is int:
        _require(abs(value) < LARGEST, where, "a smaller number", value)
    return value


def field_types(kind: Any) -> Mapping[str, Any]:
    """Name and type of every field of a dataclass, in order."""
    return _resolved(kind)


@functools.cache  # resolving costs more than all the rest
def _resolved(kind: Any) -> Mapping[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _generic(kind: Any, value: Any, where: str) -> Any:
    origin, parts = get_origin(kind), get_args(kind)
    if origin is UnionType:  # X | None is the only one there is
        return None if value is None else from_plain(parts[0], value, where)
    if origin is Literal:
        _require(value in parts, where, " or ".join(parts), value)
        return value
    if origin is tuple:
        return _tuple(parts, value, where)
    _require(isinstance(value, dict), where, "an object", value)  # Mapping[str, X]
    return {key: from_plain(parts[1], item, f"{where}.{key}") for key, item in value.items()}


def _number(value: Any, where: str) -> float:
    known = type(value) is float or value in ("nan", "inf", "-inf")
    known = known or (type(value) is int and abs(value) < LARGEST)
    _require(known, where, "a number", value)
    return float(value)


def _tuple(parts: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    _require(isinstance(value, list), where, "a list", value)
    kinds = (parts[0],) * len(value) if parts[-1] is Ellipsis else parts
    _require(len(kinds) == len(value), where, f"{len(kinds)} entries", value)
    entries = enumerate(zip(kinds, value, strict=True))
    return tuple(from_plain(kind, item, f"{where}[{i}]") for i, (kind, item) in entries)


def _object(kind: Any, value: Any, where: str) -> Any:
    _require(isinstance(value, dict), where, "an object", value)
    if hasattr(kind, "from_dict"):
        return kind.from_dict(value)
    types = field_types(kind)
    wrong = sorted(types.keys() ^ value.keys())
    _require(not wrong, where, "the keys of this version", ", ".join(wrong))
    return kind(**{key: from_plain(types[key], value[key], f"{where}.{key}") for key in types})


def _require(good: bool, where: str, expected: str, found: Any) -> None:
    if not good:
        raise ValueError(f"{where}: expected {expected}, found {str(found)[:_QUOTED]!r}")
