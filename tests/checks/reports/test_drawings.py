"""Positions of what is drawn."""

from __future__ import annotations

import math
import re

import pytest

from scrfdconv.checks.reports.drawings import Axis, bar, error_axis, histogram, outlines
from scrfdconv.checks.reports.outcome import FaceBox, Histogram

EDGES = (1e-4, 1e-3, 1e-2, 1e-1)


@pytest.mark.parametrize(
    ("value", "percent"),
    [(1e-2, 0), (1e-1, 50), (1, 100), (1e9, 100), (1e-9, 0), (0, 0), (-1, 0),
     (math.nan, 100), (math.inf, 100), (-math.inf, 0)],
)  # fmt: skip
def test_an_axis_is_logarithmic_and_nothing_leaves_it(value, percent):
    assert Axis(-2, 0).at(value) == percent


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (-3.5, 0.5, [1e-3, 1e-2, 1e-1, 1]),
        (0.2, 1.2, [2, 5, 10]),
        (-0.25, 0.1, [0.6, 0.7, 0.8, 0.9, 1, 1.2]),
    ],
)
def test_ticks_are_round_and_enough(low, high, ticks):
    assert Axis(low, high).ticks() == pytest.approx(ticks)


def test_equal_values_are_not_spread_over_the_axis():
    axis = Axis.around([1.0, 1.001, math.nan, 0])

    assert axis.at(1.001) - axis.at(1.0) < 1
    assert Axis.around([math.nan, 0, -1, math.inf]) is None


def test_the_limit_of_a_bar_is_where_a_share_of_one_ends():
    assert 'width="75.0%"' in bar(1)
    assert 'class="over" width="100.0%"' in bar(math.inf)
    assert 'class="within"' in bar(0.5)


def test_a_histogram_starts_and_ends_at_its_errors_and_shows_the_limit():
    shown = Histogram("score_8", EDGES, (0, 9, 1), limit=1e-2)

    drawn = histogram(shown, Axis(-4, -1))

    (path,) = re.findall(r'class="counts" d="([^"]*)"', drawn)
    assert re.fullmatch(r"M33.3 32V0H66.7V[\d.]+H100V32", path)
    assert 'class="mark" d="M66.7 0V32"' in drawn


def test_a_gap_in_a_histogram_is_a_gap():
    (path,) = re.findall(
        r'class="counts" d="([^"]*)"', histogram(Histogram("o", EDGES, (1, 0, 1)), Axis(-4, -1))
    )

    assert path == "M0 32V0H33.3V32M66.7 32V0H100V32"


def test_a_histogram_without_errors_or_limit_is_empty():
    drawn = histogram(Histogram("o", EDGES, (0, 0, 0), below=9), Axis(-4, -1))

    assert 'class="counts" d=""' in drawn
    assert "mark" not in drawn


def test_open_ends_get_a_decade():
    shown = Histogram("o", (0.0, 1e-3, math.inf), (1, 1))

    assert error_axis([shown]) == Axis(-5, -1)
    assert 'd="M25 32V0H50V0H75V32"' in histogram(shown, Axis(-5, -1))


def test_outputs_of_an_artifact_share_an_axis_with_their_limits():
    quiet, loud = Histogram("a", EDGES, (1, 0, 0)), Histogram("b", EDGES, (0, 1, 0), limit=50.0)

    axis = error_axis([quiet, loud])

    assert axis.low <= -4
    assert axis.high >= math.log10(50)
    assert error_axis([Histogram("a", EDGES, (0, 0, 0))]) is None


def test_boxes_become_one_path():
    boxes = [FaceBox(10, 20, 30.25, 50, 0.9), FaceBox(0, 0, 5, 5, 0.8)]

    assert outlines(boxes) == "M10 20h20.2v30H10zM0 0h5v5H0z"
