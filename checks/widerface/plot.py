"""The picture of a WIDER FACE evaluation: its three curves of precision and recall."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scrfdconv.checks.widerface.protocol import Curve, Evaluation
from scrfdconv.checks.widerface.truth import SUBSETS
from scrfdconv.converters.errors import MissingError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (6.4, 5.6)  # inches
DOTS_PER_INCH = 200  # of PNG: sharp on paper
STROKE = 2.0  # points
# The palette of Okabe and Ito stays distinct for colour-blind readers, the dashes do in grey.
STYLES: dict[str, tuple[str, Any]] = {
    "easy": ("#0072B2", "solid"),
    "medium": ("#009E73", (0, (5, 2))),
    "hard": ("#D55E00", (0, (1.5, 1.5))),
}
# The same evaluation gives the same bytes: no date, no version, names that are no random numbers.
METADATA: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
}
SETTINGS = {
    "svg.hashsalt": "scrfdconv",
    "svg.fonttype": "none",  # texts stay texts
    "text.parse_math": False,  # file names may have dollar signs
}


def require_plotting() -> None:
    """Raise MissingError where the library for plots is not installed."""
    try:
        import matplotlib  # noqa: F401 - only whether it is here
    except ImportError as error:
        raise MissingError("--plot needs matplotlib: pip install 'scrfdconv[plot]'.") from error


def plot_curves(evaluation: Evaluation, title: str, path: Path, suffix: str) -> None:
    """Draw the three curves into the file ``path``; ``suffix`` is ``.svg`` or ``.png``.

    Both axes go from 0 to 1. The legend gives the average precision in percent, as the published
    tables do. Thresholds that no prediction reaches are not drawn.
    """
    require_plotting()
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({**mpl.rcParamsDefault, **SETTINGS}):
        figure = Figure(SIZE, dpi=DOTS_PER_INCH, layout="constrained")
        FigureCanvasAgg(figure)  # needs no screen
        axes = figure.add_subplot()
        for subset in SUBSETS:
            _draw(axes, subset, evaluation.curves[subset])
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="Recall", ylabel="Precision", title=title)
        axes.set_xticks(np.linspace(0, 1, 11))
        axes.set_yticks(np.linspace(0, 1, 11))
        axes.grid(color="#E3E3E3")
        axes.legend(loc="lower left")  # where no good curve passes
        figure.savefig(path, format=suffix[1:], metadata=METADATA[suffix])


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
