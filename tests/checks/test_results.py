"""The verdict belongs to the report."""

from __future__ import annotations

import json
import math

import pytest

from scrfdconv.checks.results import CheckResult, Report


@pytest.mark.parametrize(
    ("measured", "limit", "at_least", "passed"),
    [
        (1, 1, False, True), (1.1, 1, False, False), (1, 1, True, True), (0.9, 1, True, False),
        (math.nan, 1, False, False), (math.nan, 1, True, False),
        (1, math.nan, False, False), (1, math.nan, True, False),
        (math.inf, 1, False, False), (-math.inf, 1, True, False),
    ],
)  # fmt: skip
def test_a_result_passes_only_inside_its_limit(measured, limit, at_least, passed):
    assert CheckResult("c", "s", "m", measured, limit, at_least).passed is passed


def test_an_empty_report_fails():
    report = Report.of([])

    assert not report.passed
    assert report.exit_code == 1
    assert report.summary() == "nothing was compared"


def test_one_failure_fails_the_report_and_is_named_first():
    good = CheckResult("parity", "score_8", "max_abs", 0, 1)
    bad = CheckResult("parity", "kps_8", "sqnr", 20, 90, at_least=True, detail="largest on noise")

    report = Report.of([good, bad])

    assert report.exit_code == 1
    assert report.summary() == (
        "1 of 2 checks failed, first kps_8 sqnr: 20, at least 90 allowed (largest on noise)"
    )
    assert Report.of([good]).exit_code == 0


def test_a_cosine_is_told_by_what_it_lacks():
    """Both numbers read as 1 in three digits."""
    bad = CheckResult("parity", "kps_8", "cosine", 1 - 2e-9, 1 - 1e-10, at_least=True)

    assert "cosine: 1-2e-09, at least 1-1e-10 allowed" in Report.of([bad]).summary()


def test_a_report_is_json_even_with_values_that_json_lacks():
    report = Report.of([CheckResult("c", "s", "m", math.nan, math.inf)], ["a note"])

    content = json.loads(json.dumps(report.to_dict(), allow_nan=False))

    assert content["results"][0]["measured"] == "nan"
    assert content["notes"] == ["a note"]
    assert content["passed"] is False
