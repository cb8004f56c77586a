"""The one reader of structured text: JSON and TOML into dataclasses, or an error of one sentence.

Text that comes from a file may be anything. Whatever is wrong with it (its size, its encoding,
its syntax, its depth, a number, a key, a type) is an InputFileError that names the file and the
place in it: ``model.json: is no calibration table ($.ranges: expected object, got array)``.
Numbers are finite and fit 64 bits; a field of type `Real` also takes ``"nan"``, ``"inf"`` and
``"-inf"``, as `to_plain` writes what JSON lacks.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from scrfdconv.converters.artifact import readable, replacing
from scrfdconv.converters.errors import InputFileError, UsageError

T = TypeVar("T")
Keys = Literal["any", "known", "all"]
Place = tuple[str | int, ...]  # keys and indices from the root to a value

# The largest file of ours, the report of 80 artifacts with its pictures, has 3 MiB. One byte of
# JSON becomes up to 22 in memory.
LARGEST_JSON = 32 << 20  # bytes
LARGEST_TOML = 1 << 20  # bytes: written by hand
DEEPEST = 64  # levels; ours have 8
LARGEST_INTEGER = 2**63  # larger ones are damage; very long ones cannot become a float
_LONGEST_FAULT = 200  # characters of an error that come from the file
_NON_FINITE = ("nan", "inf", "-inf")
_PLACE = re.compile(r"(.*) - at `(.*)`", re.DOTALL)  # how msgspec names the place of a fault

if TYPE_CHECKING:
    Real = float
else:

    class Real(float):
        """The type of a field that may be NaN or infinite: a string in JSON."""


# ---------------------------------------------------------------- reading


def read_json(
    path: Path,
    kind: type[T],
    what: str = "JSON object of the expected form",
    advice: str = "",
    *,
    keys: Keys = "any",
    error: type[InputFileError] = InputFileError,
) -> T:
    """The ``kind`` in a JSON file; see `json_as`."""
    text = _bytes_of(path, LARGEST_JSON, error)
    return json_as(text, kind, str(path), what, advice, keys=keys, error=error)


def json_as(
    text: str | bytes,
    kind: type[T],
    where: str,
    what: str = "JSON object of the expected form",
    advice: str = "",
    *,
    keys: Keys = "any",
    error: type[InputFileError] = InputFileError,
) -> T:
    """The ``kind`` (a dataclass, or ``dict[str, int]`` and the like) that a JSON text holds.

    ``where`` names the text in errors, ``what`` the kind, ``advice`` says what to do. ``keys``
    are those that every object may have: ``any`` (unknown ones are ignored), ``known`` ones
    alone, or ``all`` that `to_plain` writes, no more and no less.
    """
    import msgspec

    try:
        if len(text) > LARGEST_JSON:
            raise ValueError(f"it has {len(text)} bytes, at most {LARGEST_JSON} are read")
        content = msgspec.json.decode(text)
    except UnicodeError as fault:
        raise _error(error, where, what, f"is no UTF-8: {fault}", advice) from fault
    except (ValueError, RecursionError) as fault:
        raise _error(error, where, what, f"is no JSON: {fault}", advice) from fault
    return _as(content, kind, where, what, advice, keys, error)


def read_toml(
    path: Path,
    kind: type[T],
    what: str = "TOML file of the expected form",
    advice: str = "",
    *,
    keys: Keys = "any",
    error: type[InputFileError] = InputFileError,
) -> T:
    """The ``kind`` in a TOML file, as `json_as` reads it from JSON."""
    text = _bytes_of(path, LARGEST_TOML, error)
    try:
        content = tomllib.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as fault:  # syntax, encoding, numbers of 5000 digits
        raise error(f"{path}: is not TOML: {_short(fault)}.") from fault
    return _as(content, kind, str(path), what, advice, keys, error)


def plain_as(
    content: Any,
    kind: type[T],
    where: str,
    what: str = "table of the expected form",
    advice: str = "",
    *,
    keys: Keys = "any",
    error: type[InputFileError] = InputFileError,
) -> T:
    """The ``kind`` that plain values (dicts, lists, numbers, texts) stand for."""
    return _as(content, kind, where, what, advice, keys, error)


def _as(
    content: Any,
    kind: type[T],
    where: str,
    what: str,
    advice: str,
    keys: Keys,
    error: type[InputFileError],
) -> T:
    import msgspec

    try:
        _require_sane(content)
        value = msgspec.convert(content, kind, dec_hook=_decoded)
        if keys != "any":
            _require_keys(content, to_plain(value), complete=keys == "all")
    except (ValueError, TypeError, UsageError) as fault:  # a dataclass may refuse its own values
        raise _error(error, where, what, str(fault), advice) from fault
    return value


def _bytes_of(path: Path, most: int, error: type[InputFileError]) -> bytes:
    """The content of a file; no more than a bounded number of bytes is ever read."""
    try:
        with readable(path).open("rb") as file:
            text = file.read(most + 1)
    except InputFileError as fault:
        raise error(str(fault)) from fault
    if len(text) > most:
        raise error(f"{path}: is larger than {most >> 20} MiB, too large for such a file.")
    return text


def _require_sane(value: Any, place: Place = ()) -> None:
    """Raise ValueError for depths and numbers that no file of ours has."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{_text(place)}: {value} is no finite number")
    if isinstance(value, int) and abs(value) >= LARGEST_INTEGER:
        raise ValueError(f"{_text(place)}: a number of {len(hex(value)) - 2} hex digits")
    if not isinstance(value, dict | list):
        return
    if len(place) >= DEEPEST:
        raise ValueError(f"{_text(place[:3])}: more than {DEEPEST} levels deep")
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        _require_sane(item, (*place, key))


def _require_keys(content: Any, written: Any, *, complete: bool, place: Place = ()) -> None:
    """Raise ValueError for a key that ``written`` lacks; if ``complete``, for one only there."""
    if isinstance(content, dict) and isinstance(written, dict):
        unknown = sorted(content.keys() - written.keys())
        missing = sorted(written.keys() - content.keys()) if complete else []
        if unknown or missing:
            fault = "an unknown key" if unknown else "missing"
            raise ValueError(f"{_text((*place, (unknown or missing)[0]))}: {fault}")
        pairs: Iterable[Any] = ((key, content[key], written[key]) for key in content)
    elif isinstance(content, list) and isinstance(written, list):
        pairs = zip(range(len(content)), content, written, strict=False)
    else:
        return
    for key, item, other in pairs:
        _require_keys(item, other, complete=complete, place=(*place, key))


def _decoded(kind: type[Any], value: Any) -> Any:
    """Msgspec's hook for types that it does not know; here that is `Real` alone."""
    if kind is not Real:
        raise TypeError(f"{kind.__name__} cannot be read")
    if type(value) not in (int, float) and value not in _NON_FINITE:
        raise ValueError(f"expected a number, got {str(value)[:_LONGEST_FAULT]!r}")
    return Real(value)


# ---------------------------------------------------------------- faults


def _error(
    error: type[InputFileError], where: str, what: str, fault: str, advice: str
) -> InputFileError:
    end = f"; {advice}" if advice else ""
    return error(f"{where}: is no {what} ({_fault(fault)}){end}.")


def _fault(text: str) -> str:
    """``$.place: expected int, got str`` from msgspec's ``Expected `int`, got `str` - at ...``."""
    match = _PLACE.fullmatch(text)
    said, place = match.groups() if match else (text, "")
    said = said.replace("`", "").replace("Invalid enum value", "not one of the known values:")
    said = said.replace("Object missing required field ", "missing key ")
    said = re.sub("^(Expected|Number|Unexpected)", lambda first: first[0].lower(), said)
    return _short(f"{place}: {said}" if place else said)


def _short(fault: object) -> str:
    text = " ".join(str(fault).split()).rstrip(".")
    return text if len(text) <= _LONGEST_FAULT else f"{text[:_LONGEST_FAULT]}..."


def _text(place: Place) -> str:
    """``$.artifacts[3].sha256``."""
    return "$" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in place)


# ---------------------------------------------------------------- writing


def to_plain(value: Any) -> Any:
    """``value`` as numbers, texts, lists and dicts; a class may have its own ``to_dict``."""
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(float(value))
    if isinstance(value, str):  # a file's name may hold bytes that are no text
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if is_dataclass(value):
        own = {field.name: getattr(value, field.name) for field in fields(value)}
        return to_plain(value.to_dict() if hasattr(value, "to_dict") else own)
    if isinstance(value, tuple | list):
        return [to_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    return value


def to_json(value: Any, *, indent: int | None = 1, sort_keys: bool = False) -> str:
    """The JSON text of ``value``, which reads back as the same; NaN and infinities are strings."""
    return json.dumps(to_plain(value), indent=indent, sort_keys=sort_keys, allow_nan=False)


def write_json(path: Path, value: Any, *, sort_keys: bool = False) -> None:
    """Write `to_json` to a file, whole or not at all."""
    with replacing(path) as part:
        part.write_text(to_json(value, sort_keys=sort_keys) + "\n", "utf-8")
