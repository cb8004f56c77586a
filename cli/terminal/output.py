"""What a user sees: results on stdout, everything else on stderr, JSON when asked for.

``--json`` promises exactly one object on stdout, on failures, too. This is the one place that
writes to terminals and to the logs of CI systems. Names, metadata and errors come from files that
strangers made, so every text goes through `printable`.
"""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from io import TextIOBase
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from scrfdconv.checks.results import CheckResult, Report
    from scrfdconv.converters.formats import Source
    from scrfdconv.converters.runner import Interface

_state: dict[str, Any] = {"json": False, "stdout": None}  # stdout: where the JSON object goes
# GitHub runs lines that start with "::" (blanks before are skipped), and "##[" anywhere in a line,
# Azure Pipelines "##vso[";
# https://github.com/actions/runner/blob/main/src/Runner.Common/ActionCommand.cs
_COMMAND = re.compile(r"^(\s*):(?=:)|##(?=\w*\[)")
_STDOUT, _STDERR = 1, 2  # file descriptors
TABLE_WIDTH = 110  # characters of the widest table, that of the models
# For consoles of rich: "[red]" and ":smile:" in a name are plain text.
PLAIN: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
METRICS = ("max_abs", "mean_abs", "p999_abs", "cosine", "sqnr", "slope", "offset")


@contextmanager
def started(*, json: bool) -> Iterator[None]:
    """One run of a command; with ``json`` only ``print_json`` can write to stdout."""
    _state["json"] = json
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that knows only ASCII gets escapes
            stream.reconfigure(errors="backslashreplace")
    logger = logging.getLogger()
    handler = _Remarks(logging.WARNING)
    logger.addHandler(handler)
    try:
        with _reserved_stdout() if json else nullcontext():
            yield
    finally:
        logger.removeHandler(handler)


class _Remarks(logging.Handler):
    """Warnings of all libraries, said as our own."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


class _Lines(TextIOBase):
    """Replaces a stdout that is reserved for JSON: whole lines printed there go to `say`."""

    def __init__(self) -> None:
        self._rest = ""

    def write(self, text: str) -> int:
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:
            say(line)
        return len(text)


@contextmanager
def _reserved_stdout() -> Iterator[None]:
    """Keep stdout for `print_json`; prints of Python and of C libraries go to stderr."""
    stdout, kept = sys.stdout, None
    with suppress(OSError, ValueError):  # stdout is closed, or is no file, as in tests
        if stdout.fileno() == _STDOUT:
            stdout.flush()
            kept = os.dup(_STDOUT)
            os.dup2(_STDERR, _STDOUT)
    _state["stdout"] = os.fdopen(kept, "w", encoding="utf-8") if kept is not None else stdout
    sys.stdout = _Lines()
    try:
        yield
    finally:
        sys.stdout = stdout
        _state["stdout"].flush()
        if kept is not None:
            os.dup2(kept, _STDOUT)
            _state["stdout"].close()
        _state["stdout"] = None


def printable(text: object) -> str:
    r"""``text`` as one line that does nothing to a terminal and nothing to a CI system.

    Characters that control something (escape sequences, line ends, changes of the writing
    direction) and those that UTF-8 cannot hold are shown as escapes. Workflow commands get a
    backslash: ``\::error::``.
    """
    return _COMMAND.sub(_disarmed, visible(text))


def visible(text: object) -> str:
    """``text`` with every character that cannot be seen written as an escape."""
    return "".join(c if c.isprintable() else _escaped(c) for c in str(text))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _disarmed(command: re.Match[str]) -> str:
    return f"{command[1]}\\:" if command[1] is not None else "##\\"


def wants_json() -> bool:
    """True if stdout belongs to one JSON object."""
    return bool(_state["json"])


def print_json(content: dict[str, Any], indent: int | None = 2) -> None:
    """The one object of ``--json``."""
    import json as jsonlib  # not needed for --help

    # In JSON a command can only stand inside a string, where a bracket may be an escape.
    text = re.sub(r"##(\w*)\[", r"##\1\\u005b", jsonlib.dumps(content, indent=indent))
    print(text, file=_state["stdout"] or sys.stdout, flush=True)


def say(text: str = "") -> None:
    """One line of progress or a remark, on stderr."""
    print(printable(text), file=sys.stderr, flush=True)


def annotate(command: str) -> None:
    """Print a workflow command for GitHub, whose parts are escaped already, to stderr."""
    print(visible(command), file=sys.stderr, flush=True)


def say_if_seeded(source: Source) -> None:
    """Warn of weights that were drawn, not trained."""
    if getattr(source, "seeded", False):
        say(
            f"WARNING: the weights of {source.name} are seeded, not trained: the model detects no "
            "faces. Give a checkpoint for a detector."
        )


def say_if_assumed(interface: Interface) -> None:
    """Tell how pictures are prepared, where neither the model nor the user says it."""
    from scrfdconv.converters.normalization import ASSUMED

    if interface.stated is None and not interface.form.pixels:
        say(f"note: {ASSUMED}.")


def show(text: str) -> None:
    """A result for people, one line on stdout; nothing if stdout is reserved for JSON."""
    if not _state["json"]:
        print(printable(text), flush=True)


def show_columns(rows: Sequence[Sequence[str]], words: int) -> None:
    """Rows of cells below each other: the first ``words`` columns to the left, numbers right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        sized = list(zip(row, widths, strict=True))
        left = [cell.ljust(width) for cell, width in sized[:words]]
        show("  ".join((*left, *(cell.rjust(width) for cell, width in sized[words:]))).rstrip())


def fail(sentence: str, code: int, report: object = None) -> None:
    """Say what went wrong; with a report, show what was measured."""
    from scrfdconv.checks.results import Report

    measured = report if isinstance(report, Report) else None
    if _state["json"]:
        content: dict[str, Any] = {"error": sentence, "exit_code": code}
        if measured:
            content["report"] = measured.to_dict()
        print_json(content)
    elif measured:
        show_report(measured)
    say(f"scrfdconv: {' '.join(sentence.split())}")


def tables() -> Console:
    """A console on stdout that is wide enough for tables; rich drops columns of narrow ones.

    Texts are not read as markup; callers make texts from files `printable`.
    """
    import shutil

    from rich.console import Console

    width = max(shutil.get_terminal_size().columns, TABLE_WIDTH)
    return Console(width=width, soft_wrap=True, **PLAIN)


def show_report(report: Report) -> None:
    """The measurements as a table, one row per output, and the verdict."""
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    table.add_column("output")
    for metric in (*METRICS, "verdict"):
        table.add_column(metric, justify="right", no_wrap=True)
    for subject, results in _rows(report.results):
        cells = [_cell(next((r for r in results if r.metric == m), None)) for m in METRICS]
        ok = all(result.passed for result in results)
        verdict = Text("ok", "green") if ok else Text("FAILED", "bold red")
        table.add_row(printable(subject), *cells, verdict)
    console = tables()
    if not _state["json"]:
        if table.row_count:
            console.print(table)
        for result in report.results:
            if result.metric not in METRICS:
                console.print(printable(_line(result)))
        for note in report.notes:
            console.print(printable(f"note: {note}"))
        console.print(printable(report.summary()))


def _rows(results: Iterable[CheckResult]) -> Iterator[tuple[str, list[CheckResult]]]:
    measured = [r for r in results if r.metric in METRICS]
    for subject in dict.fromkeys(r.subject for r in measured):
        yield subject, [r for r in measured if r.subject == subject]


def _cell(result: CheckResult | None) -> str:
    if result is None:
        return "-"
    if result.metric == "cosine":
        return result.text(result.measured)
    return f"{result.measured:.1f} dB" if result.metric == "sqnr" else f"{result.measured:.1e}"


def _line(result: CheckResult) -> str:
    verdict = "ok" if result.passed else "FAILED"
    relation = "at least" if result.at_least else "at most"
    detail = f"  ({result.detail})" if result.detail else ""
    return (
        f"{result.check} {result.subject} {result.metric}: {result.measured:.4g}, "
        f"{relation} {result.limit:.4g}: {verdict}{detail}"
    )


@contextmanager
def working(what: str) -> Iterator[None]:
    """A spinner on a terminal, silence elsewhere."""
    if not sys.stderr.isatty():
        yield
        return
    from rich.console import Console
    from rich.text import Text

    with Console(stderr=True, **PLAIN).status(Text(printable(what))):
        yield


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, silence elsewhere; yields a function to call with done and total."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    # rich takes over stdout while a bar moves, and would send a piped result to the terminal.
    console, shared = Console(stderr=True, **PLAIN), sys.stdout.isatty()
    with Progress(*columns, console=console, transient=True, redirect_stdout=shared) as bar:
        task = bar.add_task(printable(what), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
