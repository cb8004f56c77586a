"""A build as Markdown, for the summary page of a CI job, and as GitHub's annotations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import islice

from scrfdconv.checks.reports.outcome import BuildResult, Outcome, State
from scrfdconv.checks.reports.overview import Matrix
from scrfdconv.checks.reports.wording import (
    bound,
    compared,
    duration,
    figure,
    megabytes,
    name_of,
    reason_for,
)

# GitHub refuses a summary of more than 1 MiB as a whole; half of it leaves room for other tools
# that write to the same one.
LARGEST = 512 * 1024  # bytes
SHOWN_FAILURES = 50  # artifacts: a longer list is read on the page, not in a summary
SHOWN_CHECKS = 10  # failed checks of an artifact: where everything fails, ten are enough
LONGEST_TEXT = 300  # characters of a detail: the rest is in the other reports
SYMBOLS: dict[State, str] = {
    "built": "✅",
    "cached": "☑️",
    "failed": "❌",
    "skipped": "⏭️",
    "not run": "⬜",
}
_SPECIAL = re.compile(r"([\\`*_{}\[\]#|~!$])")


def markdown(result: BuildResult) -> str:
    """Verdict, matrix, what failed and why, what was skipped and why, sizes and latency."""
    kept, size = [], 0
    for section in _sections(result):
        size += len(section.encode("utf-8", "replace")) + 2
        if size > LARGEST:
            kept.append("_The rest does not fit here: see report.html._")
            break
        kept.append(section)
    return "\n\n".join(kept) + "\n"


def github_annotations(result: BuildResult) -> Iterator[str]:
    """Workflow commands of GitHub Actions: an error per artifact that fails, else a warning.

    https://docs.github.com/actions/reference/workflow-commands-for-github-actions
    """
    for outcome in result.outcomes:
        if outcome.state in ("built", "cached"):
            continue
        # An artifact that was not run needs one that failed: the error stands there.
        failed = result.counts_as_failure(outcome) and outcome.state != "not run"
        title = _property(f"{outcome.state}: {outcome.name}")
        yield f"::{'error' if failed else 'warning'} title={title}::{_message(reason_for(outcome))}"


def escape(text: str) -> str:
    """``text`` as Markdown that shows it literally, on one line, in a table cell, too."""
    line = " ".join(text.split())
    if len(line) > LONGEST_TEXT:
        line = line[:LONGEST_TEXT] + "…"
    line = line.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _SPECIAL.sub(r"\\\1", line)


def _sections(result: BuildResult) -> Iterator[str]:
    verdict = "✅ passed" if result.passed else "❌ failed"
    yield f"## {escape(result.recipe)}: {verdict}"
    strict = " Skips count as failures." if result.strict else ""
    yield f"{escape(result.summary())}, in {duration(result.seconds)}.{strict}"
    if result.outcomes:
        yield _matrix(result)
        yield _legend(result)
    yield from _failures(result)
    yield from _reasons(result, "skipped", "Skipped")
    yield from _reasons(result, "not run", "Not run")
    if any(outcome.size or outcome.latency for outcome in result.outcomes):
        yield _folded("Sizes and latency", _sizes(result))
    if result.command:
        yield _folded("Repeat it", _fenced(result.command))
    if result.environment:
        rows = [(escape(label), escape(value)) for label, value in result.environment.items()]
        yield _folded("Environment", _table(("what", "value"), rows))


def _matrix(result: BuildResult) -> str:
    matrix = Matrix.of(result)
    kinds = [f"{c.format}<br>{c.shape}<br>{c.precision}" for c in matrix.columns]
    rows = [
        (escape(name), *("".join(SYMBOLS[outcome.state] for outcome in cell) for cell in cells))
        for name, cells in matrix.rows
    ]
    return _table(("checkpoint", *kinds), rows, ":-:")


def _legend(result: BuildResult) -> str:
    return ", ".join(f"{SYMBOLS[state]} {count} {state}" for state, count in result.counts.items())


def _failures(result: BuildResult) -> Iterator[str]:
    failed = [outcome for outcome in result.outcomes if outcome.state == "failed"]
    if failed:
        yield "### Failed"
    for outcome in failed[:SHOWN_FAILURES]:
        yield f"**{escape(outcome.name)}**: {escape(reason_for(outcome))}"
        if outcome.report and outcome.report.failures:
            yield _failed_checks(outcome)
    if len(failed) > SHOWN_FAILURES:
        yield f"… and {len(failed) - SHOWN_FAILURES} more artifacts."


def _failed_checks(outcome: Outcome) -> str:
    failures = outcome.report.failures if outcome.report else ()
    rows = []
    for check in failures[:SHOWN_CHECKS]:
        measured, limit = compared(check)
        row = (name_of(check), measured, f"{bound(check)} {limit}", check.detail)
        rows.append(tuple(map(escape, row)))
    table = _table(("check", "measured", "limit", "where"), rows)
    left = len(failures) - SHOWN_CHECKS
    return table + (f"\n\n… and {left} more checks." if left > 0 else "")


def _reasons(result: BuildResult, state: State, title: str) -> Iterator[str]:
    """Artifacts of one reason together: TensorRT is absent for all of them at once."""
    names: dict[str, list[str]] = {}
    for outcome in result.outcomes:
        if outcome.state == state:
            names.setdefault(reason_for(outcome), []).append(escape(outcome.name))
    if names:
        yield f"### {title}"
        yield "\n".join(f"- {escape(why)}: {_listed(found)}" for why, found in names.items())


def _listed(names: list[str]) -> str:
    shown = ", ".join(islice(names, SHOWN_CHECKS))
    left = len(names) - SHOWN_CHECKS
    return shown + (f" and {left} more" if left > 0 else "")


def _sizes(result: BuildResult) -> str:
    rows = []
    for outcome in result.outcomes:
        if outcome.size:
            speed = outcome.latency
            times = (
                (figure(speed.artifact_ms), figure(speed.float_ms), figure(speed.ratio))
                if speed
                else ("", "", "")
            )
            rows.append((escape(outcome.name), megabytes(outcome.size), *times))
    return _table(("artifact", "size", "ms", "float ms", "ratio"), rows, "--:")


def _table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]], align: str = "---") -> str:
    lines = [heads, ("---", *(align for _ in heads[1:])), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _folded(title: str, content: str) -> str:
    # The empty lines make GitHub and GitLab read Markdown within the tags.
    return f"<details><summary>{title}</summary>\n\n{content}\n\n</details>"


def _fenced(text: str) -> str:
    ticks = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, ticks + 1)
    return f"{fence}sh\n{text}\n{fence}"


def _message(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _message(text).replace(":", "%3A").replace(",", "%2C")
