"""Tables of a TOML file, read strictly: every error names the file, the key and what is allowed.

A `TomlTable` hands out typed values and knows which keys were asked for; `done` refuses the others.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from scrfdconv.converters.errors import InputFileError
from scrfdconv.converters.structured import read_toml

T = TypeVar("T")
_MISSING = object()
_TYPES = {bool: "true or false", int: "an integer", float: "a number", str: "a text"}


def load_toml(path: Path) -> TomlTable:
    """The whole document; raises InputFileError with the line for what is not TOML."""
    return TomlTable(read_toml(path, dict[str, Any]), path, "")


class TomlTable:
    """One table, with its place in the file."""

    def __init__(
        self, values: Mapping[str, Any], path: Path, place: str, inherited: Mapping[str, str] = {}
    ) -> None:
        self._values, self.path, self.place = values, path, place
        self._inherited = inherited  # key -> place, of values that come from another table
        self._asked: list[str] = []

    def __contains__(self, key: str) -> bool:
        return key in self._values

    def value(self, key: str, kind: type[T], default: Any = _MISSING) -> T:
        """The value of ``key``; InputFileError where it is missing or of another type."""
        found = self._get(key, default)
        if found is default:
            return found  # type: ignore[no-any-return]
        if kind is float and isinstance(found, int) and not isinstance(found, bool):
            found = float(found)
        if type(found) is not kind:
            raise self.error(key, f"must be {_TYPES[kind]}, not {found!r}")
        return found

    def choice(self, key: str, allowed: tuple[str, ...], default: Any = _MISSING) -> str:
        """A text that must be one of ``allowed``."""
        found = self.value(key, str, default)
        if found is not default and found not in allowed:
            raise self.error(key, f"must be one of {', '.join(allowed)}, not {found!r}")
        return found

    def several(
        self, key: str, read: Callable[[Any], T | None], what: str, default: tuple[T, ...]
    ) -> tuple[T, ...]:
        """One value or a list of them, each through ``read``, which gives None for a wrong one."""
        found = self._get(key, default)
        if key not in self:
            return default
        single = read(found)
        if single is not None:
            return (single,)
        items = [read(item) for item in found] if isinstance(found, list) and found else [None]
        if any(item is None for item in items) or len(set(items)) != len(items):
            raise self.error(key, f"must be {what}, or a list of different ones, not {found!r}")
        return tuple(item for item in items if item is not None)

    def table(self, key: str) -> TomlTable:
        """The table ``key``; an empty table if the key is missing."""
        found = self._get(key, {})
        if not isinstance(found, dict):
            raise self.error(key, f"must be a table, not {found!r}")
        return TomlTable(found, self.path, self._at(key))

    def tables(self, key: str) -> Iterator[TomlTable]:
        """Each table of an array such as ``[[targets]]``."""
        found = self._get(key, [])
        if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
            raise self.error(key, f"must be an array of tables ([[{key}]])")
        for i, item in enumerate(found, 1):
            yield TomlTable(item, self.path, f"{self._at(key)}[{i}]")

    def named_tables(self) -> Iterator[tuple[str, TomlTable]]:
        """Each sub-table with its name."""
        for key in self._values:
            yield key, self.table(key)

    def over(self, defaults: TomlTable) -> TomlTable:
        """The same table, with the values of ``defaults`` where it has none of its own."""
        inherited = {key: defaults._at(key) for key in defaults._values if key not in self._values}
        return TomlTable({**defaults._values, **self._values}, self.path, self.place, inherited)

    @property
    def asked(self) -> frozenset[str]:
        """The keys that were asked for so far."""
        return frozenset(self._asked)

    @property
    def own(self) -> tuple[str, ...]:
        """The keys that stand in this table itself."""
        return tuple(key for key in self._values if key not in self._inherited)

    def done(self, asked: Collection[str] | None = None) -> None:
        """Raise InputFileError for a key that nothing asked for.

        ``asked`` are the keys that were asked for in the tables which inherit from this one.
        """
        known = dict.fromkeys([*self._asked, *sorted(asked or ())])
        for key in self.own:
            if key not in known:
                raise self.error(key, f"is unknown; known here are {', '.join(known)}")

    def error(self, key: str, text: str) -> InputFileError:
        """The error for ``key``: file, place, what is wrong."""
        return InputFileError(f"{self.path}: {self._at(key)} {text}.")

    def _get(self, key: str, default: Any) -> Any:
        self._asked.append(key)
        found = self._values.get(key, default)
        if found is _MISSING:
            raise self.error(key, "is missing")
        return found

    def _at(self, key: str) -> str:
        return self._inherited.get(key) or (f"{self.place}.{key}" if self.place else key)
