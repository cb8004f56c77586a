"""Reading a recipe file strictly: every mistake is named by file, key and what is known there."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any, get_args

from scrfdconv.converters.network.architecture import known_name, require_shape
from scrfdconv.converters.precision.int8.calibration import CALIBRATORS
from scrfdconv.converters.errors import InputFileError, UsageError
from scrfdconv.converters.formats.onnx.export import Exporter
from scrfdconv.recipes.build.recipe import (
    DEFAULT_FACE_LOSS,
    DYNAMIC,
    Budgets,
    CheckpointEntry,
    Recipe,
    Target,
    Tolerance,
)
from scrfdconv.recipes.table import Table, load_toml

VERSION = 1
FORMATS = ("onnx", "torchscript", "tensorrt")
PRECISIONS = ("fp32", "fp16", "int8")
EXPORTERS: tuple[str, ...] = get_args(Exporter)
CALIBRATIONS: tuple[str, ...] = (*CALIBRATORS, "auto")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*")  # it becomes a folder


def find_recipe(name: str) -> Path:
    """A recipe file, or one of those that come with the package (``release``)."""
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
    targets = tuple(
        target for table in document.tables("targets") for target in _targets(table.over(defaults))
    )
    document.done()
    recipe = Recipe(name, path, checkpoints, targets, calibration, test, latency)
    _require_sense(recipe, document)
    return recipe


def _require_sense(recipe: Recipe, document: Table) -> None:
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
        if target.precision == "int8" and trained and not recipe.calibration:
            raise document.error(
                "images.calibration", f"is missing: INT8 of {trained[0]} needs photographs"
            )


# ---------------------------------------------------------------- checkpoints and images


def _checkpoints(document: Table) -> list[CheckpointEntry]:
    return [
        _checkpoint(name, table) for name, table in document.table("checkpoints").named_tables()
    ]


def _checkpoint(name: str, table: Table) -> CheckpointEntry:
    if not _NAME.fullmatch(name):
        raise InputFileError(
            f"{table.path}: checkpoints.{name!r} becomes a folder: use letters, digits, . + - _."
        )
    path, config = table.value("path", str, None), table.value("config", str, None)
    entry = CheckpointEntry(
        name,
        _beside(table.path, path),
        known_name(table.value("model", str, "")),
        table.value("seed", int, 0),
        table.value("sha256", str, None),
        _recipe_option(table),
        _beside(table.path, config),
        table.value("norm_groups", int, None),
    )
    if (path is None) == ("model" not in table):
        raise table.error("path", "or model must be given, and not both")
    if "model" in table and entry.model is None:
        raise table.error("model", "is not one that `scrfdconv models` knows")
    if entry.sha256 is not None and not _SHA256.fullmatch(entry.sha256):
        raise table.error("sha256", "must be 64 hexadecimal digits in lower case")
    table.done()
    return entry


def _recipe_option(table: Table) -> str | None:
    """An architecture: a built-in name, or a TOML file beside the recipe."""
    found = table.value("recipe", str, None)
    return found if found is None or known_name(found) else str(_beside(table.path, found))


def _beside(recipe: Path, path: str | None) -> Path | None:
    """Paths in a recipe are relative to its folder."""
    return None if path is None else recipe.parent / path


def _images(table: Table) -> tuple[tuple[Path, ...], tuple[Path, ...]]:
    def paths(key: str) -> tuple[Path, ...]:
        found = table.several(key, _text, "a file or folder", ())
        return tuple(table.path.parent / path for path in found)

    result = paths("calibration"), paths("test")
    table.done()
    return result


# ---------------------------------------------------------------- targets


def _targets(table: Table) -> list[Target]:
    """All combinations of one ``[[targets]]`` table."""
    formats = table.several("format", _one_of(FORMATS), _either(FORMATS), ())
    if not formats:
        raise table.error("format", f"is missing; it is {_either(FORMATS)}")
    axes = (
        formats,
        table.several("shape", _shape, f'"{DYNAMIC}" or [height, width]', (DYNAMIC,)),
        table.several("batch", _positive, "a positive integer", (1,)),
        table.several("precision", _one_of(PRECISIONS), _either(PRECISIONS), ("fp32",)),
        table.several("opset", _positive, "an opset", (0,)),
        table.several("exporter", _one_of(EXPORTERS), _either(EXPORTERS), ("torchscript",)),
    )
    calibrator: Any = table.choice("calibrator", CALIBRATIONS, "minmax")
    patterns = table.several("checkpoints", _text, "a name or pattern", ("*",))
    tolerance, budgets = _tolerance(table.table("tolerance")), _budgets(table.table("budgets"))
    table.done()
    found = [
        Target(
            format_, None if shape == DYNAMIC else shape, batch, precision, opset or None, exporter,
            calibrator, patterns, tolerance, budgets,
        )
        for format_, shape, batch, precision, opset, exporter in product(*axes)
    ]
    for target in found:
        _require_possible(target, table)
    return found


def _require_possible(target: Target, table: Table) -> None:
    if target.shape:
        try:
            require_shape(target.shape, option="the shape")
        except UsageError as error:
            raise table.error("shape", f"cannot be: {str(error).rstrip('.')}") from error
    elif target.batch != 1:
        raise table.error("batch", "needs a fixed shape: a dynamic model takes any batch")
    if target.format != "onnx" and target.budgets.max_latency_ratio is not None:
        raise table.error("budgets.max_latency_ratio", "is for ONNX: others are not timed")
    if target.format == "torchscript" and target.precision != "fp32":
        raise table.error("precision", f"of TorchScript is fp32, not {target.precision}")


def _tolerance(table: Table) -> Tolerance:
    found = Tolerance(table.value("loosen", float, 1.0), table.value("reason", str, ""))
    if found.loosen < 1:
        raise table.error("loosen", "must be 1 or more; limits are only ever loosened")
    if found.loosen > 1 and not found.reason.strip():
        raise table.error("reason", "is missing: say why looser limits are right")
    table.done()
    return found


def _budgets(table: Table) -> Budgets:
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
    pair = isinstance(value, list) and [type(side) for side in value] == [int, int]
    return tuple(value) if pair else None
