"""One way of writing numbers."""

from __future__ import annotations

import math

import pytest

from scrfdconv.checks.reports.wording import (
    compared,
    duration,
    figure,
    first_failure,
    megabytes,
    name_of,
    share_of_limit,
)
from scrfdconv.checks.results import CheckResult


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, "0"), (1215, "1,215"), (-3.0, "-3"), (1.99999e-7, "2e-07"), (106.234, "106"),
        (0.1234567, "0.123"), (1 - 2e-12, "1-2e-12"), (0.99, "0.99"), (1.0, "1"),
        (math.nan, "NaN"), (math.inf, "inf"), (-math.inf, "-inf"), (1e300, "1e+300"),
    ],
)  # fmt: skip
def test_a_number_is_written_in_one_way(value, written):
    assert figure(value) == written


def test_a_value_beside_its_limit_gets_the_digits_that_tell_them_apart():
    near = CheckResult("parity", "score_8", "max_abs", 5.0001e-5, 5e-5)

    assert compared(near) == ("5.0001e-05", "5e-05")
    assert compared(CheckResult("c", "s", "m", 5e-5, 5e-5)) == ("5e-05", "5e-05")


@pytest.mark.parametrize(
    ("metric", "measured", "limit", "at_least", "share"),
    [
        ("max_abs", 1e-5, 4e-5, False, 0.25), ("max_abs", 8e-5, 4e-5, False, 2),
        ("sqnr", 110, 90, True, 0.1), ("sqnr", 70, 90, True, 10),
        ("sqnr", -math.inf, 90, True, math.inf), ("sqnr", -1e9, 90, True, math.inf),
        ("recall", 0.995, 0.99, True, 0.5), ("recall", 0.98, 0.99, True, 2),
        ("cosine", 1 + 1e-16, 0.99, True, 0), ("max_abs", math.nan, 1, False, math.inf),
        ("faults", 0, 0, False, None), ("compared", 8, 1, True, None),
        ("max_abs", 1, math.inf, False, None),
    ],
)  # fmt: skip
def test_one_is_the_limit_whatever_is_measured(metric, measured, limit, at_least, share):
    found = share_of_limit(CheckResult("parity", "s", metric, measured, limit, at_least))

    assert found == (share if share is None else pytest.approx(share))


def test_a_share_above_one_is_a_failure(release_result):
    for outcome in release_result.outcomes:
        for result in outcome.report.results if outcome.report else ():
            share = share_of_limit(result)
            assert share is None or (share <= 1) == result.passed, result


def test_a_check_about_one_thing_does_not_say_it_twice():
    assert name_of(CheckResult("faces", "faces", "recall", 1, 1)) == "faces recall"
    assert name_of(CheckResult("parity", "kps_8", "sqnr", 1, 1)) == "parity kps_8 sqnr"


def test_the_first_failure_is_named_with_its_reason(small_result, builds):
    said = first_failure(small_result)

    assert said.startswith("3 of 6 artifacts: 1 built, 1 cached, 2 failed, 1 skipped, 1 not run; ")
    assert "first scrfd_500m/scrfd_500m_shape640x640_int8.onnx: 4 of 34 checks failed" in said
    assert first_failure(builds["nothing"]()) == "0 artifacts: nothing was asked for"


@pytest.mark.parametrize(
    ("seconds", "written"),
    [
        (0.04, "0.0 s"),
        (4.12, "4.1 s"),
        (59.96, "1 min 00 s"),
        (127, "2 min 07 s"),
        (math.nan, "NaN s"),
    ],
)
def test_times_are_for_people(seconds, written):
    assert duration(seconds) == written


@pytest.mark.parametrize(
    ("size", "written"), [(2_523_000, "2.52 MB"), (1234, "0.00123 MB"), (0, "0 MB")]
)
def test_sizes_are_in_millions_of_bytes(size, written):
    assert megabytes(size) == written
