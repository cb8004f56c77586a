"""Numbers that reports are made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrfdconv.checks.metrics import SILENT_SQNR, errors


def test_equal_arrays_have_no_error():
    found = errors(np.arange(6.0), np.arange(6.0))

    assert (found.max_abs, found.mean_abs, found.p999_abs) == (0, 0, 0)
    assert found.cosine == pytest.approx(1)
    assert found.sqnr == SILENT_SQNR


def test_the_errors_of_a_small_case_are_those_by_hand():
    found = errors(np.array([3.0, 4.0]), np.array([3.0, 4.5]))

    assert found.max_abs == 0.5
    assert found.mean_abs == 0.25
    assert found.cosine == pytest.approx((9 + 18) / (5 * np.hypot(3, 4.5)))
    assert found.sqnr == pytest.approx(10 * np.log10(25 / 0.25))


def test_silence_against_sound_is_as_bad_as_it_gets():
    zeros, ones = np.zeros(4), np.ones(4)

    assert errors(zeros, ones).sqnr == -SILENT_SQNR
    assert errors(zeros, ones).cosine == 0
    assert errors(ones, zeros).cosine == 0
    assert errors(zeros, zeros).cosine == 1


@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1.0))
def test_more_noise_is_never_better(seed, scale):
    draw = np.random.default_rng(seed)
    signal, noise = draw.normal(size=200), draw.normal(size=200)

    little, much = (
        errors(signal, signal + scale * noise),
        errors(signal, signal + 2 * scale * noise),
    )

    assert much.max_abs > little.max_abs
    assert much.sqnr < little.sqnr
    assert little.worst(much) == much.worst(little)
    assert little.worst(much).max_abs == much.max_abs


def test_nothing_to_compare_is_refused():
    with pytest.raises(AssertionError, match="nothing to compare"):
        errors(np.zeros(0), np.zeros(0))
