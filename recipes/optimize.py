"""Which file of a network is the fastest on this machine and keeps the faces?

Every candidate is built and verified, its faces are counted on photographs, and it is timed in
turns with the others. Candidates that cannot win any more leave after each round.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scrfdconv.checks.benchmark import Workload, bench_environment, ratio
from scrfdconv.checks.faces.compare import faces_on_input, model_input
from scrfdconv.checks.faces.decode import DEPLOYMENT_THRESHOLD
from scrfdconv.checks.faces.limits import LIMITS, faces_allowed
from scrfdconv.checks.reports.front import Point, pareto_front, plot_front
from scrfdconv.converters.artifact import put_in_place, scratch_beside, writing_to
from scrfdconv.converters.errors import CheckFailed, MissingError, OutputError, UsageError
from scrfdconv.converters.formats import Source
from scrfdconv.converters.network.architecture import require_shape
from scrfdconv.converters.normalization import shown
from scrfdconv.converters.precision import FLOAT
from scrfdconv.converters.precision.int8 import DEFAULT_FACE_LOSS
from scrfdconv.converters.structured import write_json
from scrfdconv.recipes.artifacts.sources import SourceOptions
from scrfdconv.recipes.bench import BenchOptions, ComparedModel, compare_speed
from scrfdconv.recipes.faces.detection import DEFAULT_SIZE, open_runner
from scrfdconv.recipes.order import Stage, silent
from scrfdconv.recipes.runtimes import FileForRuntime, RuntimeFiles, candidates_called

DEFAULT_RUNS = 48  # rounds end after 6, 12, 24 and 48 runs
REPORT, PLAN, PICTURE = "report.json", "plan.json", "optimize.svg"
# A face that crossed the threshold by no more than 8 bits explain is not lost, as `int8` counts.
MARGIN = LIMITS["int8"].margin


@dataclass(frozen=True, kw_only=True)
class OptimizeOptions:
    """What the fastest file must keep, and how long to look for that file."""

    images: tuple[Path, ...]  # photographs with faces
    shape: tuple[int, int] | None = None  # (H, W); None: that of a fixed source, or 640x640
    max_face_loss: float = DEFAULT_FACE_LOSS  # share of faces that may be lost, and may be new
    threads: tuple[int | None, ...] = (None, 1)  # the first number decides; None: the runtime's
    candidates: tuple[str, ...] = ()  # none: all
    runs: int = DEFAULT_RUNS


@dataclass(frozen=True, kw_only=True)
class Kept:
    """The file that is shipped."""

    model: ComparedModel
    path: Path
    command: str  # builds the same file again without a search


@dataclass(frozen=True, kw_only=True)
class Optimized:
    """Everything that was measured; the first of ``compared`` is the source itself."""

    compared: tuple[ComparedModel, ...]
    left_out: Mapping[str, str]  # name of a candidate -> why there is no file
    workload: Workload
    budget: Budget
    kept: Kept | None = None
    note: str = ""

    @property
    def deciding(self) -> tuple[ComparedModel, ...]:
        """The candidates with the number of threads that decides."""
        return tuple(one for one in self.compared[1:] if one.threads == self.compared[0].threads)

    @property
    def front(self) -> tuple[Point, ...]:
        """The candidates that no other beats in time without changing more faces."""
        return pareto_front([self._point(one) for one in self.deciding])

    def is_on_front(self, model: ComparedModel) -> bool:
        """True if ``model`` is a point of the front."""
        decides = any(one is model for one in self.deciding)
        return decides and self._point(model) in self.front

    def is_kept(self, model: ComparedModel) -> bool:
        """True for the winner's row."""
        return self.kept is not None and model is self.kept.model

    def in_two_arithmetics(self, model: ComparedModel) -> bool:
        """True if this machine computes the same file in another arithmetic, too."""
        names = [one.timing.name for one in self.deciding]
        return names.count(model.timing.name) > 1

    def draw(self, title: str, path: Path) -> None:
        """The picture of all candidates; raises MissingError without matplotlib."""
        points = [self._point(one) for one in self.deciding]
        plot_front(points, self.budget.allowed(self.deciding[0]), title, path)

    def _point(self, model: ComparedModel) -> Point:
        return Point(
            name=told(model),
            milliseconds=1e3 * model.timing.median,
            faces=changed_faces(model),
            kept=self.is_kept(model),
        )

    def to_dict(self) -> dict[str, Any]:
        """For ``--json`` and the report."""
        height, width = self.workload.shape
        threads = dict.fromkeys(one.threads for one in self.compared)
        return {
            "kept": self.kept and {
                "file": str(self.kept.path),
                "model": self.kept.model.timing.name,
                "precision": self.kept.model.timing.precision,
                "command": self.kept.command,
            },
            "max_face_loss": self.budget.share,
            "faces_allowed": self.budget.allowed(self.compared[0]),
            "shape": [height, width],
            "batch": self.workload.batch,
            **bench_environment(list(threads)),
            "models": [
                {
                    **one.to_dict(),
                    "runs": len(one.timing.seconds),
                    "within_budget": self.budget.holds(one),
                    "on_front": self.is_on_front(one),
                }
                for one in self.compared
            ],
            "left_out": dict(self.left_out),
        }  # fmt: skip


@dataclass(frozen=True)
class Budget:
    """How many faces a candidate may lose, and how many may be new."""

    share: float

    def allowed(self, model: ComparedModel) -> int:
        """The number for the faces that the source finds."""
        assert model.agreement is not None
        return faces_allowed(self.share, model.agreement.reference_faces)

    def holds(self, model: ComparedModel) -> bool:
        """True if the candidate keeps enough faces and adds few enough."""
        return changed_faces(model) <= self.allowed(model)

    def fastest(self, compared: Sequence[ComparedModel]) -> ComparedModel | None:
        """The fastest candidate within the budget, of those that were not given up before."""
        fitting = [compared[at] for at in _running(compared) if at and self.holds(compared[at])]
        return min(fitting, key=lambda one: one.timing.median, default=None)

    def losers(self, compared: Sequence[ComparedModel]) -> list[int]:
        """The slower half of what cannot win any more; noise alone loses nothing.

        The source, which is the first, is no candidate. A candidate cannot win if the fastest one
        within the budget was faster in nine of ten runs.
        """
        best = self.fastest(compared)

        def hopeless(at: int) -> bool:
            one = compared[at]
            slower = best is not None and ratio(one.timing, best.timing).low > 1
            return at == 0 or slower or not self.holds(one)

        lost = sorted(filter(hopeless, _running(compared)), key=lambda at: _pace(compared[at]))
        return lost[len(lost) // 2 :]


def changed_faces(model: ComparedModel) -> int:
    """Faces lost or faces added, whichever are more."""
    return max(model.faces_lost, model.agreement.extra) if model.agreement else 0


def told(model: ComparedModel) -> str:
    """The candidate, and the arithmetic where the name does not say it."""
    name, (_, _, arithmetic) = model.timing.name, model.timing.precision.partition(", ")
    return f"{name} in {arithmetic}" if arithmetic else name


def _running(compared: Sequence[ComparedModel]) -> list[int]:
    most = max(len(one.timing.seconds) for one in compared)
    return [at for at, one in enumerate(compared) if len(one.timing.seconds) == most]


def _pace(model: ComparedModel) -> float:
    return model.timing.median


# ---------------------------------------------------------------- the search


def optimize(
    model: str,
    source: Source,
    reading: SourceOptions,
    options: OptimizeOptions,
    out: Path,
    stage: Stage = silent,
    tell: Callable[[str], None] = lambda line: None,
) -> Optimized:
    """Build, verify, judge and time every candidate; keep the fastest one in the folder ``out``.

    ``source`` is ``model``, as ``reading`` opens it. ``out`` gets the file, its report, the
    picture, and the plan of INT8; nothing without a candidate within the budget. A candidate that
    fails, or whose process ends, is left out. Raises UsageError for an unknown candidate and
    OutputError for a folder with files before anything is built, CheckFailed where the source finds
    no face or every candidate fails, and MissingError where this machine can make none.
    """
    wanted = candidates_called(options.candidates)
    require_new_folder(out)
    own = open_runner(source).interface
    shape = options.shape or own.shape or DEFAULT_SIZE
    batch = own.batch or 1
    require_shape(shape)
    if not own.accepts(batch, *shape):
        raise UsageError(f"{source.name}: takes no images of {shape[0]}x{shape[1]}.")
    _require_faces(source, options.images, shape)
    with scratch_beside(out / REPORT if out.is_dir() else out) as folder:
        files = RuntimeFiles(
            source=source,
            folder=folder,
            shape=shape,
            batch=batch,
            images=options.images,
            candidates=wanted,
            max_face_loss=options.max_face_loss,
            stage=stage,
        )
        made: dict[str, FileForRuntime] = {}
        for one in files.made():
            made[one.candidate.name] = one
            tell(f"{one.candidate.name}: {one.why_not or 'made and verified'}")
        _require_some(made)
        found = _timed(model, source, reading, options, made, shape, batch, stage)
        return _with_kept(found, made, model, reading, source, out, folder)


def require_new_folder(out: Path) -> None:
    """Raise OutputError unless ``out`` can be made, or is an empty folder."""
    with writing_to(out):
        if out.exists() and not out.is_dir():
            raise OutputError(f"{out}: is no folder; name a new one.")
        if out.is_dir() and any(not path.name.startswith(".") for path in out.iterdir()):
            raise OutputError(f"{out}: has files already; name a new folder.")


def _require_faces(source: Source, images: Sequence[Path], shape: tuple[int, int]) -> None:
    """Raise CheckFailed where the source finds no face: nothing could be judged."""
    runner = open_runner(source)
    for path in images:
        faces = faces_on_input(runner, model_input(path, shape, runner.interface.normalization))
        if np.any(faces.scores >= DEPLOYMENT_THRESHOLD):
            return
    raise CheckFailed(
        f"{source.name}: finds no face on any of the {len(images)} photographs, so nothing could "
        "be judged; give --images with faces, and a trained model."
    )


def _require_some(made: Mapping[str, FileForRuntime]) -> None:
    """Raise the error of the first candidate where there is no file of any."""
    if any(one.path for one in made.values()):
        return
    tried = [one for one in made.values() if not one.missing] or list(made.values())
    kind = MissingError if tried[0].missing else CheckFailed
    raise kind(
        f"None of {len(made)} candidates could be made; the first, {tried[0].candidate.name}: "
        f"{tried[0].why_not}"
    )


def _timed(
    model: str,
    source: Source,
    reading: SourceOptions,
    options: OptimizeOptions,
    made: Mapping[str, FileForRuntime],
    shape: tuple[int, int],
    batch: int,
    stage: Stage,
) -> Optimized:
    bench = BenchOptions(
        shape=shape,
        batch=batch,
        threads=options.threads,
        runs=options.runs,
        images=options.images,
        margin=MARGIN,
    )
    budget = Budget(options.max_face_loss)
    models = {model: model, **{name: str(one.path) for name, one in made.items() if one.path}}
    left_out = {name: one.why_not for name, one in made.items() if not one.path}
    with stage("timing") as advance:
        compared, workload = compare_speed(
            models,
            reading,
            bench,
            advance,
            budget.losers,
            give_up=left_out.__setitem__,
            opened={model: source},
        )
    found = Optimized(
        # What failed with one number of threads is not shipped for another.
        compared=tuple(one for one in compared if one.timing.name not in left_out),
        left_out=left_out,
        workload=workload,
        budget=budget,
    )
    if not found.deciding:
        name, why = next((name, why) for name, why in left_out.items() if name in models)
        raise CheckFailed(f"Every candidate failed while it was timed; the first, {name}: {why}.")
    return found


# ---------------------------------------------------------------- what is kept


def _with_kept(
    found: Optimized,
    made: Mapping[str, FileForRuntime],
    model: str,
    reading: SourceOptions,
    source: Source,
    out: Path,
    folder: Path,
) -> Optimized:
    """``found`` with the winner, whose files are in ``out`` then; as it is if there is none."""
    best = found.budget.fastest([found.compared[0], *found.deciding])
    if best is None:
        return found
    file = made[best.timing.name]
    assert file.path is not None
    kept = Kept(
        model=best,
        path=out / file.path.name,
        command=_command(model, reading, file, found.workload, out),
    )
    done = replace(found, kept=kept)
    parts = [*file.candidate.format.files(file.path)]
    if file.plan:
        parts.append(file.plan.rename(folder / PLAN))
    try:
        done.draw(f"{source.name} on this machine", folder / PICTURE)
        parts.append(folder / PICTURE)
    except MissingError as error:
        done = replace(done, note=f"no picture: {error}")
    write_json(folder / REPORT, done.to_dict())
    parts.insert(0, folder / REPORT)  # named last: where the report is, everything is
    with writing_to(out):
        out.mkdir(exist_ok=True)
        put_in_place(parts, [out / part.name for part in parts])
    return done


def _command(
    model: str, reading: SourceOptions, file: FileForRuntime, workload: Workload, out: Path
) -> str:
    """The command line that makes the winner again; a plan replaces the search of INT8."""
    maker, precision = file.candidate.format, file.candidate.precision
    words: list[object] = ["scrfdconv", maker.verb, model, "--shape", *workload.shape]
    if workload.batch != 1:
        words += ["--batch", workload.batch]
    if precision != FLOAT:
        words += ["--precision", precision]
    if file.plan:
        words += ["--plan", out / PLAN]
    said = {
        **{name: shown(value) for name, value in reading.normalization.given.items()},
        "architecture": reading.architecture,
        "config": reading.config,
        "norm-groups": reading.groups,
        "seed": reading.seed or None,
    }
    for name, value in said.items():
        words += [f"--{name}", value] if value is not None else []
    return shlex.join(map(str, words))
