"""From a recipe to steps: what is built from what, each once, and by which key it is remembered.

A fixed ONNX comes from the dynamic one, FP16 and INT8 from the float ONNX of their shape. What a
target needs on the way and nobody asked for becomes an internal step.

A step has two digests. ``content`` covers all that decides the bytes of its file, the parent's
``content`` included; ``key`` adds what they are measured against. So a changed tolerance measures
one artifact anew, and a changed checkpoint rebuilds all that depends on it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path

from scrfdconv.converters.network.architecture import PUBLISHED
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats.onnx.format import DEFAULT_OPSET
from scrfdconv.converters.metadata import installed_version
from scrfdconv.recipes.build.digests import (
    code_digest,
    content_digest,
    images_digest,
    source_digest,
)
from scrfdconv.recipes.naming import default_output
from scrfdconv.recipes.build.recipe import CheckpointEntry, Recipe, Target, Tolerance

# Of everything that the build writes besides artifacts and reports.
STATE_FOLDER = ".scrfdconv"
PARENTS_FOLDER = f"{STATE_FOLDER}/parents"
SUFFIXES = {"onnx": ".onnx", "torchscript": ".pt", "tensorrt": ".engine"}
# Distributions whose version may change the bytes of a file, by format and precision.
MAKERS = {
    ("onnx", "fp32"): ("torch", "onnx", "onnxsim", "numpy"),
    ("onnx", "fp16"): ("onnx", "onnxruntime", "onnxconverter-common", "numpy"),
    ("onnx", "int8"): ("onnx", "onnxruntime", "numpy", "opencv-python-headless"),
    ("torchscript", "fp32"): ("torch",),
    ("tensorrt", ""): ("tensorrt", "torch", "onnx", "onnxsim", "onnxruntime", "numpy"),
}
MEASURERS = ("torch", "onnxruntime", "numpy", "opencv-python-headless")
BYTES_PER_MILLION = 4e6  # of float32 weights


@dataclass(frozen=True)
class Step:
    """One file to be built, from its parent's or, without one, from the checkpoint."""

    name: str  # of its file, relative to the output folder, "/" between folders
    checkpoint: CheckpointEntry
    target: Target
    parent: str | None  # name of another step
    content: str
    measured: Mapping[str, str]  # what decides the measurements besides the content
    made_from: Mapping[str, str]  # what decides the content

    @property
    def key(self) -> str:
        """Digest of everything that decides the file and what is said of it."""
        return content_digest({**self.made_from, **self.measured})

    @property
    def ingredients(self) -> Mapping[str, str]:
        """All that the key is made of, by what people call it."""
        return {**self.made_from, **self.measured}

    @property
    def internal(self) -> bool:
        """True if it only serves other steps."""
        return self.name.startswith(f"{STATE_FOLDER}/")

    @property
    def weight(self) -> float:
        """How much work it is, roughly: large networks start first, so that none is left over."""
        path, published = self.checkpoint.path, PUBLISHED.get(self.checkpoint.model or "")
        if path:
            return path.stat().st_size / BYTES_PER_MILLION
        return published.params if published else 1.0


def plan(recipe: Recipe, only: Sequence[str] = ()) -> tuple[Step, ...]:
    """All steps, parents before children; ``only`` are patterns of artifact names.

    Raises UsageError for names that two targets claim and for patterns that match none,
    InputFileError for checkpoints and pictures that are not there or not the expected ones.
    """
    planner = _Planner(recipe)
    wanted = [
        (checkpoint, target)
        for checkpoint in recipe.checkpoints
        for target in recipe.targets
        if target.is_for(checkpoint)
    ]
    names = [artifact_name(checkpoint, target) for checkpoint, target in wanted]
    _require_unique(names, recipe.path)
    for pattern in only:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise UsageError(
                f"--only {pattern}: matches no artifact of {recipe.path}, for example {names[0]}."
            )
    for name, (checkpoint, target) in zip(names, wanted, strict=True):
        if not only or any(fnmatchcase(name, pattern) for pattern in only):
            planner.add(checkpoint, target, frozenset(names))
    return tuple(planner.steps.values())


def artifact_name(checkpoint: CheckpointEntry, target: Target) -> str:
    """``scrfd_500m/scrfd_500m-seeded_shape640x640_fp16.onnx``."""
    path = default_output(checkpoint.stem, "", target.shape, target.precision)
    parts = [str(path)]
    if target.batch != 1:
        parts.append(f"batch{target.batch}")
    if target.opset not in (None, DEFAULT_OPSET):
        parts.append(f"opset{target.opset}")
    if target.exporter == "dynamo":
        parts.append("dynamo")
    return f"{checkpoint.name}/{'_'.join(parts)}{SUFFIXES[target.format]}"


def _require_unique(names: Sequence[str], path: Path) -> None:
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise UsageError(
            f"{path}: targets: {len(twice)} artifacts are asked for twice, first {twice[0]}; "
            "narrow one of the targets by its checkpoints or drop it."
        )


class _Planner:
    """Adds steps and what they need, each once."""

    def __init__(self, recipe: Recipe) -> None:
        self.steps: dict[str, Step] = {}
        self._recipe = recipe
        # Per plan, not per process: files change between two builds.
        self._images = cache(images_digest)
        self._source = cache(source_digest)

    def add(self, checkpoint: CheckpointEntry, target: Target, wanted: frozenset[str]) -> Step:
        """The step that makes ``target``; internal unless its name is among ``wanted``."""
        name = artifact_name(checkpoint, target)
        if name not in wanted:
            name = f"{PARENTS_FOLDER}/{name}"
        if name not in self.steps:
            before = _needed_by(target)
            parent = (
                self.add(checkpoint, self._asked(checkpoint, before), wanted) if before else None
            )
            self.steps[name] = self._step(name, checkpoint, target, parent)
        return self.steps[name]

    def _asked(self, checkpoint: CheckpointEntry, needed: Target) -> Target:
        """The target of the recipe that makes the same file, with its own demands, if any."""
        name = artifact_name(checkpoint, needed)
        same = (
            t for t in self._recipe.targets
            if t.is_for(checkpoint) and artifact_name(checkpoint, t) == name
        )
        return next(same, needed)

    def _step(
        self, name: str, checkpoint: CheckpointEntry, target: Target, parent: Step | None
    ) -> Step:
        recipe = self._recipe
        made_from = {
            "checkpoint": self._source(checkpoint),
            "options": json.dumps(options_of(target), sort_keys=True),
            "scrfdconv": code_digest(),
            **_versions(_makers(target)),
        }
        if parent:
            made_from["parent"] = parent.content
        if target.precision != "fp32":  # FP16 keeps in float what leaves its range on them
            made_from["calibration images"] = self._images(recipe.calibration)
        measured = {
            "demands": json.dumps(
                [asdict(target.tolerance), asdict(target.budgets), recipe.latency], sort_keys=True
            ),
            "test images": "" if checkpoint.seeded else self._images(recipe.test),
            **_versions(MEASURERS),
        }
        if name.startswith(STATE_FOLDER):
            measured = {}  # internal files are not measured: what is made of them is
        parent_name = parent.name if parent else None
        return Step(
            name, checkpoint, target, parent_name, content_digest(made_from), measured, made_from
        )


def _needed_by(target: Target) -> Target | None:
    """What a target is made from, if not from the checkpoint."""
    if target.format != "onnx":
        return None
    bare = replace(target, calibrator="minmax", tolerance=Tolerance(), checkpoints=("*",))
    if target.precision != "fp32":
        return replace(bare, precision="fp32")
    return replace(bare, shape=None, batch=1) if target.shape else None


def options_of(target: Target) -> dict[str, object]:
    """What decides the bytes of a target's file, as plain types."""
    found: dict[str, object] = {
        "format": target.format,
        "precision": target.precision,
        "shape": list(target.shape) if target.shape else "dynamic",
        "batch": target.batch,
    }
    if target.format != "torchscript":
        found |= {"opset": target.opset or DEFAULT_OPSET, "exporter": target.exporter}
    if target.precision == "int8":
        found |= {
            "calibrator": target.calibrator,
            "max_face_loss": target.budgets.max_face_loss,
        }
    return found


# ---------------------------------------------------------------- libraries


def _makers(target: Target) -> Iterator[str]:
    yield from MAKERS.get((target.format, target.precision)) or MAKERS[target.format, ""]
    if target.exporter == "dynamo":
        yield "onnxscript"


def versions_of(target: Target) -> dict[str, str]:
    """The libraries that a target's file is made with."""
    return _versions(_makers(target))


def _versions(names: Iterable[str]) -> dict[str, str]:
    return {name: library_version(name) for name in names}


@cache
def library_version(name: str) -> str:
    """The installed version of a distribution, "-" for none."""
    return installed_version(name) or "-"
