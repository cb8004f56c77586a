"""Who leaves a contest, who wins, and what is on the front."""

from __future__ import annotations

import numpy as np
import pytest

from scrfdconv.checks.benchmark import Ratio, Timing
from scrfdconv.checks.faces.decode import Faces
from scrfdconv.checks.faces.matching import agreement
from scrfdconv.checks.reports.front import Point, lines_of_names, pareto_front, plot_front
from scrfdconv.recipes.bench import ComparedModel
from scrfdconv.recipes.optimize import Budget

BUDGET = Budget(0.01)
BOXES = np.array([[40.0 * i, 0, 40 * i + 20, 20] for i in range(5)], np.float32)


def agreeing(*, lost):
    scores = np.full(len(BOXES), 0.9, np.float32)
    reference = Faces(boxes=BOXES, scores=scores, keypoints=None)
    found = Faces(boxes=BOXES[lost:], scores=scores[lost:], keypoints=None)
    return agreement([(reference, found)])


def row(name, milliseconds, lost=0, runs=6, noise=0.0):
    ripple = 1 + noise * np.array([1, -1] * runs)[:runs]
    seconds = milliseconds / 1e3 * ripple
    timing = Timing(name, seconds, seconds, 1, 1)
    return ComparedModel(timing=timing, ratio=Ratio(1, 1, 1), threads=None, file_bytes=1,
                         format="f", agreement=agreeing(lost=lost))  # fmt: skip


SOURCE = row("source", 90)


def test_the_slower_half_of_what_cannot_win_leaves():
    compared = [SOURCE, row("a", 10), row("b", 20), row("c", 30), row("d", 40)]

    assert set(BUDGET.losers(compared)) == {0, 4}


def test_what_is_within_the_noise_of_the_best_stays_to_the_end():
    near = [row("best", 10, noise=0.2), row("near", 10.5)]

    assert BUDGET.losers([SOURCE, *near]) == [0]
    assert BUDGET.losers([row("source", 90, runs=2), *near]) == []


def test_who_left_counts_no_more():
    compared = [SOURCE, row("best", 10, runs=12), row("left", 5, runs=6)]

    assert BUDGET.fastest(compared).timing.name == "best"
    assert BUDGET.losers(compared) == []


def test_a_fast_model_that_loses_faces_never_wins():
    compared = [SOURCE, row("blind", 1, lost=3), row("right", 10)]

    assert BUDGET.fastest(compared).timing.name == "right"
    assert not BUDGET.holds(compared[1])
    assert BUDGET.fastest(compared[:2]) is None
    assert BUDGET.losers(compared[:2]) == [0]


def test_one_face_may_always_go_but_for_a_budget_of_none():
    one_lost = row("m", 1, lost=1)

    assert BUDGET.holds(one_lost)
    assert not Budget(0.0).holds(one_lost)


def test_names_stand_above_each_other_where_they_would_overlap():
    def point(name, milliseconds, faces=0):
        return Point(name=name, milliseconds=milliseconds, faces=faces)

    near = [point("fast", 10), point("fast too", 11), point("slow", 60), point("other", 10, 3)]

    assert lines_of_names(near, 4) == {"slow": 0, "fast too": 0, "fast": 1, "other": 0}
    assert set(lines_of_names(near, 400).values()) == {0}


def test_the_front_is_what_nothing_beats():
    fast, right, beaten, equal = (
        Point(name=name, milliseconds=ms, faces=faces)
        for name, ms, faces in (("fast", 1, 5), ("right", 3, 0), ("beaten", 4, 2), ("eq", 3, 0))
    )

    assert pareto_front([beaten, right, fast, equal]) == (fast, right)


def test_the_picture_names_every_candidate(tmp_path):
    pytest.importorskip("matplotlib")
    points = [
        Point(name="onnx-fp32", milliseconds=9, faces=0),
        Point(name="openvino-int8", milliseconds=3, faces=1, kept=True),
    ]

    plot_front(points, 2, "tiny on this machine", tmp_path / "a.svg")
    plot_front(points, 2, "tiny on this machine", tmp_path / "b.svg")

    text = (tmp_path / "a.svg").read_text()
    for said in ("onnx-fp32", "openvino-int8", "budget: 2 faces", "tiny on this machine"):
        assert said in text
    assert text == (tmp_path / "b.svg").read_text()
