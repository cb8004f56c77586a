"""From a recipe to steps: what each file is built from, and the key that its record is stored by.

A fixed ONNX comes from the dynamic one, FP16 and INT8 from the float ONNX of their shape. A file
that a target needs and the recipe does not ask for becomes an internal step.

A step has two digests. ``content`` covers all that decides the bytes of its file, the parent's
``content`` included; ``key`` adds what the artifact is measured against. So a changed tolerance
measures one artifact anew, and a changed checkpoint rebuilds all artifacts that depend on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any

from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats import Format
from scrfdconv.converters.metadata import installed_version
from scrfdconv.converters.network.architecture import PUBLISHED
from scrfdconv.converters.precision import FLOAT, precisions
from scrfdconv.converters.system.machine import cpu_name, usable_cores
from scrfdconv.recipes.artifacts.naming import default_output
from scrfdconv.recipes.artifacts.target import Target, fields_for, target_of
from scrfdconv.recipes.build.digests import (
    code_digest,
    content_digest,
    images_digest,
    source_digest,
)
from scrfdconv.recipes.build.recipe import (
    DYNAMIC,
    FASTEST,
    CheckpointEntry,
    Recipe,
    TargetEntry,
)
from scrfdconv.recipes.runtimes import Candidate, candidates_called

# The version of everything that the build writes besides artifacts and reports.
STATE_FOLDER = ".scrfdconv"
PARENTS_FOLDER = f"{STATE_FOLDER}/parents"
MEASURERS = ("torch", "onnxruntime", "numpy", "opencv-python-headless")
BYTES_PER_MILLION = 4e6  # of float32 weights


@dataclass(frozen=True)
class Step:
    """One file to be built from the parent's file or, without a parent, from the checkpoint."""

    name: str  # path of its file below the output folder, "/" between folders
    checkpoint: CheckpointEntry
    entry: TargetEntry
    parent: str | None  # name of another step
    float_graph: str | None  # name of the step that its time is compared with
    content: str
    measured: Mapping[str, str]  # everything else that the measurements depend on
    made_from: Mapping[str, str]  # everything that the content depends on
    candidates: tuple[str, ...] = ()  # names of the steps of which a choice keeps one
    left_out: tuple[tuple[str, str], ...] = ()  # candidates without a step, and why
    may_write: tuple[str, ...] = ()  # all files that a choice may end with

    @property
    def target(self) -> Target:
        """The target that this step makes."""
        target: Target = self.entry.target
        return target

    @property
    def needs(self) -> tuple[str, ...]:
        """Names of the steps whose files must be there."""
        needed = (self.parent, self.float_graph, *self.candidates)
        return tuple(dict.fromkeys(filter(None, needed)))

    @property
    def files(self) -> tuple[str, ...]:
        """Names of all files of the step, the main file first; of a choice, all possible ones."""
        return self.may_write or files_called(self.name, self.target.maker)

    @property
    def key(self) -> str:
        """Digest of everything that the file and its measurements depend on."""
        return content_digest({**self.made_from, **self.measured})

    @property
    def ingredients(self) -> Mapping[str, str]:
        """All parts of the key, by names for people."""
        return {**self.made_from, **self.measured}

    @property
    def internal(self) -> bool:
        """True if the step only serves other steps."""
        return self.name.startswith(f"{STATE_FOLDER}/")

    @property
    def weight(self) -> float:
        """Rough amount of work: large networks start first, so that none runs alone at the end."""
        path, published = self.checkpoint.path, PUBLISHED.get(self.checkpoint.model or "")
        if path:
            return path.stat().st_size / BYTES_PER_MILLION
        return published.params if published else 1.0


@dataclass(frozen=True, kw_only=True)
class StepJob:
    """What a worker needs to know."""

    step: Step
    recipe: Recipe
    parent: Path | None  # the file of the step's parent
    float_graph: Path | None  # float graph of the same shape, to compare times with
    folder: Path  # an empty folder to write to
    candidates: tuple[CandidateJob, ...] = ()  # those that were made
    left_out: tuple[tuple[str, str], ...] = ()  # the others, and why


@dataclass(frozen=True, kw_only=True)
class CandidateJob:
    """A candidate of a choice that was made."""

    step: Step
    file: Path
    parent: Path | None


def files_called(name: str, maker: Format) -> tuple[str, ...]:
    """The names of all files of an artifact whose main file is called ``name``."""
    companions = maker.companions(Path(PurePosixPath(name)))
    return (name, *(companion.as_posix() for companion in companions))


def plan(recipe: Recipe, only: Sequence[str] = ()) -> tuple[Step, ...]:
    """All steps, parents before children; ``only`` are patterns of artifact names.

    Raises UsageError for names that two targets claim and for patterns that match none,
    InputFileError for checkpoints and pictures that are not there or not the expected ones.
    """
    planner = _Planner(recipe)
    wanted = [
        (checkpoint, entry)
        for checkpoint in recipe.checkpoints
        for entry in recipe.targets
        if entry.is_for(checkpoint)
    ]
    names = [planned_name(checkpoint, entry) for checkpoint, entry in wanted]
    _require_unique(names, recipe.path)
    for pattern in only:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                f"--only {pattern}: matches no artifact of {recipe.path}, for example {names[0]}."
            )
    for name, (checkpoint, entry) in zip(names, wanted, strict=True):
        if not only or any(fnmatchcase(name, pattern) for pattern in only):
            planner.add(checkpoint, entry, frozenset(names))
    return tuple(planner.steps.values())


def planned_name(checkpoint: CheckpointEntry, entry: TargetEntry) -> str:
    """The name of the file; of a choice, what comes before precision and suffix."""
    choice = entry.choice
    if choice is None:
        return artifact_name(checkpoint, entry.target)
    path = default_output(checkpoint.stem, "", entry.target.shape)
    threads = [f"threads{choice.threads}"] if choice.threads else []
    return f"{checkpoint.name}/{FASTEST}/{'_'.join([str(path), *_chosen(entry.target), *threads])}"


def artifact_name(checkpoint: CheckpointEntry, target: Target) -> str:
    """``scrfd_500m/scrfd_500m-seeded_shape640x640_fp16.onnx``.

    Formats of several files have a folder of their own: two formats may use one suffix.
    """
    maker = target.maker
    path = default_output(checkpoint.stem, "", target.shape, target.precision or FLOAT)
    parts = [str(path), *_chosen(target)]
    folder = f"{maker.name}/" if maker.own_folder else ""
    return f"{checkpoint.name}/{folder}{'_'.join(parts)}{maker.suffix}"


def _chosen(target: Target) -> Iterator[str]:
    """The part of a name for options that differ from their defaults."""
    for kind, field in fields_for(target.format, target.precision or FLOAT):
        value = getattr(target.of(kind), field.name)
        usual = (field.default, field.option.none_means)
        if field.option.in_name and value not in usual:
            shown = field.option.none_means if value is None else value
            yield field.option.in_name.format(shown)


def _require_unique(names: Sequence[str], path: Path) -> None:
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise UsageError(
            f"{path}: targets: {len(twice)} artifacts are asked for twice, first {twice[0]}; "
            "narrow one of the targets by its checkpoints or drop it."
        )


class _Planner:
    """Adds each step and the steps it needs, once."""

    def __init__(self, recipe: Recipe) -> None:
        self.steps: dict[str, Step] = {}
        self._recipe = recipe
        # Kept per plan, not per process: files change between two builds.
        self._images = cache(images_digest)
        self._source = cache(source_digest)

    def add(self, checkpoint: CheckpointEntry, entry: TargetEntry, wanted: frozenset[str]) -> Step:
        """The step that makes the target; internal unless its name is among ``wanted``."""
        name = planned_name(checkpoint, entry)
        if name not in wanted:
            name = f"{PARENTS_FOLDER}/{name}"
        if name not in self.steps and entry.choice:
            self.steps[name] = self._choice(name, checkpoint, entry, wanted)
        elif name not in self.steps:
            before = _needed_by(entry)
            parent = (
                self.add(checkpoint, self._asked(checkpoint, before), wanted) if before else None
            )
            self.steps[name] = self._step(name, checkpoint, entry, parent)
        return self.steps[name]

    def _asked(self, checkpoint: CheckpointEntry, needed: TargetEntry) -> TargetEntry:
        """The entry of the recipe that makes the same file, with its own demands, if any."""
        name = artifact_name(checkpoint, needed.target)
        same = (
            entry
            for entry in self._recipe.targets
            if entry.is_for(checkpoint) and planned_name(checkpoint, entry) == name
        )
        return next(same, needed)

    def _choice(
        self, name: str, checkpoint: CheckpointEntry, entry: TargetEntry, wanted: frozenset[str]
    ) -> Step:
        """The step that keeps one of several candidates, which are added before."""
        choice = entry.choice
        assert choice is not None
        steps, left_out = [], dict[str, str]()
        for one in candidates_called(choice.candidates):
            why = one.format.why_plainly_not_built() or self._uncalibrated(checkpoint, one)
            if why:
                left_out[one.name] = why
            else:
                asked = self._asked(checkpoint, _candidate(one, entry))
                steps.append(self.add(checkpoint, asked, wanted))
        graph = self.add(checkpoint, self._asked(checkpoint, entry_of(entry.target)), wanted)
        step = self._step(name, checkpoint, entry, None)
        made_from = {
            **{step.name: step.content for step in steps},
            "choice": json.dumps([asdict(choice), entry.budgets.max_face_loss]),
            "machine": f"{cpu_name()}, {usable_cores()} cores",
            **_versions(name for step in steps for name in step.target.maker.libraries),
        }
        files = {
            file
            for one in steps
            for file in files_called(
                chosen_name(name, one.target.maker, one.target.precision), one.target.maker
            )
        }
        return replace(
            step,
            float_graph=graph.name,
            made_from=made_from,
            content=content_digest(made_from),
            candidates=tuple(one.name for one in steps),
            left_out=tuple(left_out.items()),
            may_write=tuple(sorted(files)),
        )

    def _uncalibrated(self, checkpoint: CheckpointEntry, one: Candidate) -> str:
        """Why a candidate lacks photographs; "" if it has them, or needs none."""
        lacks = one.calibrated and not checkpoint.seeded and not self._recipe.calibration
        return "is calibrated on images.calibration." if lacks else ""

    def _step(
        self, name: str, checkpoint: CheckpointEntry, entry: TargetEntry, parent: Step | None
    ) -> Step:
        recipe, target = self._recipe, entry.target
        made_from = {
            "checkpoint": self._source(checkpoint),
            "options": json.dumps(options_of(target), sort_keys=True),
            "scrfdconv": code_digest(),
            **versions_of(target),
        }
        if parent:
            made_from["parent"] = parent.content
        if precisions()[target.precision or FLOAT].measures_images:
            made_from["calibration images"] = self._images(recipe.calibration)
        demands = [asdict(entry.tolerance), asdict(entry.budgets), recipe.latency]
        measured = {
            "demands": json.dumps(demands, sort_keys=True),
            "test images": "" if checkpoint.seeded else self._images(recipe.test),
            **_versions(MEASURERS),
        }
        return Step(
            name=name,
            checkpoint=checkpoint,
            entry=entry,
            parent=parent.name if parent else None,
            float_graph=self._float_graph(target, parent),
            content=content_digest(made_from),
            # Internal files are not measured, only the artifacts made from them.
            measured={} if name.startswith(STATE_FOLDER) else measured,
            made_from=made_from,
        )

    def _float_graph(self, target: Target, parent: Step | None) -> str | None:
        """The float graph of the target's shape; None for this graph itself."""
        graph = target.maker.chain()[0]
        if target.precision == FLOAT and target.maker is graph:
            return None
        while parent and parent.target.precision != FLOAT:
            parent = self.steps[parent.parent] if parent.parent else None
        return parent.name if parent else None


def chosen_name(name: str, maker: Format, precision: str | None) -> str:
    """The name of a choice's main file, from its planned name and what was chosen."""
    path = PurePosixPath(name)
    file = default_output(path.name, maker.suffix, precision=precision or FLOAT)
    return str(path.with_name(str(file)))


def entry_of(target: Target) -> TargetEntry:
    """An entry without demands of its own."""
    return TargetEntry(target=target)


def _candidate(one: Candidate, entry: TargetEntry) -> TargetEntry:
    """A candidate in the shape and within the budget of a choice."""
    target = entry.target
    given: dict[str, Any] = {"shape": target.shape, "batch": target.batch}
    if one.calibrated:
        given["max_face_loss"] = entry.budgets.max_face_loss
    return entry_of(target_of(one.format.name, one.precision, given))


def _needed_by(entry: TargetEntry) -> TargetEntry | None:
    """The target that this target is made from; None for the checkpoint."""
    target = entry.target
    maker = target.maker
    graph = maker.chain()[0]
    if maker.bound_to_machine or not graph.from_itself:
        return None
    options: Any = target.of(graph.options)
    if maker is not graph and target.precision not in (FLOAT, *maker.native_precisions):
        return _bare(graph, target.precision, options)  # the graph in the target's precision
    if maker is not graph or target.precision != FLOAT:
        return _bare(graph, FLOAT, options)
    return _bare(graph, FLOAT, dynamic(options)) if target.shape else None


def _bare(graph: Format, precision: str | None, options: Any) -> TargetEntry:
    kept = () if options == type(options)() else (options,)
    return TargetEntry(target=Target(graph.name, precision, kept))


def dynamic(options: Any) -> Any:
    """The same options without a fixed shape."""
    return replace(options, shape=None, batch=1)


def options_of(target: Target) -> dict[str, object]:
    """The options that the bytes of a target's file depend on, as plain types."""
    found: dict[str, object] = {"format": target.format, "precision": target.precision}
    for kind, field in fields_for(target.format, target.precision or FLOAT):
        value = getattr(target.of(kind), field.name)
        value = field.option.none_means if value is None else value
        found[field.name] = list(value) if isinstance(value, tuple) else value
    return found | {"shape": list(target.shape) if target.shape else DYNAMIC}


# ---------------------------------------------------------------- libraries


def versions_of(target: Target) -> dict[str, str]:
    """The libraries that a target's file is made with."""
    precision = precisions()[target.precision or FLOAT]
    maker = target.maker
    own = maker.libraries_for(target.of(maker.options))
    # Made from a graph of the same format, whose own step accounts for the other libraries.
    made_from_itself = maker.from_itself and precision.libraries
    names = precision.libraries if made_from_itself else (*own, *precision.libraries)
    return _versions(dict.fromkeys(names))


def _versions(names: Iterable[str]) -> dict[str, str]:
    return {name: library_version(name) for name in names}


@cache
def library_version(name: str) -> str:
    """The installed version of a distribution, "-" for none."""
    return installed_version(name) or "-"
