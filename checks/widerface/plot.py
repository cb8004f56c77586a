"""The picture of a WIDER FACE evaluation: its three curves of precision and recall."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scrfdconv.checks.reports.figures import (
    BLUE,
    GREEN,
    GRID,
    ORANGE,
    require_plotting,
    save_figure,
)
from scrfdconv.checks.widerface.protocol import Curve, Evaluation
from scrfdconv.checks.widerface.truth import SUBSETS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OPTION = "--plot"
STROKE = 2.0  # points
# The dashes stay distinct in grey.
STYLES: dict[str, tuple[str, Any]] = {
    "easy": (BLUE, "solid"),
    "medium": (GREEN, (0, (5, 2))),
    "hard": (ORANGE, (0, (1.5, 1.5))),
}


def plot_curves(evaluation: Evaluation, title: str, path: Path, suffix: str) -> None:
    """Draw the three curves into the file ``path``; ``suffix`` is ``.svg`` or ``.png``.

    Both axes go from 0 to 1. The legend gives the average precision in percent, as the published
    tables do. Thresholds that no prediction reaches are not drawn.
    """

    def draw(axes: Axes) -> None:
        for subset in SUBSETS:
            _draw(axes, subset, evaluation.curves[subset])
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="Recall", ylabel="Precision", title=title)
        axes.set_xticks(np.linspace(0, 1, 11))
        axes.set_yticks(np.linspace(0, 1, 11))
        axes.grid(color=GRID)
        axes.legend(loc="lower left")  # where no good curve passes

    require_plotting(OPTION)
    save_figure(draw, path, suffix)


def _draw(axes: Axes, subset: str, curve: Curve) -> None:
    shown = (curve.proposals > 0) & np.isfinite(curve.recall)
    colour, dashes = STYLES[subset]
    percent = curve.ap * 100
    said = f"AP {percent:.2f} %" if np.isfinite(percent) else "no faces"
    axes.plot(
        curve.recall[shown],
        curve.precision[shown],
        color=colour,
        linestyle=dashes,
        linewidth=STROKE,
        label=f"{subset.capitalize()}  {said}",
        gid=subset,
    )
