"""Which of these models is faster here, and by how much."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from scrfdconv.checks.benchmark import (
    DEFAULT_RUNS,
    DEFAULT_WARM_UP,
    Ratio,
    Timing,
    Workload,
    measure,
    ratio,
)
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats import Source
from scrfdconv.converters.network.architecture import require_shape
from scrfdconv.converters.runner import Interface, Runner
from scrfdconv.recipes.artifacts.conversion import SourceOptions, open_source
from scrfdconv.recipes.faces.detection import DEFAULT_SIZE, open_runner


@dataclass(frozen=True)
class BenchOptions:
    """How to time models; None takes the fixed dimensions of the models, or 640x640 and batch 1."""

    shape: tuple[int, int] | None = None
    batch: int | None = None
    threads: int | None = None
    runs: int = DEFAULT_RUNS
    warm_up: int = DEFAULT_WARM_UP


@dataclass(frozen=True)
class ComparedModel:
    """How one model did."""

    timing: Timing
    ratio: Ratio  # its time divided by the first model's
    file_bytes: int | None  # None for a built-in model, which has no file
    format: str


def compare_speed(
    models: Sequence[str],
    options: SourceOptions,
    bench: BenchOptions,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[ComparedModel], Workload]:
    """Time models of any kind side by side; the others are compared with the first one."""
    sources = {
        _unique(name, models, at): open_source(name, options) for at, name in enumerate(models)
    }
    opened = {
        label: partial(_open, model, options, bench.threads)
        for label, model in zip(sources, models, strict=True)
    }
    choose = partial(_workload, bench, sources)
    timings, workload = measure(opened, choose, bench.threads, progress)
    compared = [
        ComparedModel(
            timing, ratio(timing, timings[0]), _file_size(model), sources[timing.name].format
        )
        for timing, model in zip(timings, models, strict=True)
    ]
    return compared, workload


def _unique(name: str, names: Sequence[str], at: int) -> str:
    """A unique label; a model that is given twice shows how far two equal models differ."""
    before = names[:at].count(name)
    return f"{name} ({before + 1})" if before else name


def _open(model: str, options: SourceOptions, threads: int | None) -> Runner:
    return open_runner(open_source(model, options), threads)


def _file_size(model: str) -> int | None:
    path = Path(model)
    return path.stat().st_size if path.is_file() else None


def _workload(
    bench: BenchOptions, sources: Mapping[str, Source], interfaces: Sequence[Interface]
) -> Workload:
    """The shape and batch that all models accept."""
    shapes = (interface.shape for interface in interfaces)
    batches = (interface.batch for interface in interfaces)
    shape = bench.shape or next(filter(None, shapes), DEFAULT_SIZE)
    batch = bench.batch or next(filter(None, batches), 1)
    require_shape(shape)
    for name, interface in zip(sources, interfaces, strict=True):
        if not interface.accepts(batch, *shape):
            takes = [interface.batch, interface.height, interface.width]
            raise UsageError(
                f"{name}: takes batch {takes[0] or 'any'}, height {takes[1] or 'any'}, width "
                f"{takes[2] or 'any'}, not {batch} x {shape[0]}x{shape[1]}; give --shape and "
                "--batch that all models accept, or compare models of one shape."
            )
    return Workload(batch, shape, bench.runs, bench.warm_up)
