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


def plot_front(points: Sequence[Point], allowed: int, title: str, path: Path) -> None:
    """Draw the models, their front and the budget of faces as an SVG file.

    Raises MissingError without matplotlib.
    """
    require_plotting("The picture")
    from matplotlib.ticker import MaxNLocator

    def draw(axes: Axes) -> None:
        front = pareto_front(points)
        for point in points:
            colour = GREEN if point.kept else BLUE if point in front else GREY
            size = KEPT_MARKER if point.kept else MARKER
            axes.scatter(point.milliseconds, point.faces, size, color=colour, gid=point.name)
            place = (point.milliseconds, point.faces)
            axes.annotate(point.name, place, BESIDE, textcoords="offset points", color=colour)
        axes.step(
            [one.milliseconds for one in front],
            [one.faces for one in front],
            where="post",
            color=BLUE,
            linewidth=1,
        )
        axes.axhline(allowed, color=ORANGE, linestyle="dashed", label=f"budget: {allowed} faces")
        axes.set(xlabel="ms", ylabel="faces lost or added", title=title)
        axes.set_xlim(0, ROOM * max(one.milliseconds for one in points))
        axes.yaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(color=GRID)
        axes.legend(loc="upper right")

    save_figure(draw, path, ".svg")
