"""Numbers that reports are made of."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from scrfdconv.checks.metrics import SILENT_SQNR, Bias, LineFit, errors, logits


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


# ---------------------------------------------------------------- bias


def fitted(want, got, weights=None):
    fit = LineFit(want.shape[1])
    fit.add(want, got, np.ones(len(want)) if weights is None else weights)
    return fit.bias()


def columns(rows=4000, seed=0):
    return np.random.default_rng(seed).normal(3, 1, (rows, 4))


def test_noise_however_large_takes_no_side():
    want = columns()

    found = fitted(want, want + np.random.default_rng(1).normal(0, 0.3, want.shape))

    assert found.slope < 0.005
    assert found.offset < 0.005


@pytest.mark.parametrize("column", range(4))
@pytest.mark.parametrize(
    ("factor", "offset", "slope", "moved"),
    [(1.1, 0, 0.1, 0.3), (1, 0.2, 0, 0.2), (0.9, 0.3, 0.1, 0)],
)
def test_one_wrong_column_shows_its_slope_and_its_offset(factor, offset, slope, moved, column):
    want = columns()
    got = want.copy()
    got[:, column] = want[:, column] * factor + offset

    found = fitted(want, got)

    assert found.slope == pytest.approx(slope, abs=1e-6)
    assert found.offset == pytest.approx(moved, abs=0.01)


@pytest.mark.parametrize(
    ("factors", "growth", "skew"),
    [((1.1,) * 4, 0.1, 0), ((0.95,) * 4, 0, 0), ((0.96, 0.96, 1.06, 0.96), 0.06, 0.1)],
)
def test_growth_and_skew_are_told_apart_from_what_all_columns_lose(factors, growth, skew):
    want = columns()

    found = fitted(want, want * np.array(factors))

    assert found.growth == pytest.approx(growth, abs=1e-6)
    assert found.skew == pytest.approx(skew, abs=1e-6)


def test_rows_count_as_much_as_their_weights():
    want = columns(100)
    got = want.copy()
    got[50:] *= 2
    weights = np.repeat([1.0, 0.0], 50)

    assert fitted(want, got, weights).slope == pytest.approx(0, abs=1e-9)
    assert fitted(want, got, weights[::-1]).slope == pytest.approx(1)


def test_pictures_add_up_to_what_all_of_them_give_at_once():
    want, got = columns(), columns() * 1.2 + columns(seed=2) / 5
    parts = LineFit(4)
    for place in range(0, 4000, 500):
        part = slice(place, place + 500)
        parts.add(want[part], got[part], np.ones(500))

    assert parts.bias().slope == pytest.approx(fitted(want, got).slope)
    assert parts.bias().offset == pytest.approx(fitted(want, got).offset)


def test_few_noisy_rows_prove_nothing_and_flat_columns_have_no_slope():
    want = columns(6)
    noisy = want + np.random.default_rng(3).normal(0, 0.5, want.shape)
    flat = np.full((100, 2), 0.25)

    assert max(abs(np.polyfit(x, y, 1)[0] - 1) for x, y in zip(want.T, noisy.T, strict=True)) > 0.2
    assert fitted(want, noisy).slope < 0.05
    assert fitted(flat, flat + 0.5) == Bias(0, 0.5)
    assert LineFit(3).bias() == Bias(0, 0)


def test_the_bias_tells_what_the_size_of_errors_hides():
    """Boxes ten percent too large have the SQNR of rounding to 8 bits, which must pass."""
    want = columns()
    rounded = want + np.random.default_rng(1).normal(0, 0.32, want.shape)

    assert errors(want, want * 1.1).sqnr > errors(want, rounded).sqnr - 1
    assert fitted(want, want * 1.1).slope > 10 * fitted(want, rounded).slope


def test_logits_undo_the_sigmoid_and_forget_the_tail():
    values = np.array([-3.0, 0.0, 2.5])

    assert logits(1 / (1 + np.exp(-values))) == pytest.approx(values)
    assert logits(np.array([0.0, 1e-9, 1.0]))[0] == logits(np.array([1e-6]))[0]
    assert np.isfinite(logits(np.array([0.0, 1.0]))).all()
