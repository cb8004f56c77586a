"""The step that keeps the fastest of several artifacts which the same build has made.

The candidates are steps of their own, so that their files are cached, and shared with targets that
ask for the same ones. This step times them and goes on as the step of the best one, whose file gets
another name.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath

from scrfdconv.checks.faces.images import image_files
from scrfdconv.checks.verification import Demand, verify
from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.errors import CheckFailed
from scrfdconv.converters.precision import FLOAT
from scrfdconv.converters.system.machine import cpu_name, usable_cores
from scrfdconv.recipes.artifacts.conversion import Made
from scrfdconv.recipes.artifacts.sources import SourceOptions
from scrfdconv.recipes.bench import BenchOptions, ComparedModel, compare_speed
from scrfdconv.recipes.build.plan import CandidateJob, StepJob, chosen_name
from scrfdconv.recipes.optimize import DEFAULT_RUNS, MARGIN, Budget, changed_faces, told


def fastest_of(
    job: StepJob, checkpoint: Checkpoint, reading: SourceOptions, demand: Demand | None
) -> tuple[StepJob, Made]:
    """The job of the fastest candidate that keeps the faces, with its file under the new name.

    The file is verified as ``demand`` says; one that fails leaves its place to the next. Raises
    CheckFailed where no candidate was made, and where none keeps the faces.
    """
    _require_some(job)
    left_out: dict[str, str] = dict(job.left_out)
    compared = _compared(job, checkpoint, reading, left_out)
    jobs = {one.step.name: one for one in job.candidates}
    budget = Budget(job.step.entry.budgets.max_face_loss)
    for best in _from_the_fastest(compared, budget):
        found = _renamed(jobs[best.timing.name], job)
        path = _copied(jobs[best.timing.name].file, found)
        report = verify(checkpoint, path, demand or Demand())
        if report.passed:
            artifact = found.step.target.maker.artifact_at(
                path, found.step.target.precision or FLOAT
            )
            artifact = replace(artifact, parents=(checkpoint.digest,))
            notes = (*report.notes, *_account(compared, budget, left_out))
            return found, Made(artifact=artifact, report=replace(report, notes=notes))
        left_out[best.timing.name] = report.summary()
    share = budget.share
    raise CheckFailed(
        f"No candidate keeps the faces within budgets.max_face_loss {share:g} and is the model: "
        + "; ".join(_account(compared, budget, left_out))
    )


def _require_some(job: StepJob) -> None:
    if not job.candidates:
        name, why = job.left_out[0]
        raise CheckFailed(
            f"None of {len(job.left_out)} candidates could be made; the first, {name}: {why}"
        )


def _compared(
    job: StepJob, checkpoint: Checkpoint, reading: SourceOptions, left_out: dict[str, str]
) -> list[ComparedModel]:
    """The source and every candidate that ran, timed in turns with the target's threads."""
    choice, target = job.step.entry.choice, job.step.target
    assert choice is not None
    assert target.shape is not None
    source = job.step.checkpoint.source
    bench = BenchOptions(
        shape=target.shape,
        batch=target.batch,
        threads=(choice.threads or usable_cores(),),
        runs=DEFAULT_RUNS,
        images=image_files(job.recipe.test),
        margin=MARGIN,
    )
    compared, _ = compare_speed(
        {source: source, **{one.step.name: str(one.file) for one in job.candidates}},
        reading,
        bench,
        losers=Budget(job.step.entry.budgets.max_face_loss).losers,
        give_up=left_out.__setitem__,
        opened={source: checkpoint},
    )
    return compared


def _from_the_fastest(compared: Sequence[ComparedModel], budget: Budget) -> Iterator[ComparedModel]:
    """The candidates within the budget: those that ran to the end first, the fastest first."""
    fitting = [one for one in compared[1:] if budget.holds(one)]
    yield from sorted(fitting, key=lambda one: (-len(one.timing.seconds), one.timing.median))


def _renamed(candidate: CandidateJob, job: StepJob) -> StepJob:
    """The candidate's job, with the name and the demands of the choice."""
    step, entry = candidate.step, job.step.entry
    target = step.target
    name = chosen_name(job.step.name, target.maker, target.precision)
    chosen = replace(step, name=name, entry=replace(entry, target=target, choice=None))
    return replace(job, step=chosen, parent=candidate.parent, candidates=())


def _copied(file: Path, job: StepJob) -> Path:
    """The candidate's files in the step's folder, under the name of the choice."""
    maker = job.step.target.maker
    out = job.folder / PurePosixPath(job.step.name).name
    for old, new in zip(maker.files(file), (out, *maker.companions(out)), strict=True):
        shutil.copyfile(old, new)
    return out


def _account(
    compared: Sequence[ComparedModel], budget: Budget, left_out: Mapping[str, str]
) -> Iterator[str]:
    """What the choice was made from, and on which machine, as notes of the report."""
    yield f"chosen on {cpu_name()} with {compared[0].threads} threads, from:"
    for one in compared[1:]:
        many = "" if budget.holds(one) else ", too many"
        yield (
            f"{_short(told(one))}: {1e3 * one.timing.median:.2f} ms in {len(one.timing.seconds)} "
            f"runs, {changed_faces(one)} faces lost or new{many}"
        )
    for name, why in left_out.items():
        yield f"left out: {_short(name)}: {why}"


def _short(name: str) -> str:
    return PurePosixPath(name).name
