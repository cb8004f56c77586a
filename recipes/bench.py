"""Which of these models is faster here, and by how much."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
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
from scrfdconv.checks.faces.matching import Agreement, agreement
from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.errors import CheckFailed, UsageError
from scrfdconv.converters.formats import Source, formats
from scrfdconv.converters.network.architecture import require_shape
from scrfdconv.converters.runner import Interface, Runner
from scrfdconv.converters.scratch import scratch_folder
from scrfdconv.recipes.artifacts.conversion import SourceOptions, open_source
from scrfdconv.recipes.faces.detection import DEFAULT_SIZE, open_runner
from scrfdconv.recipes.order import Stage
from scrfdconv.recipes.runtimes import FileForRuntime, RuntimeFiles


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How to time models; None takes the fixed dimensions of the models, or 640x640 and batch 1."""

    shape: tuple[int, int] | None = None
    batch: int | None = None
    threads: tuple[int | None, ...] = (None,)  # one table for each; None: the runtime's choice
    runs: int = DEFAULT_RUNS
    warm_up: int = DEFAULT_WARM_UP
    images: tuple[Path, ...] = ()  # photographs, to count the faces that a model loses


@dataclass(frozen=True, kw_only=True)
class ComparedModel:
    """How one model did."""

    timing: Timing
    ratio: Ratio  # its time divided by the first model's
    threads: int | None
    file_bytes: int | None  # None for a built-in model, which has no file
    format: str
    agreement: Agreement | None  # with the first model's faces; None: no photographs


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """A model, and how it is read."""

    model: str
    options: SourceOptions
    source: Source


def compare_speed(
    models: Mapping[str, str],
    options: SourceOptions,
    bench: BenchOptions,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[ComparedModel], Workload]:
    """Time models of any kind, by label, side by side; the others are compared with the first one.

    Files of a runtime with execution providers run on the options' provider, too, in a row of their
    own. Each number of threads is a contest of its own: the models take turns within it.
    """
    entries = dict(_entries(models, options))
    compared: list[ComparedModel] = []
    agreed: list[Agreement | None] = []
    for at, threads in enumerate(bench.threads):
        timings, workload = measure(
            {
                label: partial(_open, one.model, one.options, threads)
                for label, one in entries.items()
            },
            partial(_workload, bench, entries),
            threads,
            partial(_advance, progress, at, len(bench.threads)),
            twins=True,
            photographs=() if agreed else bench.images,
        )
        agreed = agreed or [_agreement(timing, timings[0]) for timing in timings]
        compared += [
            ComparedModel(
                timing=timing,
                ratio=ratio(timing, timings[0]),
                threads=threads,
                file_bytes=_size(entries[timing.name].source),
                format=entries[timing.name].source.format,
                agreement=agreement,
            )
            for timing, agreement in zip(timings, agreed, strict=True)
        ]
    return compared, workload


def _advance(
    progress: Callable[[int, int], None], finished: int, contests: int, done: int, total: int
) -> None:
    progress(finished * total + done, contests * total)


@contextmanager
def files_of_runtimes(
    model: str, options: SourceOptions, bench: BenchOptions, stage: Stage
) -> Iterator[list[FileForRuntime]]:
    """Verified files of a network for every runtime of this machine, while the block lasts."""
    source = open_source(model, replace(options, provider=None))
    own = open_runner(source).interface
    with scratch_folder() as folder:
        wanted = RuntimeFiles(
            source=source,
            folder=folder,
            shape=bench.shape or own.shape or DEFAULT_SIZE,
            batch=bench.batch or own.batch or 1,
            images=bench.images,
            stage=stage,
        )
        yield list(wanted.made())


def labels(models: Sequence[str]) -> dict[str, str]:
    """Models by unique label; one that is given twice shows how far two equal models differ."""
    found: dict[str, str] = {}
    for at, name in enumerate(models):
        before = models[:at].count(name)
        found[f"{name} ({before + 1})" if before else name] = name
    return found


def _entries(models: Mapping[str, str], options: SourceOptions) -> Iterator[tuple[str, _Entry]]:
    plain, on_provider = replace(options, provider=None), False
    for label, model in models.items():
        source = open_source(model, plain)
        yield label, _Entry(model=model, options=plain, source=source)
        if options.provider and formats()[source.format].has_providers:
            on_provider = True
            yield (
                f"{label} on {options.provider}",
                _Entry(model=model, options=options, source=source),
            )
    if options.provider and not on_provider:
        can = " or ".join(one.title for one in formats().values() if one.has_providers)
        raise UsageError(f"--provider {options.provider}: none of the models is {can}.")


def _open(model: str, options: SourceOptions, threads: int | None) -> Runner:
    return open_runner(open_source(model, options), threads)


def _agreement(timing: Timing, first: Timing) -> Agreement | None:
    """How many of the first model's faces this one keeps; raises CheckFailed if there are none."""
    if not timing.faces:
        return None
    found = agreement(zip(first.faces, timing.faces, strict=True))
    if found.undefined:
        raise CheckFailed(f"{found.undefined[0].upper()}{found.undefined[1:]}.")
    return found


def _size(source: Source) -> int | None:
    """Bytes of all files; None for a built-in model."""
    if isinstance(source, Artifact):
        return source.size
    return source.path.stat().st_size if source.path else None


def _workload(
    bench: BenchOptions, entries: Mapping[str, _Entry], interfaces: Sequence[Interface]
) -> Workload:
    """The shape and batch that all models accept."""
    shapes = (interface.shape for interface in interfaces)
    batches = (interface.batch for interface in interfaces)
    shape = bench.shape or next(filter(None, shapes), DEFAULT_SIZE)
    batch = bench.batch or next(filter(None, batches), 1)
    require_shape(shape)
    for name, interface in zip(entries, interfaces, strict=True):
        if not interface.accepts(batch, *shape):
            takes = [interface.batch, interface.height, interface.width]
            raise UsageError(
                f"{name}: takes batch {takes[0] or 'any'}, height {takes[1] or 'any'}, width "
                f"{takes[2] or 'any'}, not {batch} x {shape[0]}x{shape[1]}; give --shape and "
                "--batch that all models accept, or compare models of one shape."
            )
    return Workload(batch, shape, bench.runs, bench.warm_up)
