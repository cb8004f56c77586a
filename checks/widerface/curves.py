"""Precision-recall curves of a WIDER FACE evaluation, as shapes on a sheet of paper.

``curves`` says what is drawn where; ``chart_svg`` and ``chart_png`` draw it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scrfdconv.checks.widerface.chart import Anchor, Chart, Line, Panel, Point, Shape, Text
from scrfdconv.checks.widerface.protocol import Curve, Evaluation
from scrfdconv.checks.widerface.truth import SUBSETS

# All lengths in pixels of the sheet.
WIDTH, HEIGHT = 640, 560
LEFT, TOP, RIGHT, BOTTOM = 72, 56, 24, 64  # margins: tick labels and axis titles fit into them
PLOT_WIDTH = WIDTH - LEFT - RIGHT
PLOT_HEIGHT = HEIGHT - TOP - BOTTOM
TICKS = 10  # per axis: every 0.1
LEGEND_X, LEGEND_Y = 24, 96  # from the lower left corner of the plot, where no good curve passes
LEGEND_WIDTH = 236  # fits the widest of the fonts, and whatever replaces them
LEGEND_ROW = 24
LEGEND_LINE = 34  # long enough to show two dashes
LEGEND_PADDING = 12

LABEL_SIZE, AXIS_SIZE, TITLE_SIZE = 13, 14, 17  # of letters
HALF_LETTER = 4.5  # puts the middle of a digit on a line, where its foot would be
HAIRLINE, STROKE = 1.0, 2.2

# The palette of Okabe and Ito stays distinct for colour-blind readers, the dashes do in grey.
STYLES: dict[str, tuple[str, tuple[int, int] | None]] = {
    "easy": ("#0072B2", None),
    "medium": ("#009E73", (10, 4)),
    "hard": ("#D55E00", (3, 3)),
}
INK, PALE, PAPER = "#222222", "#E3E3E3", "#FFFFFF"


def curves(evaluation: Evaluation, title: str) -> Chart:
    """Lay out the three precision-recall curves.

    Both axes go from 0 to 1. The legend gives the average precision in percent, as the published
    tables do. Thresholds that no prediction reaches are not drawn.
    """
    heading = Text((WIDTH / 2, TOP - 24), title, INK, TITLE_SIZE, Anchor.MIDDLE, bold=True)
    lines = (_line(name, evaluation.curves[name]) for name in SUBSETS)
    shapes = (heading, *_grid(), *_axis_titles(), *filter(None, lines), *_legend(evaluation))
    return Chart(title, WIDTH, HEIGHT, PAPER, shapes)


def _at(recall: float, precision: float) -> Point:
    return LEFT + PLOT_WIDTH * recall, TOP + PLOT_HEIGHT * (1 - precision)


def _grid() -> Iterator[Shape]:
    for value in (tick / TICKS for tick in range(TICKS + 1)):
        (x, _), (_, y) = _at(value, 0), _at(0, value)
        yield Line((_at(value, 0), _at(value, 1)), PALE, HAIRLINE)
        yield Line((_at(0, value), _at(1, value)), PALE, HAIRLINE)
        yield Text((x, _at(0, 0)[1] + 19), f"{value:.1f}", INK, LABEL_SIZE, Anchor.MIDDLE)
        yield Text((LEFT - 9, y + HALF_LETTER), f"{value:.1f}", INK, LABEL_SIZE, Anchor.END)
    yield Panel(_at(0, 1), _at(1, 0), INK)


def _axis_titles() -> Iterator[Shape]:
    below, beside = (_at(0.5, 0)[0], HEIGHT - 18), (LEFT - 48, _at(0, 0.5)[1])
    yield Text(below, "Recall", INK, AXIS_SIZE, Anchor.MIDDLE)
    yield Text(beside, "Precision", INK, AXIS_SIZE, Anchor.MIDDLE, upwards=True)


def _line(subset: str, curve: Curve) -> Line | None:
    """Join the points of one curve, without the repetitions that a picture cannot show."""
    shown = curve.proposals > 0
    recall, precision = curve.recall[shown], curve.precision[shown]
    if not len(recall) or not np.isfinite(recall).all():
        return None
    places = (_at(float(r), float(p)) for r, p in zip(recall, precision, strict=True))
    points = dict.fromkeys((round(x, 1), round(y, 1)) for x, y in places)
    return _stroke(subset, tuple(points))


def _stroke(subset: str, points: tuple[Point, ...]) -> Line:
    colour, dashes = STYLES[subset]
    return Line(points, colour, STROKE, dashes)


def _legend(evaluation: Evaluation) -> Iterator[Shape]:
    left, top = LEFT + LEGEND_X, _at(0, 0)[1] - LEGEND_Y
    height = (len(SUBSETS) - 1) * LEGEND_ROW + 3 * LEGEND_PADDING
    upper = top - 1.5 * LEGEND_PADDING
    yield Panel((left, upper), (left + LEGEND_WIDTH, upper + height), PALE, PAPER)
    start, end = left + LEGEND_PADDING, left + LEGEND_WIDTH - LEGEND_PADDING
    for row, subset in enumerate(SUBSETS):
        y = top + row * LEGEND_ROW
        yield _stroke(subset, ((start, y), (start + LEGEND_LINE, y)))
        name = start + LEGEND_LINE + LEGEND_PADDING, y + HALF_LETTER
        yield Text(name, subset.capitalize(), INK, LABEL_SIZE)
        percent = evaluation.curves[subset].ap * 100
        label = f"AP {percent:.2f} %" if np.isfinite(percent) else "no faces"
        yield Text((end, y + HALF_LETTER), label, INK, LABEL_SIZE, Anchor.END)
