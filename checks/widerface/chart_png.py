"""A chart as a PNG picture, drawn with OpenCV's own strokes and letters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from scrfdconv.checks.widerface.chart import Anchor, Chart, Colour, Line, Panel, Point, Shape, Text

UInt8 = npt.NDArray[np.uint8]

SCALE = 2  # pixels of the picture to one of the chart: sharp on today's screens and on paper
SHIFT = 4  # binary places of OpenCV's coordinates: a sixteenth of a pixel
SMOOTHING = 1  # pixels that OpenCV adds to the width of a smooth line
LETTER_HEIGHT = 29.0  # pixels of FONT_HERSHEY_SIMPLEX at scale 1, from foot to the next line
REGULAR, BOLD = 1, 2  # thickness of letters; since OpenCV 5 the weight of a font


def png(chart: Chart) -> bytes:
    """Draw the chart at twice its size in pixels and compress it."""
    import cv2

    size = (chart.height * SCALE, chart.width * SCALE, 3)
    canvas: UInt8 = np.empty(size, np.uint8)
    canvas[:] = _bgr(chart.paper)
    for shape in chart.shapes:
        _draw(canvas, shape)
    return bytes(cv2.imencode(".png", canvas)[1])


def _draw(canvas: UInt8, shape: Shape) -> None:
    match shape:
        case Line():
            for part in _dashes(shape):
                _stroke(canvas, part, shape.colour, shape.width)
        case Panel():
            _panel(canvas, shape)
        case Text():
            _text(canvas, shape)


def _bgr(colour: Colour) -> tuple[int, int, int]:
    red, green, blue = bytes.fromhex(colour.removeprefix("#"))
    return blue, green, red


def _fixed(point: Point) -> tuple[int, int]:
    """A place on the chart in OpenCV's fixed-point pixels."""
    x, y = (round(value * SCALE * (1 << SHIFT)) for value in point)
    return x, y


def _stroke(canvas: UInt8, points: Sequence[Point], colour: Colour, width: float) -> None:
    import cv2

    places = np.array([_fixed(point) for point in points], np.int32)
    thickness = max(1, round(width * SCALE) - SMOOTHING)
    cv2.polylines(canvas, [places], False, _bgr(colour), thickness, cv2.LINE_AA, SHIFT)


def _dashes(line: Line) -> Iterator[Sequence[Point]]:
    """Cut a line into what is drawn of it; its dashes go on around the corners."""
    if line.dashes is None:
        yield line.points
        return
    points, (dash, gap) = np.array(line.points), line.dashes
    along = np.concatenate(([0], np.hypot(*np.diff(points, axis=0).T).cumsum()))
    for start in np.arange(0, along[-1], dash + gap):
        corners = along[(along > start) & (along < start + dash)]
        places = np.array([start, *corners, min(start + dash, along[-1])])
        x, y = (np.interp(places, along, axis).tolist() for axis in points.T)
        yield list(zip(x, y, strict=True))


def _panel(canvas: UInt8, panel: Panel) -> None:
    import cv2

    (left, top), (right, bottom) = panel.upper_left, panel.lower_right
    corners = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    if panel.filling:
        places = np.array([_fixed(corner) for corner in corners], np.int32)
        cv2.fillPoly(canvas, [places], _bgr(panel.filling), cv2.LINE_AA, SHIFT)
    _stroke(canvas, corners, panel.border, 1)


def _text(canvas: UInt8, text: Text) -> None:
    """Write letters; upright ones are written on a turned view of the same pixels."""
    import cv2

    font, scale = cv2.FONT_HERSHEY_SIMPLEX, text.size * SCALE / LETTER_HEIGHT
    weight = BOLD if text.bold else REGULAR
    (width, _), _ = cv2.getTextSize(text.text, font, scale, weight)
    x, y = (round(value * SCALE) for value in text.place)
    page = np.ascontiguousarray(np.rot90(canvas, -1)) if text.upwards else canvas
    if text.upwards:
        x, y = page.shape[1] - y, x
    back = {Anchor.START: 0, Anchor.MIDDLE: width // 2, Anchor.END: width}[text.anchor]
    cv2.putText(page, text.text, (x - back, y), font, scale, _bgr(text.colour), weight, cv2.LINE_AA)
    if text.upwards:
        canvas[:] = np.rot90(page)
