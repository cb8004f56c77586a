"""A chart as one self-contained SVG file."""

from __future__ import annotations

from html import escape

from scrfdconv.checks.widerface.chart import Anchor, Chart, Line, Panel, Shape, Text

FONTS = "Helvetica, Arial, 'Liberation Sans', sans-serif"


def svg(chart: Chart) -> str:
    """Write the chart as vector graphics, which scale; letters are the viewer's."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {chart.width} {chart.height}" '
        f'width="{chart.width}" height="{chart.height}" role="img" font-family="{FONTS}">',
        f"<title>{escape(chart.title)}</title>",
        f'<rect width="100%" height="100%" fill="{chart.paper}"/>',
        *map(_element, chart.shapes),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _element(shape: Shape) -> str:
    match shape:
        case Line():
            return _line(shape)
        case Panel():
            return _panel(shape)
        case Text():
            return _text(shape)


def _line(line: Line) -> str:
    points = " ".join(f"{x:g},{y:g}" for x, y in line.points)
    dashes = f'stroke-dasharray="{" ".join(map(str, line.dashes))}" ' if line.dashes else ""
    return (
        f'<polyline points="{points}" fill="none" stroke="{line.colour}" '
        f'stroke-width="{line.width:g}" {dashes}stroke-linejoin="round"/>'
    )


def _panel(panel: Panel) -> str:
    (left, top), (right, bottom) = panel.upper_left, panel.lower_right
    return (
        f'<rect x="{left:g}" y="{top:g}" width="{right - left:g}" height="{bottom - top:g}" '
        f'stroke="{panel.border}" stroke-width="1" fill="{panel.filling or "none"}"/>'
    )


def _text(text: Text) -> str:
    x, y = text.place
    anchor = "" if text.anchor is Anchor.START else f' text-anchor="{text.anchor.value}"'
    weight = ' font-weight="bold"' if text.bold else ""
    turned = f' transform="rotate(-90 {x:g} {y:g})"' if text.upwards else ""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{text.size}" fill="{text.colour}"'
        f"{anchor}{weight}{turned}>{escape(text.text)}</text>"
    )
