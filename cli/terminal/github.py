"""What GitHub Actions shows of a build: a summary of the job, and annotations."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from scrfdconv.cli.terminal import output

if TYPE_CHECKING:
    from scrfdconv.checks.reports.outcome import BuildResult

SUMMARY = "GITHUB_STEP_SUMMARY"  # the file that becomes the summary
ACTIONS = "GITHUB_ACTIONS"  # "true" on GitHub


def tell_github(result: BuildResult) -> None:
    """Append to the job's summary and print annotations, each only where GitHub listens.

    Annotations go to stderr, which GitHub reads, too: stdout may belong to a JSON object.
    """
    from scrfdconv.checks.reports.markdown import github_annotations, markdown

    if summary := os.environ.get(SUMMARY):
        try:
            with Path(summary).open("a", encoding="utf-8", errors="replace") as file:
                file.write(markdown(result))
        except OSError as error:  # the verdict does not need the summary
            output.say(f"WARNING: no summary for GitHub: {summary}: {error.strerror}.")
    if os.environ.get(ACTIONS) == "true":
        for line in github_annotations(result):
            output.annotate(line)
