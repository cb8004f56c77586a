"""How good is a detector: its WIDER FACE average precision.

Images are run in groups by worker processes, here or on a Dask cluster. Every group is a pure
function of an `EvaluationJob` and image names, so the detections depend neither on the number of
workers nor on which worker did what, and a lost worker's groups run again elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scrfdconv.checks.faces.images import read_image
from scrfdconv.checks.widerface.geometry import (
    VGA,
    detections_on,
    find_events,
    is_square,
    mode_name,
    require_mode,
)
from scrfdconv.checks.widerface.protocol import Evaluation, evaluate_results
from scrfdconv.checks.widerface.result_files import load_results
from scrfdconv.checks.widerface.result_folder import ResultFolder
from scrfdconv.checks.widerface.truth import GroundTruth, load_ground_truth
from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.errors import InputFileError, UsageError
from scrfdconv.converters.formats import Source
from scrfdconv.converters.metadata import architecture_from_metadata
from scrfdconv.converters.network.architecture import BUILTIN, PUBLISHED, Architecture, Published
from scrfdconv.converters.runner import Interface, Runner
from scrfdconv.converters.structured import to_plain
from scrfdconv.converters.system.workers import THREADS, on_this_machine
from scrfdconv.recipes.artifacts.sources import SourceOptions, open_source
from scrfdconv.recipes.cluster import on_dask
from scrfdconv.recipes.faces.detection import faults_of, open_runner
from scrfdconv.recipes.faces.shared_model import SharedModel, common_to_run, default_workers

# Written into result folders: a run never continues detections of another protocol. Count up when a
# change here or in checks/widerface/geometry.py changes detections.
PROTOCOL = 1

Group = tuple[str, ...]  # names of images that one run of the model takes
Progress = Callable[[int, int], None]  # called with the number of finished images and of all images


@dataclass(frozen=True)
class EvaluationJob:
    """What a worker needs to know, here or on another machine that sees the same files."""

    model: SharedModel
    images: Path  # the folder with EVENT/NAME.jpg
    mode: int
    label: int | None = None  # of several classes, the one that is the face


@dataclass(frozen=True)
class EvaluationPlan:
    """How to evaluate a model on WIDER FACE, as the command line's options."""

    mode: int = VGA
    results: Path | None = None
    limit: int | None = None
    workers: int | None = None  # None: one for each processor
    scheduler: str | None = None  # address of a Dask cluster
    face: str | None = None  # of several classes, the number or name of the one that is the face


@dataclass(frozen=True)
class Score:
    """A model's average precision, and the published one where the model is a known one."""

    evaluation: Evaluation
    published: Published | None = None
    reused: int = 0  # images that an earlier run had finished
    interface: Interface | None = None  # of the model that was run


def score_results(results: Path, ground_truth: Path, limit: int | None = None) -> Score:
    """Score result files of any detector by the WIDER FACE protocol."""
    truth = load_ground_truth(ground_truth)
    found = load_results(results)
    if limit is not None:
        truth = truth.first(limit)
        found = {name: found[name] for name in truth.names if name in found}
    return Score(evaluate_results(truth, found))


def score_model(
    model: str, options: SourceOptions, directory: Path, plan: EvaluationPlan, progress: Progress
) -> Score:
    """Run a model on the validation images and score it by the published protocol.

    With ``plan.results`` every finished image is kept there, and a second call with the same
    model and mode runs only what is missing.
    """
    source = open_source(model, options)
    runner = open_runner(source, THREADS)
    require_mode(runner.interface, plan.mode)
    truth = load_ground_truth(directory)
    truth = truth if plan.limit is None else truth.first(plan.limit)
    images = find_events(directory)
    _require_images(images, truth)
    label = label_of(plan.face, runner.interface.class_names)
    stamp = _stamp(source, plan.mode) | ({} if label is None else {"class": label})
    folder = ResultFolder(plan.results, stamp)
    groups = _groups(truth.names, runner, plan.mode)
    missing = [group for group in groups if not all(map(folder.finished, group))]
    done = len(truth.names) - sum(map(len, missing))
    reused = done
    progress(done, len(truth.names))
    job = EvaluationJob(
        model=SharedModel.of(model, source, options),
        images=images.resolve(),
        mode=plan.mode,
        label=label,
    )
    with closing(_run(job, missing, plan, source)) as finished:
        for group, detections in finished:
            for name, rows in zip(group, detections, strict=True):
                folder.add(name, rows)
            done += len(group)
            progress(done, len(truth.names))
    evaluation = evaluate_results(truth, folder.results(truth.names))
    return Score(evaluation, published_for(source, runner), reused, runner.interface)


def label_of(text: str | None, names: Sequence[str]) -> int | None:
    """The number of the class that ``--class`` names or counts from 0; None without one."""
    if text is None:
        return None
    if text in names:
        return names.index(text)
    if text.isdecimal() and (not names or int(text) < len(names)):
        return int(text)
    known = f": {', '.join(names)}" if names else "; it names none"
    raise UsageError(f"--class {text} is no class of the model{known}.")


def detect_group(job: EvaluationJob, group: Group) -> list[np.ndarray]:
    """Detect faces on the images of one group; workers run this function."""
    runner = job.model.runner()
    images = [read_image(job.images / f"{name}.jpg") for name in group]
    with faults_of(job.model.name):
        return list(detections_on(runner, images, job.mode, job.label))


def published_for(source: Source, runner: Runner) -> Published | None:
    """The published row of a model, if its architecture is a known one and it was trained."""
    a: Architecture | None
    if isinstance(source, Checkpoint):
        a, seeded = source.architecture, source.seeded
    else:
        a = architecture_from_metadata(runner.metadata)
        seeded = runner.metadata.get("weights", "checkpoint") != "checkpoint"
    known = a is not None and not seeded and BUILTIN.get(a.name) == a
    return PUBLISHED.get(a.name) if a and known else None


# ---------------------------------------------------------------- parts


def _run(
    job: EvaluationJob, groups: Sequence[Group], plan: EvaluationPlan, source: Source
) -> Generator[tuple[Group, list[np.ndarray]]]:
    if plan.scheduler:
        return on_dask(plan.scheduler, detect_group, job, groups, common_to_run(source))
    return on_this_machine(detect_group, job, groups, plan.workers or default_workers(source))


def _stamp(source: Source, mode: int) -> dict[str, Any]:
    """Everything that detections depend on, as JSON would read it back."""
    fed: Any = source.normalization.given if isinstance(source, Artifact) else source.architecture
    provider = source.provider if isinstance(source, Artifact) else None
    return {
        **({"provider": provider} if provider else {}),
        "model_sha256": source.digest,
        "architecture": to_plain(fed),
        "mode": mode_name(mode),
        "protocol": PROTOCOL,
    }


def _require_images(folder: Path, truth: GroundTruth) -> None:
    missing = [name for name in truth.names if not (folder / f"{name}.jpg").is_file()]
    if missing:
        raise InputFileError(
            f"{folder}: {len(missing)} of {len(truth.names)} images are missing, first "
            f"{missing[0]}.jpg; unpack WIDER_val.zip again."
        )


def _groups(names: Sequence[str], runner: Runner, mode: int) -> list[Group]:
    """As many images as a fixed batch takes, counted from the first image of the data set.

    An interrupted run continues with the same groups: an image always has the same neighbours.
    """
    slots = (runner.interface.batch or 1) if is_square(mode) else 1
    return [tuple(names[at : at + slots]) for at in range(0, len(names), slots)]
