"""The files that a build leaves for people and machines, all from one object."""

from __future__ import annotations

from pathlib import Path

from scrfdconv.checks.reports.html import html
from scrfdconv.checks.reports.junit import junit
from scrfdconv.checks.reports.markdown import markdown
from scrfdconv.checks.reports.outcome import BuildResult
from scrfdconv.converters.artifact import replacing, writing_to
from scrfdconv.converters.errors import OutputError
from scrfdconv.converters.structured import to_json

JSON_NAME = "report.json"
NAMES = (JSON_NAME, "junit.xml", "report.md", "report.html")


def report_json(result: BuildResult) -> str:
    """``report.json``: all that the other reports are made of."""
    return to_json(result)


def write_reports(result: BuildResult, folder: Path) -> None:
    """Write report.json, junit.xml, report.md and report.html into ``folder``, which is made.

    Everything is rendered before the first file is touched, and each one is replaced whole.
    """
    texts = (report_json(result) + "\n", junit(result), markdown(result), html(result))
    make_folder(folder)
    for name, text in zip(NAMES, texts, strict=True):
        with replacing(folder / name) as part:
            # Names of files that are no text have surrogates, which UTF-8 cannot hold.
            part.write_text(text, "utf-8", "backslashreplace", newline="\n")


def make_folder(folder: Path) -> None:
    """Make ``folder`` and what is above it; raises OutputError where a file is in the way."""
    with writing_to(folder):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise OutputError(
                f"{folder}: is no folder, or lies below a file; choose one."
            ) from error
