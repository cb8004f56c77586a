"""Recipes of ``scrfdconv build``: the artifacts of a release, and their requirements.

A TOML file. Every value of a target may be a list; the target then stands for all combinations,
for every checkpoint that its patterns match. README and ``build --init`` show the keys.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from scrfdconv.converters.normalization import NOTHING_SAID, NormalizationOptions
from scrfdconv.converters.precision.int8 import DEFAULT_FACE_LOSS
from scrfdconv.recipes.artifacts.target import Target

DYNAMIC = "dynamic"
FASTEST = "fastest"  # in place of a format: the fastest of several on the building machine


@dataclass(frozen=True)
class CheckpointEntry:
    """A ``[checkpoints.NAME]`` table: a file, or a built-in model with seeded weights."""

    name: str
    path: Path | None = None
    model: str | None = None
    seed: int = 0
    sha256: str | None = None
    architecture: str | None = None
    config: Path | None = None
    norm_groups: int | None = None
    normalization: NormalizationOptions = NOTHING_SAID

    @property
    def seeded(self) -> bool:
        """True for weights that are drawn, not trained."""
        return self.path is None

    @property
    def source(self) -> str:
        """SOURCE on the command line."""
        return str(self.path) if self.path else str(self.model)

    @property
    def stem(self) -> str:
        """NAME of the artifacts, as the other verbs name them."""
        if self.path:
            return self.path.stem
        return f"{self.model}-seeded" + (str(self.seed) if self.seed else "")


@dataclass(frozen=True)
class Tolerance:
    """How much looser than the built-in limits, and why that is right."""

    loosen: float = 1.0
    reason: str = ""


@dataclass(frozen=True)
class Budgets:
    """What an artifact may cost; None: no limit."""

    max_size_mb: float | None = None  # of 10^6 bytes
    max_latency_ratio: float | None = None  # to the float ONNX of the same shape, one thread
    max_face_loss: float = DEFAULT_FACE_LOSS  # share of faces that INT8 may lose or add


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The fastest file of these is kept, of those that keep the faces."""

    candidates: tuple[str, ...] = ()  # as `optimize` names them; none: all
    threads: int | None = None  # of each runtime while it is timed; None: all cores


@dataclass(frozen=True, kw_only=True)
class TargetEntry:
    """One artifact of every matching checkpoint, and the requirements on it.

    With a ``choice`` the format is not known before the build; ``target`` is the float graph then.
    """

    target: Target
    choice: Choice | None = None
    checkpoints: tuple[str, ...] = ("*",)
    tolerance: Tolerance = Tolerance()
    budgets: Budgets = Budgets()

    @property
    def size(self) -> str:
        """``dynamic`` or ``640x640``."""
        shape = self.target.shape
        return f"{shape[0]}x{shape[1]}" if shape else DYNAMIC

    def is_for(self, checkpoint: CheckpointEntry) -> bool:
        """True if one of the patterns matches the checkpoint's name."""
        return any(fnmatchcase(checkpoint.name, pattern) for pattern in self.checkpoints)


@dataclass(frozen=True)
class Recipe:
    """A whole recipe, with every matrix of targets multiplied out."""

    name: str
    path: Path
    checkpoints: tuple[CheckpointEntry, ...]
    targets: tuple[TargetEntry, ...]
    calibration: tuple[Path, ...] = ()  # folders and files of photographs
    test: tuple[Path, ...] = ()
    latency: bool = True  # measure every artifact against the float ONNX

    def files_read(self) -> dict[Path, str]:
        """The files that a build reads, with what each is; folders of photographs are left out.

        No artifact and no report has the suffix of a photograph.
        """
        read = dict.fromkeys((*self.calibration, *self.test), "a picture that is read")
        for checkpoint in self.checkpoints:
            if checkpoint.path:
                read[checkpoint.path] = "the checkpoint"
            if checkpoint.config:
                read[checkpoint.config] = "the config"
            if checkpoint.architecture:
                read[Path(checkpoint.architecture)] = "the architecture"
        return {**read, self.path: "the recipe"}
