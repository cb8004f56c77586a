"""Precision-recall curves of a WIDER FACE evaluation as a picture."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape

import numpy as np

from scrfdconv.checks.widerface import Curve, Evaluation
from scrfdconv.checks.widerface_truth import SUBSETS

# All lengths in pixels of the picture; it is vector graphics and scales.
WIDTH, HEIGHT = 640, 560
LEFT, TOP, RIGHT, BOTTOM = 72, 56, 24, 64  # margins: tick labels and axis titles fit into them
PLOT_WIDTH = WIDTH - LEFT - RIGHT
PLOT_HEIGHT = HEIGHT - TOP - BOTTOM
TICKS = 10  # per axis: every 0.1
LEGEND_X, LEGEND_Y = 24, 96  # from the lower left corner of the plot, where no good curve passes
LEGEND_WIDTH = 236  # fits the widest of the fonts below, and whatever replaces them
LEGEND_ROW = 24
LEGEND_LINE = 34  # long enough to show two dashes
LEGEND_PADDING = 12

HALF_LETTER = 4.5  # puts the middle of a digit on a line, where SVG puts its foot

# The palette of Okabe and Ito stays distinct for colour-blind readers, the dashes do in grey.
STYLES = {
    "easy": ("#0072B2", "none"),
    "medium": ("#009E73", "10 4"),
    "hard": ("#D55E00", "3 3"),
}
INK, PALE = "#222222", "#E3E3E3"


def curves_svg(evaluation: Evaluation, title: str) -> str:
    """Draw the three precision-recall curves as one self-contained SVG file.

    Both axes go from 0 to 1. The legend gives the average precision in percent, as the published
    tables do. Thresholds that no prediction reaches are not drawn.
    """
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" role="img" font-size="13" fill="{INK}" '
        "font-family=\"Helvetica, Arial, 'Liberation Sans', sans-serif\">",
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        _text(WIDTH / 2, TOP - 24, title, 'text-anchor="middle" font-size="17" font-weight="bold"'),
        *_grid(),
        *_axis_titles(),
        *(_line(name, evaluation.curves[name]) for name in SUBSETS),
        *_legend(evaluation),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _x(recall: float) -> float:
    return LEFT + PLOT_WIDTH * recall


def _y(precision: float) -> float:
    return TOP + PLOT_HEIGHT * (1 - precision)


def _text(x: float, y: float, text: str, attributes: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" {attributes}>{escape(text)}</text>'


def _grid() -> Iterator[str]:
    for value in (tick / TICKS for tick in range(TICKS + 1)):
        x, y = _x(value), _y(value)
        yield (
            f'<path d="M{x:g} {TOP}V{_y(0):g}M{LEFT} {y:g}H{_x(1):g}" '
            f'stroke="{PALE}" stroke-width="1" fill="none"/>'
        )
        yield _text(x, _y(0) + 19, f"{value:.1f}", 'text-anchor="middle"')
        yield _text(LEFT - 9, y + HALF_LETTER, f"{value:.1f}", 'text-anchor="end"')
    yield (
        f'<rect x="{LEFT}" y="{TOP}" width="{PLOT_WIDTH}" height="{PLOT_HEIGHT}" '
        f'stroke="{INK}" stroke-width="1" fill="none"/>'
    )


def _axis_titles() -> Iterator[str]:
    style = 'text-anchor="middle" font-size="14"'
    yield _text(_x(0.5), HEIGHT - 18, "Recall", style)
    middle = f"{LEFT - 48} {_y(0.5):g}"
    yield _text(0, 0, "Precision", f'{style} transform="translate({middle}) rotate(-90)"')


def _line(subset: str, curve: Curve) -> str:
    """Join the points of one curve, without the repetitions that a picture cannot show."""
    shown = curve.proposals > 0
    recall, precision = curve.recall[shown], curve.precision[shown]
    if not len(recall) or not np.isfinite(recall).all():
        return f"<!-- {subset}: nothing to draw -->"
    pairs = (f"{_x(r):.1f},{_y(p):.1f}" for r, p in zip(recall, precision, strict=True))
    points = " ".join(dict.fromkeys(pairs))
    return (
        f'<polyline points="{points}" fill="none" {_stroke(subset)} '
        'stroke-linejoin="round" stroke-linecap="round"/>'
    )


def _stroke(subset: str) -> str:
    colour, dashes = STYLES[subset]
    return f'stroke="{colour}" stroke-width="2.2" stroke-dasharray="{dashes}"'


def _legend(evaluation: Evaluation) -> Iterator[str]:
    left, top = LEFT + LEGEND_X, _y(0) - LEGEND_Y
    height = (len(SUBSETS) - 1) * LEGEND_ROW + 3 * LEGEND_PADDING
    yield (
        f'<rect x="{left}" y="{top - 1.5 * LEGEND_PADDING:g}" width="{LEGEND_WIDTH}" '
        f'height="{height}" rx="3" fill="white" fill-opacity="0.9" stroke="{PALE}"/>'
    )
    start, end = left + LEGEND_PADDING, left + LEGEND_WIDTH - LEGEND_PADDING
    for row, subset in enumerate(SUBSETS):
        y = top + row * LEGEND_ROW
        yield f'<path d="M{start} {y:g}h{LEGEND_LINE}" fill="none" {_stroke(subset)}/>'
        yield _text(start + LEGEND_LINE + LEGEND_PADDING, y + HALF_LETTER, subset.capitalize())
        percent = evaluation.curves[subset].ap * 100
        label = f"AP {percent:.2f} %" if np.isfinite(percent) else "no faces"
        yield _text(end, y + HALF_LETTER, label, 'text-anchor="end"')
