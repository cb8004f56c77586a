"""How an mmdet config normalises pictures, from its pipelines, which are read as data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from scrfdconv.converters.checkpoint.config_data import SPOILED, NoData
from scrfdconv.converters.errors import CheckpointError, UsageError
from scrfdconv.converters.network.architecture import CHANNELS
from scrfdconv.converters.normalization import Normalization

# Where a config says it. The first one is what upstream's own tools feed a network.
_PIPELINES = (
    ("test_pipeline",),
    ("data", "test", "pipeline"),
    ("data", "val", "pipeline"),
    ("test_dataloader", "dataset", "pipeline"),
    ("train_pipeline",),
    ("data", "train", "pipeline"),
)
_PREPROCESSORS = (("model", "data_preprocessor"), ("data_preprocessor",))  # of mmdet 3
_SHARED = "img_norm_cfg"  # a name that pipelines use; what no pipeline uses says nothing
_DEEPEST = 8  # steps within steps: MultiScaleFlipAug holds the steps of tests


def normalization_in(values: Mapping[str, Any], where: str) -> Normalization | None:
    """What the names that a config assigns say of it; None where they say nothing.

    Raises CheckpointError where two places contradict each other, and where the only place is
    computed by code.
    """
    said, unread = _steps(values, where)
    if not said and isinstance(values.get(_SHARED), dict):
        said = {_SHARED: _normalization(values[_SHARED], f"{where}: {_SHARED}")}
    if not said and unread:
        raise CheckpointError(
            f"{where}: {unread} is computed by code, and configs are never executed, so that the "
            "normalisation of pictures is unknown; write the values."
        )
    first = next(iter(said), "")
    for place, normalization in said.items():
        if normalization != said[first]:
            raise CheckpointError(
                f"{where}: {first} normalises pictures as {said[first]}, {place} as "
                f"{normalization}; make both say what the weights were trained with."
            )
    return said.get(first)


def _steps(values: Mapping[str, Any], where: str) -> tuple[dict[str, Normalization], str]:
    """The normalisation of each place that has one, and a place that is no data."""
    said: dict[str, Normalization] = {}
    unread = ""
    for keys in (*_PREPROCESSORS, *_PIPELINES):
        place, found = ".".join(keys), _at(values, keys)
        if isinstance(found, NoData):
            unread = unread or f"{place} (line {found.line})"
        elif keys in _PREPROCESSORS:
            if isinstance(found, dict) and "mean" in found:
                as_step = {"to_rgb": False, "mean": found["mean"], "std": found.get("std")}
                if "bgr_to_rgb" in found:
                    as_step["to_rgb"] = found["bgr_to_rgb"]
                said[place] = _normalization(as_step, f"{where}: {place}")
        else:
            for step in _normalizing(found):
                if isinstance(step, NoData):
                    unread = unread or f"{place} (line {step.line})"
                else:
                    said[place] = _normalization(step, f"{where}: {place}")
    return said, unread


def _at(values: Any, keys: tuple[str, ...]) -> Any:
    for key in keys:
        if isinstance(values, NoData) or not isinstance(values, Mapping):
            return values if isinstance(values, NoData) else None
        values = values.get(key, values.get(SPOILED))
    return values


def _normalizing(step: Any, depth: int = _DEEPEST) -> Iterator[Any]:
    """Every Normalize step in a pipeline, and what may hold one but is no data."""
    if isinstance(step, NoData):
        yield step
    elif isinstance(step, list | tuple) and depth:
        for item in step:
            yield from _normalizing(item, depth - 1)
    elif isinstance(step, dict):
        if step.get("type") == "Normalize":
            yield step
        elif "transforms" in step:
            yield from _normalizing(step["transforms"], depth - 1)


def _normalization(step: Mapping[str, Any], where: str) -> Normalization:
    mean, std = (_channels(step.get(key), f"{where}: {key}") for key in ("mean", "std"))
    to_rgb = step.get("to_rgb", True)  # mmcv's default
    if not isinstance(to_rgb, bool):
        raise CheckpointError(f"{where}: to_rgb is neither True nor False; write the value.")
    try:
        return Normalization(mean, std, "rgb" if to_rgb else "bgr")
    except UsageError as error:
        raise CheckpointError(f"{where}: {error}") from error


def _channels(value: Any, where: str) -> tuple[float, float, float]:
    numbers = value if isinstance(value, list | tuple) else [value] * CHANNELS
    plain = all(type(number) in (int, float) for number in numbers)
    if not plain or len(numbers) != CHANNELS:
        raise CheckpointError(f"{where} must be {CHANNELS} numbers, one for each channel.")
    first, second, third = map(float, numbers)
    return first, second, third
