"""Pictures of curves and points with matplotlib: the same numbers give the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from scrfdconv.converters.errors import MissingError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZE = (6.4, 5.6)  # inches
DOTS_PER_INCH = 200  # of PNG: sharp on paper
GRID = "#E3E3E3"
# The palette of Okabe and Ito stays distinct for colour-blind readers.
BLUE, GREEN, ORANGE, GREY = "#0072B2", "#009E73", "#D55E00", "#767676"
# No date, no version, names that are no random numbers.
METADATA: dict[str, dict[str, None]] = {
    ".png": {"Software": None},
    ".svg": {"Date": None, "Creator": None},
}
SETTINGS = {
    "svg.hashsalt": "scrfdconv",
    "svg.fonttype": "none",  # texts stay texts
    "text.parse_math": False,  # file names may have dollar signs
}


def require_plotting(what: str) -> None:
    """Raise MissingError where the library for plots, which ``what`` needs, is not installed."""
    try:
        import matplotlib  # noqa: F401 - only whether it is here
    except ImportError as error:
        raise MissingError(f"{what} needs matplotlib: pip install 'scrfdconv[plot]'.") from error


def save_figure(draw: Callable[[Axes], None], path: Path, suffix: str) -> None:
    """Write what ``draw`` draws to the file ``path``; ``suffix`` is ``.svg`` or ``.png``."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    with mpl.rc_context({**mpl.rcParamsDefault, **SETTINGS}):
        figure = Figure(SIZE, dpi=DOTS_PER_INCH, layout="constrained")
        FigureCanvasAgg(figure)  # needs no screen
        draw(figure.add_subplot())
        figure.savefig(path, format=suffix[1:], metadata=METADATA[suffix])
