"""The steps of a build that are due, run by worker processes, parents before children."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from scrfdconv.checks.reports.outcome import Outcome, Picture, State
from scrfdconv.converters.artifact import writing_to
from scrfdconv.converters.errors import ScrfdconvError
from scrfdconv.converters.precision import FLOAT
from scrfdconv.converters.system.workers import Died, Workers
from scrfdconv.recipes.build.cache import Cache, Record
from scrfdconv.recipes.build.plan import CandidateJob, Step, StepJob
from scrfdconv.recipes.build.recipe import FASTEST, Recipe
from scrfdconv.recipes.build.step import Done, run
from scrfdconv.recipes.build.step_cluster import StepCluster

FAILED = 1
GOOD = ("built", "cached")


class View(Protocol):
    """Shows the progress of a build."""

    def planned(self, names: Sequence[str]) -> None:
        """All artifacts that will be finished."""

    def started(self, name: str) -> None:
        """A step runs."""

    def finished(self, outcome: Outcome, planned: str) -> None:
        """An artifact is done, of which ``planned`` is the name among all artifacts."""


@dataclass(frozen=True)
class Decision:
    """A step, its record, and why it must run ("": it is up to date)."""

    step: Step
    record: Record | None
    why: str
    blocked: str = ""  # why this machine cannot run the step


class Run:
    """Runs the due steps. ``records`` and ``pictures`` are those of all good artifacts."""

    def __init__(
        self,
        recipe: Recipe,
        cache: Cache,
        view: View,
        jobs: int,
        *,
        fail_fast: bool = False,
        scheduler: str | None = None,
    ) -> None:
        self._recipe, self._cache, self._view = recipe, cache, view
        self._jobs, self._fail_fast, self._scheduler = jobs, fail_fast, scheduler
        self.records: dict[str, Record] = {}
        self.pictures: dict[str, Picture] = {}
        self._found: dict[str, Outcome] = {}
        self._due: dict[str, Decision] = {}
        self._running: dict[str, Step] = {}
        self._steps: dict[str, Step] = {}

    def outcomes(self, decisions: Sequence[Decision]) -> list[Outcome]:
        """Run all due steps and return the outcomes of all artifacts, in their order."""
        shown = [d.step.name for d in decisions if not d.step.internal]
        self._view.planned(shown)
        self._steps = {d.step.name: d.step for d in decisions}
        self._due = {d.step.name: d for d in decisions if d.why and not d.blocked}
        for decision in decisions:
            if decision.record and not decision.why:
                self._settle(decision.step, decision.record, "cached")
            elif decision.blocked:
                self._lose(decision.step, "skipped", decision.blocked, Done(exit_code=FAILED))
        if self._due:
            self._run()
        return [self._found[name] for name in shown]

    def _run(self) -> None:
        with self._workers() as workers:
            while self._due or self._running:
                while workers.idle > 0 and (step := self._next()):
                    self._start(step, workers)
                for job, done in workers.finished():
                    del self._running[job.step.name]
                    self._finish(job.step, done)

    def _workers(self) -> Workers[StepJob, Done] | StepCluster:
        if self._scheduler:
            steps = [decision.step for decision in self._due.values()]
            return StepCluster(self._scheduler, self._cache, steps)
        return Workers[StepJob, Done](min(self._jobs, len(self._due)), run)

    def _next(self) -> Step | None:
        """The heaviest step whose parent is built; a choice is timed when nothing else runs."""
        waiting = {*self._due, *self._running}
        ready = [d.step for d in self._due.values() if not waiting.intersection(d.step.needs)]
        if any(step.entry.choice for step in self._running.values()):
            return None
        ordinary = [step for step in ready if not step.entry.choice]
        wanted = ordinary or ([] if self._running else ready)
        return max(wanted, key=lambda step: step.weight, default=None)

    def _start(self, step: Step, workers: Workers[StepJob, Done] | StepCluster) -> None:
        del self._due[step.name]
        self._running[step.name] = step
        self._view.started(step.name)
        folder = self._cache.scratch_for(step)
        parent, float_graph = (
            self._cache.folder / name if name else None for name in (step.parent, step.float_graph)
        )
        # The bytes of a trace depend on what was traced before in the same process.
        fresh = step.target.maker.fresh_process
        job = StepJob(
            step=step,
            recipe=self._recipe,
            parent=parent,
            float_graph=float_graph,
            folder=folder,
            candidates=tuple(self._candidates(step)),
            left_out=(*step.left_out, *self._failed(step).items()),
        )
        workers.start(job, fresh=fresh)

    def _candidates(self, choice: Step) -> Iterator[CandidateJob]:
        """What was made of the candidates of a choice; none for other steps."""
        for name in choice.candidates:
            if name not in self._failed(choice):
                step = self._steps[name]
                parent = self._cache.folder / step.parent if step.parent else None
                yield CandidateJob(step=step, file=self._cache.folder / name, parent=parent)

    def _failed(self, choice: Step) -> dict[str, str]:
        """The candidates of a choice that were not made, and why."""
        found = ((name, self._found.get(name)) for name in choice.candidates)
        return {name: one.why for name, one in found if one and one.state not in GOOD}

    # ------------------------------------------------------------ results

    def _finish(self, step: Step, done: Done | Died) -> None:
        if isinstance(done, Died):
            done = Done(error=_death(done), exit_code=FAILED)
        try:
            if done.path is not None:
                self._keep(step, done)
                return
        except ScrfdconvError as error:  # for example, because the disk is full
            done = Done(error=str(error), exit_code=error.exit_code, seconds=done.seconds)
        self._fail(step, done)

    def _keep(self, step: Step, done: Done) -> None:
        assert done.path is not None
        outcome = replace(
            _blank(done.chosen or step, "built"),
            sha256=done.sha256,
            size=done.size,
            seconds=done.seconds,
            report=done.report,
            histograms=done.histograms,
            faces=done.faces,
            latency=done.latency,
        )
        record = Record(step.key, step.ingredients, outcome, done.manifest or {})
        with writing_to(self._cache.folder / step.name):
            self._cache.keep(step, done.path, record, done.pictures)
        self._settle(step, record, "built")

    def _settle(self, step: Step, record: Record, state: State) -> None:
        """Record a good step and show its artifact."""
        if step.internal:
            return
        self.records[step.name] = record
        outcome = replace(record.outcome, state=state, command=self._command(step))
        self._found[step.name] = outcome
        for found in outcome.faces:
            if found.picture not in self.pictures and (kept := self._cache.picture(found.picture)):
                self.pictures[found.picture] = kept
        self._view.finished(outcome, step.name)

    def _fail(self, step: Step, done: Done) -> None:
        # A machine-bound artifact that this machine cannot build is skipped; every other error
        # fails.
        skipped = done.missing and step.target.maker.bound_to_machine
        state: State = "skipped" if skipped else "failed"
        if skipped:  # with --strict, a skip is an ordinary failure
            done = replace(done, exit_code=FAILED)
        self._lose(step, state, done.error, done)
        self._drop_children(step, done)
        spared = step.internal and any(step.name in d.step.candidates for d in self._due.values())
        if self._fail_fast and not skipped and not spared:
            for decision in tuple(self._due.values()):
                self._drop(decision.step, f"{step.name} failed (--fail-fast)")

    def _lose(self, step: Step, state: State, why: str, done: Done) -> None:
        outcome = replace(
            _blank(step, state),
            why=why,
            command=self._command(step),
            seconds=done.seconds,
            report=done.report,
            exit_code=done.exit_code,
        )
        self._found[step.name] = outcome
        if not step.internal:
            self._view.finished(outcome, step.name)

    def _command(self, step: Step) -> str:
        """The command that repeats one step alone."""
        recipe, out = str(self._recipe.path), str(self._cache.folder)
        words = ["scrfdconv", "build", recipe, "-o", out, "--only", step.name, "--force"]
        return shlex.join(words)

    def _drop_children(self, parent: Step, cause: Done) -> None:
        """Drop all that needs ``parent``, with the first cause as the reason."""
        failed = cause.report.summary() if cause.report and cause.report.failures else cause.error
        why = f"{failed.rstrip('.')}; {parent.name}, from which it is made, failed"
        for child in [d.step for d in self._due.values() if _dies_with(d.step, parent)]:
            self._drop(child, why, cause.exit_code)
            self._drop_children(child, cause)

    def _drop(self, step: Step, why: str, exit_code: int = FAILED) -> None:
        if self._due.pop(step.name, None):
            self._lose(step, "not run", why, Done(exit_code=exit_code))


def _dies_with(step: Step, parent: Step) -> bool:
    """True if ``step`` cannot be done without ``parent``; a choice does without a candidate."""
    return parent.name in step.needs and (
        not step.entry.choice or parent.name in (step.parent, step.float_graph)
    )


def _blank(step: Step, state: State) -> Outcome:
    target = step.target
    return Outcome(
        name=step.name,
        checkpoint=step.checkpoint.name,
        format=FASTEST if step.entry.choice else target.format,
        precision=target.precision or FLOAT,
        shape=step.entry.size,
        batch=target.batch,
        state=state,
        parents=(step.parent or step.checkpoint.name,),
    )


def _death(died: Died) -> str:
    if died.exit_code is None:
        return "each worker of the cluster that did it was lost, as systems end them for memory"
    return f"{died.why}; try fewer --jobs"
