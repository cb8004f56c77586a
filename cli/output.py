"""What a user sees: results on stdout, everything else on stderr, JSON when asked for.

``--json`` promises exactly one object on stdout, on failures, too.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from scrfdconv.checks.results import CheckResult, Report
    from scrfdconv.converters.formats import Source

_state = {"json": False}
TABLE_WIDTH = 110  # characters of the widest table, that of the models
METRICS = ("max_abs", "mean_abs", "p999_abs", "cosine", "sqnr")


def start(*, json: bool) -> None:
    """Begin a run; with ``json`` nothing but ``print_json`` writes to stdout."""
    _state["json"] = json


def wants_json() -> bool:
    """True if stdout belongs to one JSON object."""
    return _state["json"]


def print_json(content: dict[str, Any]) -> None:
    """The one object of ``--json``."""
    import json as jsonlib  # not needed for --help

    print(jsonlib.dumps(content, indent=2))


def say(text: str = "") -> None:
    """Progress and remarks: stderr."""
    print(text, file=sys.stderr, flush=True)


def say_if_seeded(source: Source) -> None:
    """Warn of weights that were drawn, not trained."""
    if getattr(source, "seeded", False):
        say(
            f"WARNING: the weights of {source.name} are seeded, not trained: the model detects no "
            "faces. Give a checkpoint for a detector."
        )


def show(text: str) -> None:
    """A result for people: stdout, unless that belongs to the JSON object."""
    if not _state["json"]:
        print(text, flush=True)


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
    """A console on stdout that is wide enough for tables; rich drops columns of narrow ones."""
    import shutil

    from rich.console import Console

    width = max(shutil.get_terminal_size().columns, TABLE_WIDTH)
    return Console(width=width, soft_wrap=True, highlight=False)


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
        table.add_row(subject, *cells, verdict)
    console = tables()
    if not _state["json"]:
        if table.row_count:
            console.print(table)
        for result in report.results:
            if result.metric not in METRICS:
                console.print(_line(result))
        for note in report.notes:
            console.print(f"note: {note}")
        console.print(report.summary())


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

    with Console(stderr=True).status(what):
        yield


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, silence elsewhere; call what it gives with done and total."""
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
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
    )
    # rich takes over stdout while a bar moves, and would send a piped result to the terminal.
    console, shared = Console(stderr=True), sys.stdout.isatty()
    with Progress(*columns, console=console, transient=True, redirect_stdout=shared) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
