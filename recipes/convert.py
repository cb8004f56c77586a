"""One conversion: from a source to an artifact that was verified before it got its name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scrfdconv.checks.results import Report
from scrfdconv.checks.verify import Demand, verify, verify_simplified
from scrfdconv.converters.artifact import Artifact, artifact_at, kind_of
from scrfdconv.converters.checkpoint.loading import DEFAULT_SEED, Checkpoint, load_source
from scrfdconv.converters.errors import CheckFailed, UsageError
from scrfdconv.converters.formats import Source, formats
from scrfdconv.converters.scratch import scratch_folder


@dataclass(frozen=True)
class Made:
    """An artifact and the proof that it is the model it came from (None: not verified)."""

    artifact: Artifact
    report: Report | None


@dataclass(frozen=True)
class SourceOptions:
    """How to read SOURCE, as the command line's options of the same names."""

    recipe: str | None = None
    config: Path | None = None
    groups: int | None = None
    seed: int = DEFAULT_SEED


def open_source(source: str | None, options: SourceOptions) -> Source:
    """SOURCE as a checkpoint, or as an artifact if the file is one already."""
    if source and Path(source).is_file():
        kind = kind_of(Path(source))
        if kind != "pytorch":
            return artifact_at(Path(source), kind)
    return load_source(
        source,
        recipe=options.recipe,
        config=options.config,
        groups=options.groups,
        seed=options.seed,
    )


def require_another_file(source: Source, out: Path) -> None:
    """Raise UsageError if ``out`` is the checkpoint itself: weights of a training, gone."""
    own = source.path if isinstance(source, Checkpoint) else None
    if own and out.exists() and out.samefile(own):
        raise UsageError(f"{out}: is the checkpoint; give another output file.")


def convert(
    source: Source,
    target: str,
    out: Path,
    options: Any,
    demand: Demand | None,
    *,
    parent: Source | None = None,
    on_the_way: Sequence[tuple[str, Any]] = (),
) -> Made:
    """Build ``out`` in format ``target``; ``demand`` None skips the verification.

    ``on_the_way`` are the formats, with their options, between a source and the target: a
    checkpoint becomes FP16 through ``[("onnx", OnnxOptions(shape))]``. They are built in a
    temporary folder; the first of them, or ``out``, from ``parent`` where one was made of
    ``source`` before. What is verified is the end against the source itself. Raises CheckFailed,
    with the report, if the artifact is not its source; ``out`` is untouched then.
    """
    require_another_file(source, out)
    reports: list[Report] = []

    def require(part: Path) -> None:
        assert demand is not None
        if isinstance(source, Artifact) and target == source.format == "onnx":
            report = verify_simplified(source.path, part)
        else:
            report = verify(source, part, demand)
        reports.append(report)
        if not report.passed:
            raise CheckFailed(f"{out} was not written: {report.summary()}.", report)

    with scratch_folder() as folder:
        made = parent or source
        for name, step in on_the_way:
            between = formats()[name]
            path = Path(folder, f"{source.name}{between.suffix}")
            made = between.convert(made, path, step, None)
        artifact = formats()[target].convert(made, out, options, require if demand else None)
    return Made(artifact, reports[0] if reports else None)
