"""Reports of several machines as one: each has built its part of the same recipe."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from scrfdconv.checks.reports.outcome import WHAT, BuildResult, Outcome, Picture
from scrfdconv.converters.errors import InputFileError
from scrfdconv.converters.structured import read_json

MADE = ("built", "cached")
# If two machines report different states of one artifact, the earlier state in this order counts.
WORTH = (*MADE, "failed", "skipped", "not run")


def read_report(path: Path) -> BuildResult:
    """The result that a build wrote as report.json; raises InputFileError for anything else."""
    return BuildResult.from_dict(read_json(path, dict[str, Any], WHAT), str(path))


def merge_reports(paths: Sequence[Path]) -> BuildResult:
    """Read and merge; raises InputFileError where two files cannot both be true.

    An artifact that several machines report is there once: built or cached before failed,
    skipped or not run elsewhere, except that one machine's success does not excuse another's
    failure.
    """
    results = [(path, read_report(path)) for path in paths]
    _require_one_recipe(results)
    return BuildResult(
        recipe=results[0][1].recipe,
        outcomes=tuple(_merged_outcomes(results)),
        pictures=tuple(_merged_pictures(results)),
        environment=_merged_environments(result for _, result in results),
        command="\n".join(_different(result.command for _, result in results)),
        # Seconds of work: the machines worked side by side.
        seconds=sum(result.seconds for _, result in results),
        strict=any(result.strict for _, result in results),
    )


def _require_one_recipe(results: Sequence[tuple[Path, BuildResult]]) -> None:
    first_path, first = results[0]
    for path, result in results:
        if result.recipe != first.recipe:
            raise InputFileError(
                f"{path}: is of the recipe {result.recipe}, {first_path} of {first.recipe}; "
                "merge reports of one recipe."
            )


def _merged_outcomes(results: Sequence[tuple[Path, BuildResult]]) -> Iterator[Outcome]:
    found: dict[str, tuple[Path, Outcome]] = {}
    for path, result in results:
        for outcome in result.outcomes:
            if outcome.name in found:
                other_path, other = found[outcome.name]
                _require_agreement(outcome, path, other, other_path)
                if WORTH.index(other.state) <= WORTH.index(outcome.state):
                    continue
            found[outcome.name] = path, outcome
    return (outcome for _, outcome in found.values())


def _require_agreement(a: Outcome, a_path: Path, b: Outcome, b_path: Path) -> None:
    states = {a.state, b.state}
    if "failed" in states and states.intersection(MADE):
        problem = f"{a.state} in {a_path} and {b.state} in {b_path}"
    elif states <= set(MADE) and a.sha256 != b.sha256:
        problem = f"of other content in {a_path} than in {b_path}"
    else:
        return
    raise InputFileError(
        f"{a.name} is {problem}; build it on one machine only, or find out why they differ."
    )


def _merged_pictures(results: Sequence[tuple[Path, BuildResult]]) -> Iterator[Picture]:
    found: dict[str, tuple[Path, Picture]] = {}
    for path, result in results:
        for picture in result.pictures:
            other_path, other = found.setdefault(picture.name, (path, picture))
            # Thumbnails may differ by the encoder's version, the picture's size may not.
            if (picture.width, picture.height) != (other.width, other.height):
                raise InputFileError(
                    f"The test image {picture.name} has another size in {path} than in "
                    f"{other_path}; build with the same images."
                )
    return (picture for _, picture in found.values())


def _merged_environments(results: Iterable[BuildResult]) -> dict[str, str]:
    """Facts that are equal everywhere stand once, all others side by side."""
    values: dict[str, list[str]] = {}
    for result in results:
        for label, value in result.environment.items():
            values.setdefault(label, []).append(value)
    return {label: " | ".join(_different(found)) for label, found in values.items()}


def _different(texts: Iterable[str]) -> Iterable[str]:
    return dict.fromkeys(text for text in texts if text)
