"""Reading a recipe file strictly: every error names the file, the key and the known values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import Any

from scrfdconv.converters.errors import InputFileError, UsageError
from scrfdconv.converters.formats import formats
from scrfdconv.converters.network.architecture import known_name, require_shape
from scrfdconv.converters.normalization import NormalizationOptions
from scrfdconv.converters.options import OptionField, option_fields
from scrfdconv.converters.precision import FLOAT, precisions
from scrfdconv.converters.precision.int8 import DEFAULT_FACE_LOSS
from scrfdconv.recipes.artifacts.network import GRAPH
from scrfdconv.recipes.artifacts.target import Target, fields_for, target_of
from scrfdconv.recipes.build.recipe import (
    DYNAMIC,
    FASTEST,
    Budgets,
    CheckpointEntry,
    Choice,
    Recipe,
    TargetEntry,
    Tolerance,
)
from scrfdconv.recipes.runtimes import candidates_called
from scrfdconv.recipes.toml_table import TomlTable, load_toml

VERSION = 1
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")  # a checkpoint's name becomes a folder


def find_recipe(name: str) -> Path:
    """A recipe file, or a recipe of the package (``release``)."""
    packaged = {path.stem: path for path in Path(__file__).parent.glob("*.toml")}
    return Path(name) if Path(name).exists() else packaged.get(name, Path(name))


def load_recipe(path: Path) -> Recipe:
    """Read a recipe; raises InputFileError that names file, key and the known keys."""
    document = load_toml(path)
    version = document.value("version", int, VERSION)
    if version > VERSION:
        raise document.error(
            "version", f"is {version}: made for a newer scrfdconv, this one knows {VERSION}"
        )
    name = document.value("name", str, path.stem)
    latency = document.value("latency", bool, default=True)
    checkpoints = tuple(_checkpoints(document))
    calibration, test = _images(document.table("images"))
    defaults = document.table("defaults")
    tables = [table.over(defaults) for table in document.tables("targets")]
    targets = tuple(target for table in tables for target in _targets(table))
    document.done()
    defaults.done({key for table in tables for key in table.asked} if tables else None)
    recipe = Recipe(
        name=name,
        path=path,
        checkpoints=checkpoints,
        targets=targets,
        calibration=calibration,
        test=test,
        latency=latency,
    )
    _require_sense(recipe, document)
    return recipe


def _require_sense(recipe: Recipe, document: TomlTable) -> None:
    for key, found in (("checkpoints", recipe.checkpoints), ("targets", recipe.targets)):
        if not found:
            raise document.error(key, "is missing or empty; `scrfdconv build --init` writes one")
    for target in recipe.targets:
        if not any(target.is_for(checkpoint) for checkpoint in recipe.checkpoints):
            patterns = ", ".join(target.checkpoints)
            raise document.error("targets", f"has one for {patterns}, which no checkpoint matches")
        if target.budgets.max_latency_ratio is not None and not recipe.latency:
            raise document.error("latency", "is false, but a budget asks for max_latency_ratio")
        trained = [c.name for c in recipe.checkpoints if target.is_for(c) and not c.seeded]
        if target.choice:
            _require_faces(target, recipe, document)
        needy = precisions()[target.target.precision or FLOAT].needs_images
        if needy and trained and not recipe.calibration:
            name = (target.target.precision or "").upper()
            raise document.error(
                "images.calibration", f"is missing: {name} of {trained[0]} needs photographs"
            )


def _require_faces(target: TargetEntry, recipe: Recipe, document: TomlTable) -> None:
    """Refuse a choice where no face could be lost."""
    if not recipe.test:
        raise document.error("images.test", f"is missing: {FASTEST} counts faces on photographs")
    seeded = [c.name for c in recipe.checkpoints if target.is_for(c) and c.seeded]
    if seeded:
        raise document.error(
            "targets", f"asks for the {FASTEST} file of {seeded[0]}, whose seeded weights find none"
        )


# ---------------------------------------------------------------- checkpoints and images


def _checkpoints(document: TomlTable) -> list[CheckpointEntry]:
    return [
        _checkpoint(name, table) for name, table in document.table("checkpoints").named_tables()
    ]


def _checkpoint(name: str, table: TomlTable) -> CheckpointEntry:
    if not _NAME.fullmatch(name):
        raise InputFileError(
            f"{table.path}: checkpoints.{name!r} becomes a folder: use letters, digits, . + - _."
        )
    path, config = table.value("path", str, None), table.value("config", str, None)
    entry = CheckpointEntry(
        name=name,
        path=_beside(table.path, path),
        model=known_name(table.value("model", str, "")),
        seed=table.value("seed", int, 0),
        sha256=table.value("sha256", str, None),
        architecture=_architecture(table),
        config=_beside(table.path, config),
        norm_groups=table.value("norm_groups", int, None),
        normalization=_normalization(table),
    )
    if (path is None) == ("model" not in table):
        raise table.error("path", "or model must be given, and not both")
    if "model" in table and entry.model is None:
        raise table.error("model", "is not one that `scrfdconv models` knows")
    if entry.sha256 is not None and not _SHA256.fullmatch(entry.sha256):
        raise table.error("sha256", "must be 64 hexadecimal digits in lower case")
    table.done()
    return entry


def _normalization(table: TomlTable) -> NormalizationOptions:
    """What the recipe says of the pictures, as the options of the command line do."""
    texts = {key: table.value(key, str, None) for key in ("mean", "std", "color")}
    try:
        return NormalizationOptions.read(**texts)
    except UsageError as error:
        key = next(key for key in texts if f"--{key}" in str(error))
        raise table.error(key, f"is impossible: {error}") from error


def _architecture(table: TomlTable) -> str | None:
    """An architecture: a built-in name, or a TOML file beside the recipe."""
    found = table.value("architecture", str, None) or table.value("recipe", str, None)
    return found if found is None or known_name(found) else str(_beside(table.path, found))


def _beside(recipe: Path, path: str | None) -> Path | None:
    """Paths in a recipe are relative to its folder."""
    return None if path is None else recipe.parent / path


def _images(table: TomlTable) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    def paths(key: str) -> tuple[Path, ...]:
        found = table.several(key, _text, "a file or folder", ())
        return tuple(table.path.parent / path for path in found)

    result = paths("calibration"), paths("test")
    table.done()
    return result


# ---------------------------------------------------------------- targets


def _targets(table: TomlTable) -> list[TargetEntry]:
    """All combinations of one ``[[targets]]`` table."""
    names = (*(one.name for one in formats().values() if one.source is not None), FASTEST)
    found = table.several("format", _one_of(names), _either(names), ())
    if not found:
        raise table.error("format", f"is missing; it is {_either(names)}")
    if FASTEST in found:
        if len(found) > 1:
            raise table.error("format", f"{FASTEST} is a choice of formats: give it a table alone")
        return list(_choices(table))
    _require_meaning(table, found)
    every = tuple(precisions())
    wanted = table.several("precision", _one_of(every), _either(every), (FLOAT,))
    patterns = table.several("checkpoints", _text, "a name or pattern", ("*",))
    tolerance, budgets = _tolerance(table.table("tolerance")), _budgets(table.table("budgets"))
    targets = [
        target
        for name, precision in product(found, wanted)
        for target in _combinations(table, name, precision, budgets)
    ]
    # By format and shape, so that the precisions of one shape stand beside each other.
    shapes = list(dict.fromkeys(target.shape for target in targets))
    targets.sort(key=lambda target: (found.index(target.format), shapes.index(target.shape)))
    table.done()
    entries = [
        TargetEntry(target=target, checkpoints=patterns, tolerance=tolerance, budgets=budgets)
        for target in targets
    ]
    for entry in entries:
        _require_possible(entry, table)
    return entries


_CHOICE_KEYS = (
    "format", "shape", "batch", "candidates", "threads", "checkpoints", "tolerance", "budgets",
)  # fmt: skip


def _choices(table: TomlTable) -> Iterator[TargetEntry]:
    """One choice for each shape and batch of a table."""
    for key in table.own:
        if key not in _CHOICE_KEYS:
            raise table.error(key, f"means nothing for {FASTEST}: its candidates decide")
    shapes = table.several("shape", _shape, "[height, width]", ())
    if not shapes or DYNAMIC in shapes:
        raise table.error("shape", f"must be [height, width] for {FASTEST}: one size is timed")
    batches = table.several("batch", _positive, "a positive integer", (1,))
    candidates = table.several("candidates", _text, "a format, or FORMAT-PRECISION", ())
    try:
        candidates_called(candidates)
    except UsageError as error:
        raise table.error("candidates", f"has a wrong name: {str(error).rstrip('.')}") from error
    threads = table.value("threads", int, None)
    if threads is not None and threads < 1:
        raise table.error("threads", "must be a positive integer; all cores without the key")
    patterns = table.several("checkpoints", _text, "a name or pattern", ("*",))
    tolerance, budgets = _tolerance(table.table("tolerance")), _budgets(table.table("budgets"))
    table.done()
    for shape, batch in product(shapes, batches):
        entry = TargetEntry(
            target=target_of(GRAPH.name, FLOAT, {"shape": shape, "batch": batch}),
            choice=Choice(candidates=candidates, threads=threads),
            checkpoints=patterns,
            tolerance=tolerance,
            budgets=budgets,
        )
        _require_possible(entry, table)
        yield entry


def _require_meaning(table: TomlTable, names: tuple[str, ...]) -> None:
    """Refuse an option that one of the target's formats would ignore."""
    meant = {
        name: {field.name for kind in _option_classes(name) for field in option_fields(kind)}
        for name in names
    }
    for key in table.own:
        for name in names:
            if key in set().union(*meant.values()) - meant[name]:
                raise table.error(key, f"means nothing for {name}: give it a table of its own")


def _option_classes(name: str) -> list[type]:
    return [one.options for one in formats()[name].chain()]


def _combinations(
    table: TomlTable, name: str, precision: str, budgets: Budgets
) -> Iterator[Target]:
    """The targets of one format and precision: every combination of its options' values."""
    if precision not in formats()[name].precisions:
        have = " or ".join(formats()[name].precisions)
        raise table.error("precision", f"of {formats()[name].title} is {have}, not {precision}")
    fields = [field for _, field in fields_for(name, precision) if field.option.in_recipes]
    axes = [_values(table, field) for field in fields]
    for values in product(*axes):
        given = dict(zip((field.name for field in fields), values, strict=True))
        given = {key: None if value == DYNAMIC else value for key, value in given.items()}
        if "max_face_loss" in {field.name for _, field in fields_for(name, precision)}:
            given["max_face_loss"] = budgets.max_face_loss
        try:
            yield target_of(name, precision, given)
        except UsageError as error:
            raise table.error("batch", "needs a fixed shape: a dynamic model takes any") from error


def _values(table: TomlTable, field: OptionField) -> tuple[Any, ...]:
    """The values of an option in a table: one value, or several in a list."""
    what, read = _reader(field)
    return table.several(field.name, read, what, (field.default,))


def _reader(field: OptionField) -> tuple[str, Callable[[Any], Any]]:
    """What an option's values are, in words, and their reader: it gives None for a wrong value."""
    if field.name == "shape":
        return f'"{DYNAMIC}" or [height, width]', _shape
    if field.name == "batch":
        return f'"{DYNAMIC}" or a positive integer', _batch
    if field.choices:
        return _either(field.choices), _one_of(field.choices)
    if field.repeated:
        return "a list of texts", _texts
    least, most = field.option.least, field.option.most
    what = _KINDS[field.kind]
    if field.kind is int and least is None:
        what = f"an {field.name}" if field.name[0] in "aeiou" else f"a {field.name}"
    return what, _typed(field.kind, least, most)


_KINDS = {
    bool: "true or false",
    int: "a positive integer",
    float: "a number",
    str: "a text",
    Path: "a file",
    tuple[int, int]: "[height, width]",
}


def _typed(kind: Any, least: float | None, most: float | None) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if kind == tuple[int, int]:
            return _shape(value)
        if type(value) is not kind and not (kind is float and type(value) is int):
            return None
        if kind is float and least is not None and value < least:
            return None
        if kind is int and value < (1 if least is None else least):
            return None
        return None if most is not None and value > most else value

    return read


def _batch(value: Any) -> Any:
    return value if value == DYNAMIC else _typed(int, 1, None)(value)


def _texts(value: Any) -> tuple[str, ...] | None:
    good = isinstance(value, list) and all(isinstance(item, str) and item for item in value)
    return tuple(value) if good else None


def _require_possible(entry: TargetEntry, table: TomlTable) -> None:
    target = entry.target
    if target.shape:
        try:
            require_shape(target.shape, option="the shape")
        except UsageError as error:
            raise table.error("shape", f"cannot be: {str(error).rstrip('.')}") from error
    timed = target.maker.runs_on_cpu and target.maker.chain()[0].from_itself
    if not timed and entry.budgets.max_latency_ratio is not None:
        raise table.error(
            "budgets.max_latency_ratio", f"is for ONNX and what is made of it, not {target.format}"
        )


def _tolerance(table: TomlTable) -> Tolerance:
    found = Tolerance(table.value("loosen", float, 1.0), table.value("reason", str, ""))
    if found.loosen < 1:
        raise table.error("loosen", "must be 1 or more; limits are only ever loosened")
    if found.loosen > 1 and not found.reason.strip():
        raise table.error("reason", "is missing: say why looser limits are right")
    table.done()
    return found


def _budgets(table: TomlTable) -> Budgets:
    found = Budgets(
        table.value("max_size_mb", float, None),
        table.value("max_latency_ratio", float, None),
        table.value("max_face_loss", float, DEFAULT_FACE_LOSS),
    )
    for key in ("max_size_mb", "max_latency_ratio"):
        limit = getattr(found, key)
        if limit is not None and not limit > 0:
            raise table.error(key, "must be above 0")
    if not 0 <= found.max_face_loss <= 1:
        raise table.error("max_face_loss", "is a share, 0 to 1")
    table.done()
    return found


def _either(allowed: tuple[str, ...]) -> str:
    return f"{', '.join(allowed[:-1])} or {allowed[-1]}"


def _one_of(allowed: tuple[str, ...]) -> Any:
    return lambda value: value if value in allowed else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and value else None


def _positive(value: Any) -> int | None:
    return value if type(value) is int and value > 0 else None


def _shape(value: Any) -> Any:
    if value == DYNAMIC:
        return value
    # Lists of two sizes are one shape, not two of them.
    pair = isinstance(value, list) and [type(side) for side in value] == [int, int]
    return tuple(value) if pair else None
