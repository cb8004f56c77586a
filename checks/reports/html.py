"""A build as one HTML page that needs nothing else: no network, no script.

The template is page.html, its style page.css; here is what they show. Every number of the result
stands in the page with its exact value (``data-value``, as in report.json).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from scrfdconv.checks.reports import drawings, wording
from scrfdconv.checks.reports.drawings import Axis
from scrfdconv.checks.reports.outcome import BuildResult, FacesOn, Outcome, Picture, State
from scrfdconv.checks.reports.overview import Matrix
from scrfdconv.checks.results import CheckResult
from scrfdconv.converters.structured import to_plain

METRICS = {  # of outputs, with the titles of their columns
    "max_abs": "largest",
    "mean_abs": "mean",
    "p999_abs": "99.9 %",
    "cosine": "cosine",
    "sqnr": "SQNR, dB",
    "slope": "slope",
    "offset": "offset",
}
MARKS: dict[State, str] = {
    "built": "✓",
    "cached": "✓",
    "failed": "✗",
    "skipped": "»",
    "not run": "○",
}
SMALLEST_SHARE = 0.01  # of a limit: smaller shares are shown as "< 1 %"
LARGEST_SHARE = 1000  # times a limit: from here on "far beyond" is shown


@dataclass(frozen=True)
class Row:
    """One output and its measurements; those that were not made are None."""

    output: str
    cells: tuple[CheckResult | None, ...]  # as METRICS
    share: float | None  # of the limit, the worst
    where: str

    @property
    def passed(self) -> bool:
        """True if no measurement is outside its limit."""
        return all(cell.passed for cell in self.cells if cell)


@dataclass(frozen=True)
class Section:
    """The part of the page about one artifact."""

    id: str
    outcome: Outcome
    rows: tuple[Row, ...]
    others: tuple[CheckResult, ...]  # results that are not errors of outputs
    axis: Axis | None  # of the histograms


@dataclass(frozen=True)
class Point:
    """One artifact in a plot."""

    section: Section
    value: float
    written: str


@dataclass(frozen=True)
class Plot:
    """Artifacts along a logarithmic axis, a line per checkpoint."""

    title: str
    about: str
    axis: Axis
    lines: tuple[tuple[str, tuple[Point, ...]], ...]
    unit: float  # of the axis
    at_one: str = ""  # what a value of 1 means


def html(result: BuildResult) -> str:
    """The whole build as one page."""
    sections = {o.name: _section(index, o) for index, o in enumerate(result.outcomes)}
    content = {
        "result": result,
        "matrix": Matrix.of(result),
        "sections": sections,
        "pictures": {p.name: (index, p) for index, p in enumerate(result.pictures)},
        "plots": list(_plots(list(sections.values()))),
        "reasons": _reasons(result),
    }
    return str(_template().render(content))


def _section(index: int, outcome: Outcome) -> Section:
    results = outcome.report.results if outcome.report else ()
    return Section(
        id=f"a{index}",
        outcome=outcome,
        rows=tuple(_rows(results)),
        others=tuple(result for result in results if result.metric not in METRICS),
        axis=drawings.error_axis(outcome.histograms),
    )


def _rows(results: tuple[CheckResult, ...]) -> Iterator[Row]:
    outputs: dict[tuple[str, str], dict[str, CheckResult]] = {}
    for result in results:
        if result.metric in METRICS:
            outputs.setdefault((result.check, result.subject), {})[result.metric] = result
    checks = {check for check, _ in outputs}
    for (check, subject), found in outputs.items():
        shares = [s for s in map(wording.share_of_limit, found.values()) if s is not None]
        details = dict.fromkeys(result.detail for result in found.values() if result.detail)
        name = subject if len(checks) == 1 else f"{check} {subject}"
        cells = tuple(map(found.get, METRICS))
        yield Row(name, cells, max(shares, default=None), "; ".join(details))


def _plots(sections: list[Section]) -> Iterator[Plot]:
    sizes = [
        Point(s, s.outcome.size, wording.megabytes(s.outcome.size))
        for s in sections
        if s.outcome.size
    ]
    yield from _plot("Size", "Size of the file, in MB", sizes, wording.MEGABYTE)
    times = [
        Point(s, s.outcome.latency.ratio, wording.figure(s.outcome.latency.ratio))
        for s in sections
        if s.outcome.latency
    ]
    yield from _plot(
        "Time",
        "Time per run, as a ratio to the float ONNX of the same shape",
        times,
        1.0,
        "as fast as float",
    )


def _plot(
    title: str, about: str, points: list[Point], unit: float, at_one: str = ""
) -> Iterator[Plot]:
    values = [point.value for point in points] + ([1.0] if at_one and points else [])
    axis = Axis.around(values)
    if axis is None:
        return
    lines: dict[str, list[Point]] = {}
    for point in points:
        lines.setdefault(point.section.outcome.checkpoint, []).append(point)
    yield Plot(
        title=title,
        about=about,
        axis=axis,
        lines=tuple((name, tuple(line)) for name, line in lines.items()),
        unit=unit,
        at_one=at_one,
    )


def _reasons(result: BuildResult) -> dict[str, list[Outcome]]:
    """Artifacts that were skipped or not run, by reason: many often share one."""
    found: dict[str, list[Outcome]] = {}
    for outcome in result.outcomes:
        if outcome.state in ("skipped", "not run"):
            found.setdefault(f"{outcome.state}: {wording.reason_for(outcome)}", []).append(outcome)
    return found


def exact(value: float) -> str:
    """The number as report.json has it."""
    plain = to_plain(value)
    return plain if isinstance(plain, str) else json.dumps(plain)


def number(value: float, written: str | None = None) -> Markup:
    """A number for people, with its exact value for programs."""
    text = wording.figure(value) if written is None else written
    return Markup("<span data-value=%s>%s</span>") % (exact(value), text)


def breakable(name: str) -> Markup:
    """A long name that a narrow screen may break where a reader would."""
    return Markup("<wbr>").join(re.split("(?<=[/_])", name))


def share(value: float) -> str:
    """``36 %``, ``41 times``."""
    if value <= 1:
        return f"{100 * value:.0f} %" if value >= SMALLEST_SHARE else "< 1 %"
    return f"{value:.3g} times" if value < LARGEST_SHARE else "far beyond"


def _picture_size(faces: FacesOn, picture: Picture | None) -> tuple[float, float]:
    """Width and height; without the picture, a size that holds all boxes."""
    if picture:
        return picture.width, picture.height
    boxes = (*faces.reference, *faces.artifact)
    return max((box.x2 for box in boxes), default=1), max((box.y2 for box in boxes), default=1)


def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "number": number,
        "exact": exact,
        "share": share,
        "breakable": breakable,
        "wording": wording,
        "drawings": drawings,
        "picture_size": _picture_size,
        "METRICS": METRICS,
        "MARKS": MARKS,
    }
    return environment.get_template("page.html")
