"""What a chart is made of: lines, panels and texts in pixels, drawn in their order."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

Point = tuple[float, float]  # x to the right, y down
Colour = str  # "#RRGGBB"


class Anchor(Enum):
    """Which end of a text its place is."""

    START = "start"
    MIDDLE = "middle"
    END = "end"


@dataclass(frozen=True)
class Line:
    """A line through two or more points; ``dashes`` are the lengths of a dash and of a gap."""

    points: tuple[Point, ...]
    colour: Colour
    width: float
    dashes: tuple[int, int] | None = None


@dataclass(frozen=True)
class Panel:
    """A rectangle with a thin border, filled or not."""

    upper_left: Point
    lower_right: Point
    border: Colour
    filling: Colour | None = None


@dataclass(frozen=True)
class Text:
    """One line of letters of ``size`` pixels, whose foot is at ``place``."""

    place: Point
    text: str
    colour: Colour
    size: int
    anchor: Anchor = Anchor.START
    bold: bool = False
    upwards: bool = False  # turned to be read from below to above


Shape = Line | Panel | Text


@dataclass(frozen=True)
class Chart:
    """A sheet of ``width`` x ``height`` pixels with everything on it, the lowest first."""

    title: str
    width: int
    height: int
    paper: Colour
    shapes: tuple[Shape, ...]
