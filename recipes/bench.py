"""Which of these models is faster here, and by how much."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from scrfdconv.checks.benchmark import (
    DEFAULT_RUNS,
    DEFAULT_WARM_UP,
    GiveUp,
    Ratio,
    Timing,
    Workload,
    contest,
    ratio,
)
from scrfdconv.checks.faces.decode import Faces
from scrfdconv.checks.faces.matching import Agreement, agreement
from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats import Source, formats
from scrfdconv.converters.network.architecture import require_shape
from scrfdconv.converters.runner import Interface, Runner
from scrfdconv.converters.system.scratch import scratch_folder
from scrfdconv.recipes.artifacts.sources import SourceOptions, open_source
from scrfdconv.recipes.faces.detection import DEFAULT_SIZE, open_runner
from scrfdconv.recipes.order import Stage
from scrfdconv.recipes.runtimes import FileForRuntime, RuntimeFiles

# Shares of the runs after which models may leave: those that are far behind cost an eighth.
ROUNDS = (1 / 8, 1 / 4, 1 / 2, 1.0)


@dataclass(frozen=True, kw_only=True)
class BenchOptions:
    """How to time models; None takes the fixed dimensions of the models, or 640x640 and batch 1."""

    shape: tuple[int, int] | None = None
    batch: int | None = None
    threads: tuple[int | None, ...] = (None,)  # one table for each; None: the runtime's choice
    runs: int = DEFAULT_RUNS
    warm_up: int = DEFAULT_WARM_UP
    images: tuple[Path, ...] = ()  # photographs, to count the faces that a model loses
    margin: float = 0.0  # of scores: a face that moves by less over the threshold is not lost


@dataclass(frozen=True, kw_only=True)
class ComparedModel:
    """How one model did."""

    timing: Timing
    ratio: Ratio  # its time divided by the first model's
    threads: int | None
    file_bytes: int | None  # None for a built-in model, which has no file
    format: str
    agreement: Agreement | None  # with the first model's faces; None: no photographs

    @property
    def faces_lost(self) -> int:
        """Faces of the first model that this one does not find; 0 without photographs."""
        return self.agreement.reference_faces - self.agreement.found if self.agreement else 0

    def to_dict(self) -> dict[str, Any]:
        """For ``--json`` and reports."""
        timing, kept = self.timing, self.agreement
        faces = {
            "reference_faces": kept.reference_faces,
            "faces_lost": self.faces_lost,
            "faces_extra": kept.extra,
            "mean_iou": kept.mean_iou,
        } if kept else {}  # fmt: skip
        return {
            "model": timing.name,
            "format": self.format,
            "precision": timing.precision,
            "threads": self.threads,
            "median_ms": 1e3 * timing.median,
            "p90_ms": 1e3 * timing.percentile(90),
            "p99_ms": 1e3 * timing.percentile(99),
            "images_per_second": timing.throughput,
            "cores_used": timing.cores,
            "file_bytes": self.file_bytes,
            "peak_memory_bytes": timing.peak_bytes,
            "ratio": self.ratio.median,
            "ratio_p10": self.ratio.low,
            "ratio_p90": self.ratio.high,
            **faces,
            **({"remark": timing.remark} if timing.remark else {}),
        }


# Which models, by place, need not run on: those that cannot become what is looked for.
Losers = Callable[[Sequence[ComparedModel]], Collection[int]]


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
    losers: Losers = lambda compared: (),
    give_up: GiveUp | None = None,
    opened: Mapping[str, Source] | None = None,
) -> tuple[list[ComparedModel], Workload]:
    """Time models of any kind, by label, side by side; the others are compared with the first one.

    Files of a runtime with execution providers run on the options' provider, too, in a row of their
    own. Each number of threads is a contest of its own: the models take turns within it, and
    ``losers`` leave between its rounds. A model that fails is told to ``give_up`` and left out of
    all that follows; without ``give_up`` its error is raised. ``opened`` are the models, by label,
    that the caller has opened already.
    """
    entries = dict(_entries(models, options, opened or {}))
    found: list[ComparedModel] = []
    agreed: dict[tuple[str, str], Agreement | None] = {}

    def lose(label: str, why: str) -> None:
        assert give_up is not None
        del entries[label]
        give_up(label, why)

    total = len(bench.threads) * bench.runs
    for at, threads in enumerate(bench.threads):
        openings = {
            label: partial(_open, one.model, one.options, threads) for label, one in entries.items()
        }
        with contest(
            openings,
            partial(_workload, bench),
            threads,
            twins=True,
            photographs=() if agreed else bench.images,
            give_up=lose if give_up else None,
        ) as one:
            agreed = agreed or _agreements(one.faces, bench.margin)
            for before, after in pairwise((0, *_ends_of_rounds(bench.runs))):
                done = at * bench.runs + before
                one.run(after - before, partial(_advance, progress, done, total))
                compared = list(_compared(one.timings(), agreed, entries, threads))
                one.leave(losers(compared))
        found += compared
    return found, one.workload


def _advance(progress: Callable[[int, int], None], before: int, total: int, more: int) -> None:
    progress(before + more, total)


def _ends_of_rounds(runs: int) -> list[int]:
    """The numbers of runs after which a round ends, the last one being all of them."""
    return sorted({max(1, round(share * runs)) for share in ROUNDS})


def _compared(
    timings: Sequence[Timing],
    agreed: Mapping[tuple[str, str], Agreement | None],
    entries: Mapping[str, _Entry],
    threads: int | None,
) -> Iterator[ComparedModel]:
    for timing in timings:
        source = entries[timing.name].source
        yield ComparedModel(
            timing=timing,
            ratio=ratio(timing, timings[0]),
            threads=threads,
            file_bytes=_size(source),
            format=source.format,
            agreement=agreed[timing.name, timing.precision],
        )


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


def _entries(
    models: Mapping[str, str], options: SourceOptions, opened: Mapping[str, Source]
) -> Iterator[tuple[str, _Entry]]:
    plain, on_provider = replace(options, provider=None), False
    for label, model in models.items():
        source = opened.get(label) or open_source(model, plain)
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


def _agreements(
    faces: Mapping[tuple[str, str], Sequence[Faces]], margin: float
) -> dict[tuple[str, str], Agreement | None]:
    """How many of the first model's faces each model keeps."""
    first = next(iter(faces.values()))
    return {model: _agreement(first, found, margin) for model, found in faces.items()}


def _agreement(
    reference: Sequence[Faces], found: Sequence[Faces], margin: float
) -> Agreement | None:
    """How many of the first model's faces another keeps; raises CheckFailed if there are none."""
    if not reference:
        return None
    kept = agreement(zip(reference, found, strict=True), margin=margin)
    kept.require_defined()
    return kept


def _size(source: Source) -> int | None:
    """Bytes of all files; None for a built-in model."""
    if isinstance(source, Artifact):
        return source.size
    return source.path.stat().st_size if source.path else None


def _workload(bench: BenchOptions, interfaces: Mapping[str, Interface]) -> Workload:
    """The shape and batch that all models accept."""
    shapes = (interface.shape for interface in interfaces.values())
    batches = (interface.batch for interface in interfaces.values())
    shape = bench.shape or next(filter(None, shapes), DEFAULT_SIZE)
    batch = bench.batch or next(filter(None, batches), 1)
    require_shape(shape)
    for name, interface in interfaces.items():
        if not interface.accepts(batch, *shape):
            takes = [interface.batch, interface.height, interface.width]
            raise UsageError(
                f"{name}: takes batch {takes[0] or 'any'}, height {takes[1] or 'any'}, width "
                f"{takes[2] or 'any'}, not {batch} x {shape[0]}x{shape[1]}; give --shape and "
                "--batch that all models accept, or compare models of one shape."
            )
    return Workload(batch, shape, bench.runs, bench.warm_up)
