"""What a build shows while it runs: a live view on a terminal, a line per step in logs.

Everything goes to stderr. ``rich`` is only imported where stderr is a terminal.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from scrfdconv.cli.terminal import output

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from scrfdconv.checks.reports.outcome import Outcome
    from scrfdconv.recipes.build.scheduling import View

WIDEST_NAME = 60  # characters; a longer name shifts only its own line
STATE_WIDTH = len("skipped")
REFRESHES = 4  # per second
BAR_WIDTH = 40  # characters
COLOURS = {
    "built": "green",
    "cached": "green",
    "failed": "bold red",
    "skipped": "yellow",
    "not run": "dim",
}


@contextmanager
def build_view() -> Iterator[View]:
    """The view that suits stderr; the terminal is restored, whatever happens."""
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield PlainView()
        return
    from rich.console import Console
    from rich.live import Live

    console = Console(stderr=True, **output.PLAIN)
    view = LiveView(console)
    # rich takes over stdout while it draws, and would send a piped result to the terminal.
    shared = sys.stdout.isatty()
    with Live(
        console=console,
        get_renderable=view.draw,
        refresh_per_second=REFRESHES,
        transient=True,
        redirect_stdout=shared,
    ):
        yield view


class PlainView:
    """One line per finished step: ``[ 3/80] built    a/b.onnx     4.1 s  47 checks passed``."""

    def __init__(self) -> None:
        self.total = 0
        self.done = 0
        self.name_width = 0

    def planned(self, names: Sequence[str]) -> None:
        """Count the artifacts, and find the width of the column of names."""
        self.total = len(names)
        self.name_width = min(WIDEST_NAME, max(map(len, names), default=0))

    def started(self, name: str) -> None:
        """Do nothing: logs do not show started steps."""

    def finished(self, outcome: Outcome, planned: str = "") -> None:
        """Print the line of the finished step."""
        self.done += 1
        output.say(self.line(outcome))

    def line(self, outcome: Outcome) -> str:
        """The line for a finished step."""
        from scrfdconv.checks.reports.wording import duration, reason_for

        digits = len(str(self.total))
        state = outcome.state.upper() if outcome.state == "failed" else outcome.state
        # A cached artifact has the time of an earlier build.
        ran = outcome.seconds is not None and outcome.state != "cached"
        took = duration(outcome.seconds or 0) if ran else ""
        said = reason_for(outcome) if outcome.state not in ("built", "cached") else _checks(outcome)
        return (
            f"[{self.done:{digits}}/{self.total}] {state:{STATE_WIDTH}}  "
            f"{outcome.name:{self.name_width}}  {took:>8}  {' '.join(said.split())}"
        ).rstrip()


class LiveView(PlainView):
    """The same lines in colour, and below them what is running now, and a bar."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self.console = console
        self.began = time.monotonic()
        self.running: dict[str, float] = {}  # name: when the step began

    def started(self, name: str) -> None:
        """Show the step among the running ones."""
        self.running[name] = time.monotonic()

    def finished(self, outcome: Outcome, planned: str = "") -> None:
        """Print the line above the running steps."""
        from rich.text import Text

        self.running.pop(planned or outcome.name, None)
        self.done += 1
        text = Text(output.printable(self.line(outcome)))
        start = text.plain.index("]") + 2
        text.stylize(COLOURS[outcome.state], start, start + len(outcome.state))
        self.console.print(text)

    def draw(self) -> RenderableType:
        """The running steps, each with its time, and how far the build is."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        from scrfdconv.checks.reports.wording import duration

        now = time.monotonic()
        table = Table.grid(padding=(0, 2))
        for name, began in list(self.running.items()):
            table.add_row("running", output.printable(name), duration(now - began))
        bar = ProgressBar(max(self.total, 1), self.done, width=BAR_WIDTH)
        table.add_row(f"{self.done}/{self.total}", bar, duration(now - self.began))
        return table


def _checks(outcome: Outcome) -> str:
    return outcome.report.summary() if outcome.report else ""
