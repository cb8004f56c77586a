"""``scrfdconv build``: all artifacts of a recipe, verified, remembered, and reported.

The calling process plans, decides what is up to date, and gives finished files their names; it
loads neither torch nor ONNX. Worker processes do the steps. One build works in a folder at a
time, another one waits.
"""

from __future__ import annotations

import os
import platform
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scrfdconv.checks.reports.files import NAMES as REPORTS
from scrfdconv.checks.reports.files import make_folder
from scrfdconv.checks.reports.outcome import BuildResult
from scrfdconv.converters.artifact import require_distinct, writing_to
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats import formats
from scrfdconv.converters.precision import precisions
from scrfdconv.converters.system.machine import cpu_name
from scrfdconv.recipes.build.cache import Cache
from scrfdconv.recipes.build.manifest import NAME as MANIFEST
from scrfdconv.recipes.build.manifest import write_manifest
from scrfdconv.recipes.build.plan import Step, library_version, plan
from scrfdconv.recipes.build.recipe import Recipe
from scrfdconv.recipes.build.scheduling import Decision, Run, View


@dataclass(frozen=True)
class BuildOptions:
    """How to build, as the command line's options of the same names."""

    jobs: int = 1
    only: tuple[str, ...] = ()
    force: bool = False
    fail_fast: bool = False
    strict: bool = False
    scheduler: str | None = None  # address of a Dask cluster, which does the steps


def decided_steps(steps: Sequence[Step], cache: Cache, *, force: bool = False) -> list[Decision]:
    """Decide what must be built; internal steps run only if another step is made from them."""
    found: dict[str, Decision] = {}
    for step in steps:
        record = cache.record(step)
        why = "asked for (--force)" if force else cache.why_build(step, record)
        blocked = _blocked(step) if why else ""
        found[step.name] = Decision(step, record, why, blocked)
    needed: set[str] = set()
    for decision in reversed(found.values()):
        step = decision.step
        if decision.why and (not step.internal or step.name in needed):
            needed.update(step.needs)
    return [
        replace(d, why="") if d.step.internal and d.step.name not in needed else d
        for d in found.values()
    ]


def _blocked(step: Step) -> str:
    """What a machine-bound format lacks here: its artifacts are skipped; "" for other formats."""
    maker = step.target.maker
    return maker.why_plainly_not_built() if maker.bound_to_machine else ""


def build(
    recipe: Recipe, out: Path, options: BuildOptions, view: View, command: Sequence[str] = ()
) -> BuildResult:
    """Build what is not up to date, and report on all; ``command`` is what the user typed.

    Raises UsageError, InputFileError and OutputError for what is wrong before anything is built. A
    step that fails is part of the result.
    """
    begun = time.monotonic()
    steps = plan(recipe, options.only)
    choice = next((step.name for step in steps if step.entry.choice), "")
    if options.scheduler and choice:
        raise UsageError(f"--scheduler: {choice} is timed on one machine; build it without.")
    written = [file for step in steps for file in step.files]
    require_distinct([out / name for name in (*written, *REPORTS, MANIFEST)], recipe.files_read())
    with alone_in(out) as cache:
        decisions = decided_steps(steps, cache, force=options.force)
        run = Run(
            recipe,
            cache,
            view,
            options.jobs,
            fail_fast=options.fail_fast,
            scheduler=options.scheduler,
        )
        outcomes = run.outcomes(decisions)
        write_manifest(out, recipe.name, run.records, keep_others=bool(options.only))
    return BuildResult(
        recipe=recipe.name,
        outcomes=tuple(outcomes),
        pictures=tuple(run.pictures.values()),
        environment=build_environment(),
        command=shlex.join(command),
        seconds=round(time.monotonic() - begun, 3),
        strict=options.strict,
    )


def decisions(recipe: Recipe, out: Path, options: BuildOptions) -> list[Decision]:
    """What a build would do now, and why; no file is changed."""
    return decided_steps(plan(recipe, options.only), Cache(out), force=options.force)


@contextmanager
def alone_in(out: Path) -> Iterator[Cache]:
    """The output folder: made if missing, cleared of the rests of killed builds, and locked."""
    from filelock import FileLock

    cache = Cache(out)
    make_folder(cache.lock.parent)
    with writing_to(out), FileLock(cache.lock):
        cache.prepare()
        try:
            yield cache
        finally:
            cache.clear_scratch()


def build_environment() -> dict[str, str]:
    """The machine and the libraries, for people."""
    declared: list[Any] = [*formats().values(), *precisions().values()]
    names = dict.fromkeys(["scrfdconv", *(name for one in declared for name in one.libraries)])
    return {
        "processor": f"{cpu_name()}, {os.cpu_count()} cores",
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{name: library_version(name) for name in names},
    }
