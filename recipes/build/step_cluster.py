"""The steps of a build on the machines of a Dask cluster, with one folder that all of them see.

The asking process plans, gives finished files their names and keeps the records, as it does for
workers of its own. A step is one task: its process of its own, on whichever machine, writes into a
new folder below the shared one. The step of a lost worker begins again in another folder.
"""

from __future__ import annotations

import multiprocessing
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from scrfdconv.converters.artifact import digest_of
from scrfdconv.converters.errors import InputFileError, MissingError
from scrfdconv.converters.system.workers import Died, Worker
from scrfdconv.recipes.build.cache import Cache
from scrfdconv.recipes.build.digests import images_digest, source_digest
from scrfdconv.recipes.build.plan import MEASURERS, Step, StepJob, versions_of
from scrfdconv.recipes.build.recipe import CheckpointEntry, Recipe
from scrfdconv.recipes.build.step import Done, run
from scrfdconv.recipes.cluster import Cluster, Common

# Network file systems show a new file on another machine after their caches' time: 3 to 60
# seconds with the defaults of NFS (man nfs: acregmin, acdirmax).
ARRIVAL_SECONDS = 60.0
POLL_SECONDS = 0.5  # between two looks for a file, or for the end of the build
ONE_EACH = 1  # a thread of a worker does one step at a time
_starting = threading.Lock()  # a new process inherits the environment that its start changes


@dataclass(frozen=True)
class RemoteJob:
    """A step for another machine, with the digests of all that it is made from."""

    job: StepJob
    files: Mapping[Path, str]  # sha256 of files that other steps have made


class StepCluster:
    """Does steps on a Dask cluster, as `converters.system.workers.Workers` does here."""

    def __init__(self, address: str, cache: Cache, steps: Iterable[Step]) -> None:
        content = secrets.token_hex()
        self._proof = cache.prove(content)
        libraries = dict.fromkeys(name for step in steps for name in versions_of(step.target))
        common = replace(Common.of((*MEASURERS, *libraries)), proof=self._proof, content=content)
        self._jobs: dict[str, StepJob] = {}
        self._cluster = Cluster[RemoteJob, Done](address, do_step, self._proof, common, ONE_EACH)

    def __enter__(self) -> StepCluster:
        self._cluster.__enter__()
        return self

    def __exit__(self, *problem: object) -> None:
        self._proof.unlink(missing_ok=True)  # ends the steps that still run
        self._cluster.__exit__(*problem)

    @property
    def idle(self) -> int:
        """How many steps could be started now."""
        return self._cluster.idle

    def start(self, job: StepJob, *, fresh: bool = False) -> None:
        """Do a step on any worker; every step has a ``fresh`` process there."""
        self._jobs[job.step.name] = job
        made = [path for path in (job.parent, job.float_graph) if path]
        files = {path.resolve(): digest_of(path) for path in made}
        self._cluster.start(RemoteJob(_for_any_folder(job), files), fresh=fresh)

    def finished(self) -> Iterator[tuple[StepJob, Done | Died]]:
        """Wait until a step is done; yield it when its files have arrived here."""
        for task, done in self._cluster.finished():
            if isinstance(done, Done) and done.path:
                for one in done.files:
                    _await(done.path.with_name(one.name), one.sha256)
            yield self._jobs.pop(task.job.step.name), done


def _for_any_folder(job: StepJob) -> StepJob:
    """The same job for a process in any working directory."""
    step = replace(job.step, checkpoint=_entry(job.step.checkpoint))
    recipe = replace(
        job.recipe,
        path=job.recipe.path.resolve(),
        checkpoints=tuple(map(_entry, job.recipe.checkpoints)),
        calibration=_resolved(job.recipe.calibration),
        test=_resolved(job.recipe.test),
    )
    parent, graph = (path and path.resolve() for path in (job.parent, job.float_graph))
    return replace(
        job,
        step=step,
        recipe=recipe,
        parent=parent,
        float_graph=graph,
        folder=job.folder.resolve(),
    )


def _entry(entry: CheckpointEntry) -> CheckpointEntry:
    drawn = entry.architecture
    return replace(
        entry,
        path=entry.path and entry.path.resolve(),
        config=entry.config and entry.config.resolve(),
        architecture=str(Path(drawn).resolve()) if drawn and Path(drawn).is_file() else drawn,
    )


def _resolved(paths: Sequence[Path]) -> tuple[Path, ...]:
    return tuple(path.resolve() for path in paths)


# ---------------------------------------------------------------- on a worker


def do_step(proof: Path, remote: RemoteJob) -> Done | Died:
    """Do a step in a process of its own; ``proof`` is there as long as somebody waits for it."""
    job = remote.job
    for path, digest in remote.files.items():
        _await(path, digest)
    _require_same_inputs(job.step, job.recipe)
    # The folder of a lost worker may still be written to.
    own = replace(job, folder=Path(tempfile.mkdtemp(dir=job.folder)))
    this: Any = multiprocessing.current_process()
    this.daemon = False  # as Dask starts them, its processes may have no children
    with Worker[StepJob, Done](run) as worker:
        with _starting:
            worker.send(own)
        while not worker.connection.poll(POLL_SECONDS):
            if not proof.exists():
                raise MissingError(f"{job.step.name}: the build that asked for it has ended.")
        return worker.receive()


def _require_same_inputs(step: Step, recipe: Recipe) -> None:
    """Raise InputFileError where this machine has other files than the plan was made from."""
    planned = step.ingredients
    here: dict[str, Callable[[], str]] = {
        "checkpoint": lambda: source_digest(step.checkpoint),
        "calibration images": lambda: images_digest(recipe.calibration),
        "test images": lambda: images_digest(recipe.test),
    }
    for name, digest in here.items():
        if planned.get(name) and digest() != planned[name]:
            raise InputFileError(
                f"{step.checkpoint.source}: a worker of the cluster sees another {name} than the "
                "machine that asks; all of them need the same files under the same names."
            )


# ---------------------------------------------------------------- on both sides


def _await(path: Path, digest: str) -> None:
    """Wait until a file that another machine wrote is whole here."""
    until = time.monotonic() + ARRIVAL_SECONDS
    while True:
        try:
            found = digest_of(path)
        except InputFileError:
            found = ""
        if found == digest:
            return
        if time.monotonic() > until:
            raise MissingError(
                f"{path}: is not what another machine of the cluster wrote; all of them need this "
                "folder under the same name."
            )
        time.sleep(POLL_SECONDS)
