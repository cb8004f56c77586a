"""How verbs show and save the result of a build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from scrfdconv.cli.terminal import output
from scrfdconv.cli.terminal.github import tell_github

if TYPE_CHECKING:
    from scrfdconv.checks.reports.outcome import BuildResult


def publish(result: BuildResult, out: Path) -> None:
    """Write all reports into ``out``, tell GitHub and the user, and exit by the worst outcome."""
    from scrfdconv.checks.reports.files import write_reports
    from scrfdconv.checks.reports.wording import first_failure

    write_reports(result, out)
    tell_github(result)
    if output.wants_json():
        output.print_json(result.to_dict())
    else:
        output.show(f"{result.summary()}  {out / 'report.html'}")
    if not result.passed:
        output.say(f"scrfdconv: {first_failure(result)}.")
    raise typer.Exit(result.exit_code)
