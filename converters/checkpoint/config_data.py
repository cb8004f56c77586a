"""Python source as data: assignments of literals and ``dict(...)`` calls, parsed, never executed.

Other statements never run; names that such a statement may change are marked unreadable.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from scrfdconv.converters.errors import CheckpointError

MAX_BYTES = 1 << 18  # real configs have 5 kB
MAX_FILES = 50  # a config and all of its `_base_` files; mmdet's have 5
# Values of all names together, counted each time a name is used: lists of lists of lists grow
# tenfold a line. Real configs have 500.
MAX_VALUES = 100_000
MAX_DEPTH = 60  # of lists in lists; real configs reach 8
MAX_NUMBER = 1e18  # 64-bit numbers; larger ones overflow somewhere
MAX_TEXT = 10_000  # characters of one text
MAX_BASES = 20  # depth of `_base_` chains; a cycle ends here
SPOILED = "changed by code"  # key that marks a dict which a statement may have changed


class Budget:
    """Files and values that a config may still read; raises CheckpointError when none are left."""

    def __init__(self, where: str, files: int = MAX_FILES, values: int = MAX_VALUES) -> None:
        self.where, self._files, self._values = where, files, values

    def file(self) -> None:
        """Count one more file."""
        self._files -= 1
        if self._files < 0:
            raise CheckpointError(f"{self.where}: needs more than {MAX_FILES} `_base_` files.")

    def value(self, value: Any) -> Any:
        """``value``, counted with everything in it."""
        waiting = [(value, 0)]
        while waiting:
            item, depth = waiting.pop()
            self._values -= 1
            if self._values < 0 or depth > MAX_DEPTH:
                raise CheckpointError(
                    f"{self.where}: holds more than {MAX_VALUES} values or lists nested more than "
                    f"{MAX_DEPTH} deep, which no config has."
                )
            _require_small(item, self.where)
            parts = item.values() if isinstance(item, dict) else item
            if isinstance(item, list | tuple | dict):
                if len(item) > self._values:
                    waiting = [(None, MAX_DEPTH + 1)]
                else:
                    waiting += [(part, depth + 1) for part in parts]
        return value


def _require_small(value: Any, where: str) -> None:
    """Raise CheckpointError for a number or text that no config has, and for NaN."""
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and not abs(value) <= MAX_NUMBER:
        raise CheckpointError(f"{where}: holds NaN or a number beyond {MAX_NUMBER:g}.")
    if isinstance(value, str | bytes) and len(value) > MAX_TEXT:
        raise CheckpointError(f"{where}: holds a text of more than {MAX_TEXT} characters.")


class NoData:
    """An expression that is not data: an error only if the model needs its value."""

    def __init__(self, node: ast.AST) -> None:
        self.line = getattr(node, "lineno", 0)


def assignments_in_file(
    path: Path, depth: int = MAX_BASES, budget: Budget | None = None
) -> dict[str, Any]:
    """The names that a config file assigns, with those of its ``_base_`` files."""
    budget = budget or Budget(str(path))
    budget.file()
    if depth == 0:
        raise CheckpointError(f"{path}: `_base_` files refer to each other without end.")
    values = assignments_in_text(_text_of(path), str(path), budget)
    bases = values.pop("_base_", [])
    merged: dict[str, Any] = {}
    for base in bases if isinstance(bases, list | tuple) else [bases]:
        if not isinstance(base, str):
            raise CheckpointError(f"{path}: _base_ is no file name or list of file names.")
        merged = _merge(merged, assignments_in_file(path.parent / base, depth - 1, budget))
    return _merge(merged, values)


def _text_of(path: Path) -> str:
    try:
        if path.exists() and not path.is_file():  # a pipe or device would be read for ever
            raise CheckpointError(f"{path}: is no ordinary file; --config takes a .py file.")
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        return content.decode("utf-8")
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            sentence = "is not text; --config takes an mmdet .py file"
        else:
            sentence = f"cannot be read ({getattr(error, 'strerror', None) or error})"
        raise CheckpointError(f"{path}: {sentence}.") from error


def assignments_in_text(text: str, where: str, budget: Budget | None = None) -> dict[str, Any]:
    """Top-level ``name = literal`` pairs; a later one may use an earlier name."""
    budget = budget or Budget(where)
    if len(text) > MAX_BYTES:
        raise CheckpointError(f"{where}: is too large for an mmdet config.")
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise CheckpointError(f"{where}: is not an mmdet config: {error}.") from error
    names: dict[str, Any] = {}
    for statement in tree.body:
        targets = _plain_targets(statement)
        if targets:
            assert isinstance(statement, ast.Assign | ast.AnnAssign) and statement.value
            names |= dict.fromkeys(targets, budget.value(_value(statement.value, names)))
        elif "model" in _mentioned(statement):
            raise CheckpointError(
                f"{where}: line {statement.lineno} changes `model` by code, and configs are never "
                "executed; write the values into `model = dict(...)`."
            )
        else:  # the statement may change any of these names
            for name in _mentioned(statement):
                names[name] = _spoiled(names.get(name), statement)
    return names


def _plain_targets(statement: ast.stmt) -> list[str]:
    """The names that a plain assignment binds; empty for every other statement."""
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AnnAssign) and statement.value:
        targets = [statement.target]
    found = [target.id for target in targets if isinstance(target, ast.Name)]
    return found if len(found) == len(targets) else []


def _mentioned(statement: ast.stmt) -> set[str]:
    """Every name that a statement could bind or change."""
    found = set()
    for node in ast.walk(statement):
        if isinstance(node, ast.Name):
            found.add(node.id)
        elif isinstance(node, ast.alias):
            found.add(node.asname or node.name)
    return found


def _spoiled(value: Any, statement: ast.stmt) -> NoData:
    """Mark a dict that code may have changed, also where other names and dicts hold it."""
    mark = NoData(statement)
    if isinstance(value, dict):
        value[SPOILED] = mark
    elif isinstance(value, list):
        value[:] = [mark]
    return mark


def _value(node: ast.expr, names: Mapping[str, Any]) -> Any:
    """The data in ``node``, or ``NoData``."""
    value: Any = NoData(node)
    match node:
        case ast.Constant():
            value = node.value
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            value = -number
        case ast.List():
            value = [_value(item, names) for item in node.elts]
        case ast.Tuple():
            value = tuple(_value(item, names) for item in node.elts)
        case ast.Dict():
            keys = [k.value if isinstance(k, ast.Constant) else k for k in node.keys]
            value = _dict(zip(keys, node.values, strict=True), names)
        case ast.Call(func=ast.Name(id="dict"), args=[]):
            value = _dict([(k.arg, k.value) for k in node.keywords], names)
        case ast.Name() if node.id in names:
            value = names[node.id]
    return value


def _dict(pairs: Iterable[tuple[Any, ast.expr]], names: Mapping[str, Any]) -> Any:
    """A dict of the data in ``pairs``, in which None as a key stands for ``**other``."""
    made: dict[Any, Any] = {}
    for key, node in pairs:
        value = _value(node, names)
        if key is None and isinstance(value, dict):
            made |= value
        elif key is None or isinstance(key, ast.expr):
            return NoData(node)
        else:
            made[key] = value
    return made


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Mmcv's inheritance: dicts merge, ``_delete_=True`` replaces, everything else replaces."""
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if isinstance(value, dict) and isinstance(old, dict) and not value.get("_delete_"):
            merged[key] = _merge(old, value)
        else:
            merged[key] = value
    return merged
