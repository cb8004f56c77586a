"""What a build did: an outcome for each artifact, and the object that all reports are made from.

Plain data. ``report.json`` is ``BuildResult.to_dict()`` and reads back as the same object, so that
the reports of several machines can be merged and rendered anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from scrfdconv.checks.results import Report
from scrfdconv.converters.errors import InputFileError
from scrfdconv.converters.structured import Real, plain_as, to_plain

State = Literal["built", "cached", "failed", "skipped", "not run"]
SCHEMA_VERSION = 1
WHAT = "report.json of `scrfdconv build`, or a damaged one"
EXIT_CODES = range(256)  # of a process


@dataclass(frozen=True)
class Histogram:
    """Absolute errors of one output on every sample, counted by decades' fractions.

    ``counts[i]`` errors lie in [edges[i], edges[i + 1]); ``below`` counts smaller errors, exact
    equality included.
    """

    output: str  # score_8 ...
    edges: tuple[Real, ...]  # ascending, one more than counts
    counts: tuple[int, ...]
    below: int = 0
    limit: Real | None = None  # of the largest error; None where no limit applies

    def __post_init__(self) -> None:
        if len(self.edges) != len(self.counts) + 1 or min(self.counts, default=0) < 0:
            raise ValueError(
                f"histogram of {self.output}: these edges and counts do not go together"
            )


@dataclass(frozen=True)
class FaceBox:
    """One face: corners in pixels of the original picture, and its score."""

    x1: Real
    y1: Real
    x2: Real
    y2: Real
    score: Real


@dataclass(frozen=True)
class Picture:
    """A test image, small enough to be shown in a page."""

    name: str
    width: int  # pixels of the original
    height: int
    thumbnail: str  # data:image/jpeg;base64,...


@dataclass(frozen=True)
class FacesOn:
    """What the reference and the artifact see on one picture, at the deployment threshold."""

    picture: str  # Picture.name
    reference: tuple[FaceBox, ...]
    artifact: tuple[FaceBox, ...]


@dataclass(frozen=True)
class Latency:
    """The artifact and the float ONNX of the same shape in turns, one thread, on one machine."""

    float_ms: Real  # median
    artifact_ms: Real  # median
    ratio: Real  # median of the ratios of the rounds; below 1 is faster than float
    shape: tuple[int, int, int]  # (N, H, W)


@dataclass(frozen=True)
class Outcome:
    """One artifact of a build."""

    name: str  # path relative to the output folder, "/" between folders
    checkpoint: str  # name in the recipe
    format: str  # onnx, torchscript, tensorrt
    precision: str  # fp32, fp16, int8
    shape: str  # "dynamic" or "640x640"
    batch: int | None  # None: any number of images of a fixed shape
    state: State
    why: str = ""  # reason why the artifact failed, was skipped or not run
    exit_code: int = 0  # the command line's exit code for the failure
    command: str = ""  # command line that repeats this step alone
    sha256: str = ""
    size: int = 0  # bytes
    seconds: Real | None = None  # of the build that made the file; None where nothing was made
    report: Report | None = None
    histograms: tuple[Histogram, ...] = ()
    faces: tuple[FacesOn, ...] = ()
    latency: Latency | None = None
    parents: tuple[str, ...] = ()  # names of the artifacts or the checkpoint it was made from

    @property
    def title(self) -> str:
        """The artifact within its checkpoint: ``onnx 640x640 fp16``."""
        return f"{self.format} {self.shape}{self.batch_shown} {self.precision}"

    @property
    def batch_shown(self) -> str:
        """`` batch 8`` or `` batch dynamic``; nothing for one image."""
        shown = "dynamic" if self.batch is None else self.batch
        return "" if self.batch == 1 else f" batch {shown}"


@dataclass(frozen=True)
class BuildResult:
    """All outcomes of a build and its environment; decides the exit code of ``build``."""

    recipe: str  # name of the recipe
    outcomes: tuple[Outcome, ...]
    pictures: tuple[Picture, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)  # label -> value, for people
    command: str = ""  # command line that repeats the whole build
    seconds: Real = 0.0
    strict: bool = False  # skips count as failures

    @property
    def counts(self) -> Mapping[State, int]:
        """How many outcomes there are in each state, those without any left out."""
        found = [outcome.state for outcome in self.outcomes]
        return {state: found.count(state) for state in get_args(State) if state in found}

    def counts_as_failure(self, outcome: Outcome) -> bool:
        """True if ``outcome`` alone makes the build fail."""
        return outcome.state in ("failed", "not run") or (
            self.strict and outcome.state == "skipped"
        )

    @property
    def passed(self) -> bool:
        """True if there is something, and nothing failed, was left out, or (strict) skipped."""
        return bool(self.outcomes) and not self.failures

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The outcomes that make the build a failed one."""
        return tuple(filter(self.counts_as_failure, self.outcomes))

    @property
    def exit_code(self) -> int:
        """0, or that of the worst failure."""
        codes = [f.exit_code for f in self.failures if f.exit_code in EXIT_CODES]
        return 0 if self.passed else max(codes, default=1) or 1

    def summary(self) -> str:
        """``80 artifacts: 12 built, 60 cached, 8 skipped``."""
        counted = ", ".join(f"{count} {state}" for state, count in self.counts.items())
        return f"{len(self.outcomes)} artifacts: {counted or 'nothing was asked for'}"

    def to_dict(self) -> dict[str, Any]:
        """For ``report.json`` and ``--json``."""
        return {
            "report_version": SCHEMA_VERSION,
            "recipe": self.recipe,
            "passed": self.passed,
            "summary": self.summary(),
            "strict": self.strict,
            "seconds": to_plain(self.seconds),
            "command": self.command,
            "environment": dict(self.environment),
            "outcomes": to_plain(self.outcomes),
            "pictures": to_plain(self.pictures),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], where: str = "report") -> BuildResult:
        """Read what ``to_dict`` wrote; raises InputFileError, which names the faulty place."""
        version = plain_as(content, _Version, where, WHAT).report_version
        if version > SCHEMA_VERSION:
            raise InputFileError(
                f"{where}: is a report of version {version}, this scrfdconv reads "
                f"{SCHEMA_VERSION}; install the one that wrote it."
            )
        return plain_as(content, cls, where, WHAT, keys="all")


@dataclass(frozen=True)
class _Version:
    report_version: int
