"""The picture of a choice: milliseconds against faces lost, and the front that no model beats."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scrfdconv.checks.reports.figures import (
    BLUE,
    GREEN,
    GREY,
    GRID,
    ORANGE,
    require_plotting,
    save_figure,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKER, KEPT_MARKER = 36, 140  # square points
BESIDE = (5, 4)  # points from a marker to its name
# Points of a name in matplotlib's default font of ten points: a line, and at most a letter.
LINE, LETTER = 12, 6.5
INCH = 72  # points
ABOVE = 0.1  # of the picture's height, so that its legend stands above the budget
ROOM = 1.35  # of the axis of milliseconds, so that the name of the slowest model fits


@dataclass(frozen=True, kw_only=True)
class Point:
    """One model: how long a run takes, and how many of the reference's faces it changes."""

    name: str
    milliseconds: float
    faces: int  # lost or added, whichever are more
    kept: bool = False


def pareto_front(points: Sequence[Point]) -> tuple[Point, ...]:
    """The models that no other one beats in one value without being worse in the other."""
    front: list[Point] = []
    for point in sorted(points, key=lambda one: (one.milliseconds, one.faces)):
        if not front or point.faces < front[-1].faces:
            front.append(point)
    return tuple(front)


def lines_of_names(points: Sequence[Point], scale: float) -> dict[str, int]:
    """How many lines above its marker each name stands, so that none covers another one.

    ``scale`` is in points of the picture per millisecond. Where models lose as many faces, names of
    faster ones stand higher, so that lines from names to their markers seldom cross other names.
    """
    lines: dict[str, int] = {}
    beginnings: dict[int, list[float]] = {}  # by faces: of the leftmost name in each line
    for point in sorted(points, key=lambda one: one.milliseconds, reverse=True):
        begin = point.milliseconds * scale
        end = begin + LETTER * len(point.name)
        taken = beginnings.setdefault(point.faces, [])
        line = next((i for i, other in enumerate(taken) if end < other), len(taken))
        taken[line : line + 1] = [begin]
        lines[point.name] = line
    return lines


def _name(axes: Axes, point: Point, line: int, colour: str) -> None:
    across, up = BESIDE
    axes.annotate(
        point.name,
        (point.milliseconds, point.faces),
        (across, up + line * LINE),
        textcoords="offset points",
        color=colour,
        arrowprops={"arrowstyle": "-", "color": GRID, "relpos": (0, 0)} if line else None,
    )


def plot_front(points: Sequence[Point], allowed: int, title: str, path: Path) -> None:
    """Draw the models, their front and the budget of faces as an SVG file.

    Raises MissingError without matplotlib.
    """
    require_plotting("The picture")
    from matplotlib.ticker import MaxNLocator

    def draw(axes: Axes) -> None:
        front = pareto_front(points)
        axes.set_xlim(0, ROOM * max(one.milliseconds for one in points))
        left, right = axes.get_window_extent().intervalx / axes.figure.dpi * INCH
        lines = lines_of_names(points, (right - left) / axes.get_xlim()[1])
        for point in points:
            colour = GREEN if point.kept else BLUE if point in front else GREY
            size = KEPT_MARKER if point.kept else MARKER
            axes.scatter(point.milliseconds, point.faces, size, color=colour, gid=point.name)
            _name(axes, point, lines[point.name], colour)
        axes.step(
            [one.milliseconds for one in front],
            [one.faces for one in front],
            where="post",
            color=BLUE,
            linewidth=1,
        )
        axes.axhline(allowed, color=ORANGE, linestyle="dashed", label=f"budget: {allowed} faces")
        axes.set(xlabel="ms", ylabel="faces lost or added", title=title)
        axes.margins(y=ABOVE)
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=GRID)
        axes.legend(loc="upper right")

    save_figure(draw, path, ".svg")
