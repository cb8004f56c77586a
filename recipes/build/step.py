"""One step of a build, in a worker process: make the file, verify it, measure what it costs."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from scrfdconv.checks.faces.images import image_files
from scrfdconv.checks.reports.outcome import FacesOn, Histogram, Latency, Picture
from scrfdconv.checks.results import CheckResult, Report
from scrfdconv.checks.verification import Demand
from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.errors import CheckFailed, InputFileError, MissingError, ScrfdconvError
from scrfdconv.converters.formats import format_of, open_artifact
from scrfdconv.converters.precision import FLOAT, precisions
from scrfdconv.converters.runner import Interface, Runner, limit_threads
from scrfdconv.converters.system.permissions import allowing_host_code
from scrfdconv.converters.system.scratch import temporary_files_in
from scrfdconv.converters.system.workers import THREADS
from scrfdconv.recipes.artifacts.conversion import Made, convert
from scrfdconv.recipes.artifacts.network import GRAPH, network_in
from scrfdconv.recipes.artifacts.sources import SourceOptions, open_source
from scrfdconv.recipes.build.choice import fastest_of
from scrfdconv.recipes.build.digests import FileDigest
from scrfdconv.recipes.build.observer import Observer, latency
from scrfdconv.recipes.build.plan import (
    Step,
    StepJob,
    library_version,
    options_of,
    versions_of,
)
from scrfdconv.recipes.build.recipe import CheckpointEntry
from scrfdconv.recipes.faces.pictures import synthetic_pictures

logger = logging.getLogger(__name__)

CHECK = "budget"
BUG = 70  # EX_SOFTWARE, as the command line reports it
# Checkpoints that a worker keeps: steps of one checkpoint follow one another.
KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class Done:
    """The result of a job: a verified file, or an error."""

    path: Path | None = None
    chosen: Step | None = None  # what a choice became, with the name of its file
    sha256: str = ""  # over all files
    size: int = 0  # bytes of all files
    files: tuple[FileDigest, ...] = ()  # the main one first
    report: Report | None = None
    error: str = ""
    exit_code: int = 0
    missing: bool = False  # something that the step needs is not on this machine
    seconds: float = 0.0
    histograms: tuple[Histogram, ...] = ()
    faces: tuple[FacesOn, ...] = ()
    pictures: tuple[Picture, ...] = ()
    latency: Latency | None = None
    manifest: Mapping[str, Any] | None = None


def run(job: StepJob) -> Done:
    """Do the step; every failure becomes part of the result."""
    begun = time.monotonic()
    try:
        with temporary_files_in(job.folder):
            done = _made(job)
    except ScrfdconvError as error:
        report = error.report if isinstance(error, CheckFailed) else None
        done = Done(
            report=report if isinstance(report, Report) else None,
            error=str(error),
            exit_code=error.exit_code,
            missing=isinstance(error, MissingError),
        )
    except Exception as error:
        logger.exception("%s", job.step.name)
        done = Done(error=f"a bug in scrfdconv: {type(error).__name__}: {error}", exit_code=BUG)
    return replace(done, seconds=round(time.monotonic() - begun, 3))


def _made(job: StepJob) -> Done:
    checkpoint = _checkpoint(job.step.checkpoint)
    observer = Observer()
    demand = _demand(job, observer)
    chosen = job.step.entry.choice is not None
    if chosen:
        reading = _reading(job.step.checkpoint)
        job, made = fastest_of(job, checkpoint, reading, demand)
    else:
        made = _convert(job, checkpoint, job.folder / Path(job.step.name).name, demand)
    target, out = job.step.target, made.artifact.path
    whole = Done(
        path=out,
        chosen=job.step if chosen else None,
        sha256=made.artifact.digest,
        size=made.artifact.size,
        files=tuple(map(FileDigest.of, made.artifact.files)),
    )
    if job.step.internal:
        return whole
    with allowing_host_code():  # versions of this machine's library, added by this step itself
        opened = open_artifact(out, THREADS)
    paced = _latency(job, opened)
    report = _with_budgets(made, job, paced)
    if not report.passed:
        raise CheckFailed(report.summary(), report)
    return replace(
        whole,
        report=report,
        histograms=observer.histograms(target.precision or FLOAT, job.step.entry.tolerance.loosen),
        faces=tuple(observer.faces),
        pictures=tuple(observer.pictures),
        latency=paced,
        manifest={
            **_manifest(job, checkpoint, opened.interface, whole.files),
            **({"reproducible": False} if chosen else {}),  # another day another one is faster
        },
    )


# ---------------------------------------------------------------- sources and demands


@lru_cache(KEPT_CHECKPOINTS)
def _checkpoint(entry: CheckpointEntry) -> Checkpoint:
    limit_threads(THREADS)
    source = open_source(entry.source, _reading(entry))
    if isinstance(source, Artifact) and source.format == GRAPH.name:
        source = network_in(source).source
    if not isinstance(source, Checkpoint):
        raise InputFileError(f"{entry.source}: is {source.format}; builds start from checkpoints.")
    return source


def _reading(entry: CheckpointEntry) -> SourceOptions:
    return SourceOptions(
        architecture=entry.architecture,
        config=entry.config,
        groups=entry.norm_groups,
        seed=entry.seed,
        normalization=entry.normalization,
    )


def _demand(job: StepJob, observer: Observer) -> Demand | None:
    if job.step.internal:
        return None  # artifacts made from this file are verified against the checkpoint
    images = () if job.step.checkpoint.seeded else image_files(job.recipe.test)
    return Demand(images, job.step.entry.tolerance.loosen, weights=False, observe=observer)


# ---------------------------------------------------------------- making


def _convert(job: StepJob, checkpoint: Checkpoint, out: Path, demand: Demand | None) -> Made:
    target = job.step.target
    images = image_files(job.recipe.calibration)
    needy = precisions()[target.precision or FLOAT].needs_images
    if needy and checkpoint.seeded and not images:
        images = synthetic_pictures(job.folder / "pictures")
    return convert(checkpoint, target, out, demand, images=images, parent=_parent(job))


def _parent(job: StepJob) -> Artifact | None:
    """The step's parent file; a graph in the target's precision is the source itself."""
    if job.parent is None:
        return None
    return format_of(job.parent).artifact_at(job.parent)


# ---------------------------------------------------------------- measuring


def _latency(job: StepJob, opened: Runner) -> Latency | None:
    """Time against the float ONNX of the same shape, for artifacts made from such a graph."""
    if not job.recipe.latency or job.float_graph is None:
        return None
    return latency(open_artifact(job.float_graph, THREADS), opened)


def _with_budgets(made: Made, job: StepJob, paced: Latency | None) -> Report:
    report = made.report
    assert report is not None
    budgets, tolerance = job.step.entry.budgets, job.step.entry.tolerance
    results, notes = list(report.results), list(report.notes)
    if budgets.max_size_mb is not None:
        size = made.artifact.size / 1e6
        results.append(
            CheckResult(
                check=CHECK,
                subject="file",
                metric="size_mb",
                measured=size,
                limit=budgets.max_size_mb,
            )
        )
    if budgets.max_latency_ratio is not None:
        ratio, detail = 1.0, "it is the float model itself"
        if job.float_graph is not None:
            assert paced is not None  # a recipe without it was refused
            ratio = paced.ratio
            detail = f"{paced.artifact_ms:.1f} ms against {paced.float_ms:.1f} ms of float"
        limit = budgets.max_latency_ratio
        results.append(
            CheckResult(
                check=CHECK,
                subject="latency",
                metric="ratio",
                measured=ratio,
                limit=limit,
                detail=detail,
            )
        )
    if tolerance.loosen > 1:
        notes.append(f"why limits were loosened: {tolerance.reason}")
    return Report.of(results, notes)


def _manifest(
    job: StepJob, checkpoint: Checkpoint, interface: Interface, files: tuple[FileDigest, ...]
) -> dict[str, Any]:
    """The artifact's entry in the manifest, without its digest and checks."""
    target, entry = job.step.target, job.step.checkpoint
    folder = PurePosixPath(job.step.name).parent
    return {
        "files": [
            {"path": str(folder / one.name), "sha256": one.sha256, "size": one.size}
            for one in files
        ],
        "checkpoint": {
            "name": entry.name,
            "model": entry.model,
            "seed": entry.seed if entry.seeded else None,
            "sha256": None if entry.seeded else checkpoint.digest,
            "weights_sha256": checkpoint.weights_digest,
            "architecture": checkpoint.architecture.to_dict(),
        },
        "parents": [parent.digest] if (parent := _parent(job)) else [],
        "options": {**options_of(target), "tolerance": asdict(job.step.entry.tolerance)},
        "libraries": {"scrfdconv": library_version("scrfdconv"), **versions_of(target)},
        "inputs": [interface.batch, interface.channels, interface.height, interface.width],
        "outputs": list(interface.outputs),
    }
