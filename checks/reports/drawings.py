"""What the HTML report draws: bars, histograms, faces and plots as small inline SVG.

Positions along an axis are percentages or stretch with the element, so that a drawing fits a
phone and a sheet of paper; colours and strokes are the style sheet's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from scrfdconv.checks.reports.outcome import Box, Histogram

BAR = (-3.0, 1.0)  # decades of the share of a limit: a thousandth to ten times
HEIGHT = 32  # of a histogram, in units of its own; 100 is its width
# Round numbers of each decade, from coarse to fine: the first row that gives enough is taken.
TICKS = (
    (1.0,),
    (1.0, 2.0, 5.0),
    (1.0, 1.5, 2.0, 3.0, 5.0, 7.0),
    (1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0),
)
ENOUGH_TICKS = 3
DECADES = (-307, 307)  # of a float: drawings end there, and the powers of ten do not overflow
MARGIN = 0.05  # of the axis, left and right of the outermost points
NARROWEST = 0.3  # decades: noise of equal values must not look like differences


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis over the decades ``low`` to ``high``."""

    low: float
    high: float

    @classmethod
    def around(cls, values: Iterable[float]) -> Axis | None:
        """The axis that holds all positive numbers among ``values``; None if there are none."""
        logs = [_decades(value) for value in values if 0 < value < math.inf]
        if not logs:
            return None
        low, high = min(logs), max(logs)
        margin = max(MARGIN * (high - low), (NARROWEST - high + low) / 2)
        return cls(low - margin, high + margin)

    def at(self, value: float) -> float:
        """The place of ``value`` in percent; values outside are at the nearest end, NaN right."""
        if value <= 0:
            return 0.0
        if not value < math.inf:
            return 100.0
        share = (_decades(value) - self.low) / (self.high - self.low)
        return round(100 * min(1.0, max(0.0, share)), 1)

    def ticks(self) -> list[float]:
        """Round numbers on the axis."""
        decades = _whole_decades(math.floor(self.low), math.ceil(self.high) + 1)
        found: list[float] = []
        for marks in TICKS:
            values = [mark * 10.0**decade for decade in decades for mark in marks]
            found = [value for value in values if self.low <= math.log10(value) <= self.high]
            if len(found) >= ENOUGH_TICKS:
                break
        return found


def _decades(value: float) -> float:
    """The logarithm of a positive number, within what is drawn."""
    return min(max(math.log10(value), DECADES[0]), DECADES[1])


def _whole_decades(start: int, stop: int) -> range:
    return range(max(start, DECADES[0]), min(stop, DECADES[1] + 1))


def bar(share: float) -> Markup:
    """``share`` of a limit as a bar; the mark is the limit."""
    axis = Axis(*BAR)
    kind = "over" if share > 1 else "within"
    return Markup(
        '<svg class="bar" aria-hidden="true"><rect class="{}" width="{}%" height="100%"/>'
        '<use href="#limit"/></svg>'
    ).format(kind, axis.at(share))


def error_axis(histograms: Sequence[Histogram]) -> Axis | None:
    """Whole decades around all errors and limits of an artifact, so that outputs compare."""
    values = [histogram.limit for histogram in histograms if histogram.limit is not None]
    for histogram in histograms:
        edges = _finite_edges(histogram.edges)
        filled = [index for index, count in enumerate(histogram.counts) if count]
        if filled:
            values += [edges[filled[0]], edges[filled[-1] + 1]]
    axis = Axis.around(values)
    if axis is None:
        return None
    return Axis(max(math.floor(axis.low), DECADES[0]), min(math.ceil(axis.high), DECADES[1]))


def histogram(shown: Histogram, axis: Axis) -> Markup:
    """Counts over the error, both logarithmic: a single error near the limit must be seen."""
    largest = math.log1p(max(shown.counts, default=0)) or 1.0
    path, right = [], math.nan
    edges = [axis.at(edge) for edge in _finite_edges(shown.edges)]
    for count, start, end in zip(shown.counts, edges[:-1], edges[1:], strict=True):
        if count and end > start:
            if start != right:
                path.append(f"{'' if math.isnan(right) else f'V{HEIGHT}'}M{start:g} {HEIGHT}")
            path.append(f"V{HEIGHT * (1 - math.log1p(count) / largest):.3g}H{end:g}")
            right = end
    decades = _whole_decades(int(axis.low) + 1, int(axis.high))
    grid = "".join(f"M{axis.at(10.0**decade):g} 0V{HEIGHT}" for decade in decades)
    return Markup(
        '<svg class="histogram" viewBox="0 0 100 {height}" preserveAspectRatio="none" role="img" '
        'aria-label="Errors of {output}"><path class="grid" d="{grid}"/>{limit}'
        '<path class="counts" d="{path}"/></svg>'
    ).format(
        height=HEIGHT,
        output=shown.output,
        grid=grid,
        limit=_limit(shown.limit, axis),
        path="".join(path) + (f"V{HEIGHT}" if path else ""),
    )


def _limit(limit: float | None, axis: Axis) -> Markup:
    if limit is None:
        return Markup()
    x = axis.at(limit)
    return Markup(
        '<path class="beyond" d="M{x} 0H100V{height}H{x}z"/>'
        '<path class="mark" d="M{x} 0V{height}"/>'
    ).format(x=f"{x:g}", height=HEIGHT)


def _finite_edges(edges: Sequence[float]) -> list[float]:
    """Open ends (0, infinity) get one decade."""
    inner = [edge for edge in edges if 0 < edge < math.inf] or [1.0]
    low, high = min(inner) / 10, max(inner) * 10
    return [min(max(edge, low), high) for edge in edges]


def outlines(boxes: Iterable[Box]) -> str:
    """The path around all ``boxes``, to a tenth of a pixel."""
    return "".join(
        f"M{box.x1:.1f} {box.y1:.1f}h{box.x2 - box.x1:.1f}v{box.y2 - box.y1:.1f}H{box.x1:.1f}z"
        for box in boxes
    ).replace(".0", "")
