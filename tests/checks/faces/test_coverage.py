"""A poor calibration set is told apart from a good one, and what it lacks is said."""

from __future__ import annotations

import numpy as np
import pytest

from scrfdconv.checks.faces.coverage import FacesSeen, coverage, growth, seen
from scrfdconv.converters.precision.int8.calibration import Extremes

GOOD = [FacesSeen({8: 5, 16: 2, 32: 1}, 0.6)] * 24
STEADY = [Extremes({"x": 0.0}, {"x": 1.0}, {"x": np.zeros(1)})] * 24


def part(high):
    return Extremes({"x": 0.0}, {"x": high}, {"x": np.zeros(1)})


def test_varied_photographs_need_no_warning():
    found = coverage(GOOD, STEADY, trained=True)

    assert found.warnings == ()
    assert (found.faces, found.by_stride) == (192, {8: 120, 16: 48, 32: 24})


@pytest.mark.parametrize(
    ("pictures", "said"),
    [
        (GOOD[:3], "only 3 calibration pictures"),
        ([FacesSeen({8: 0, 16: 0, 32: 1}, 0.7)] * 8, "portraits"),
        ([FacesSeen({8: 0, 16: 3, 32: 1}, 0.7)] * 24, "no face .* stride 8 .up to 64 pixels"),
        ([FacesSeen({8: 0, 16: 0, 32: 0}, 0)] * 24, "no calibration picture has a face"),
    ],
)
def test_what_is_missing_is_said(pictures, said):
    found = coverage(pictures, STEADY[: len(pictures)], trained=True)

    assert any(__import__("re").search(said, warning) for warning in found.warnings)


def test_ranges_that_still_grow_are_a_warning():
    parts = [*STEADY[:20], *(part(2.0) for _ in range(4))]

    found = coverage(GOOD, [part(1.0)] * 20 + parts[20:], trained=True)

    assert growth([part(1.0), part(1.0), part(1.0), part(2.0)]) == pytest.approx(0.5)
    assert "still grow" in found.warnings[0]


def test_nothing_is_said_about_the_faces_of_an_untrained_model():
    found = coverage([FacesSeen({8: 9, 16: 0, 32: 0}, 0.1)] * 24, STEADY, trained=False)

    assert (found.faces, found.warnings) == (0, ())


def test_a_face_counts_for_the_stride_that_found_it():
    outputs = {f"score_{s}": np.zeros((1, 2 * (64 // s) ** 2, 1), np.float32) for s in (8, 16, 32)}
    outputs |= {k.replace("score", "bbox"): np.ones((1, v.shape[1], 4), np.float32)
                for k, v in outputs.items()}  # fmt: skip
    outputs["score_16"][0, 5] = 0.9

    found = seen(outputs, (64, 64))

    assert found.by_stride == {8: 0, 16: 1, 32: 0}
    assert found.largest == pytest.approx(0.5)
