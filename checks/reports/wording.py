"""How reports write numbers and name checks: one way for text, Markdown, XML and HTML."""

from __future__ import annotations

import math

from scrfdconv.checks.reports.outcome import BuildResult, Outcome
from scrfdconv.checks.results import CheckResult

DIGITS = 3  # significant digits that two machines still agree on
EXACT_DIGITS = 17  # significant digits that tell any two doubles apart
# Cosines of good artifacts are so near 1 that only the distance from it says something.
NEAR_ONE = 1e-3
LARGEST_COUNT = 1e15  # whole numbers below are exact in a double and are counts
MEGABYTE = 1e6
MINUTE = 60  # seconds
DECIBELS_PER_DECADE = 20  # of an amplitude
LOUDEST = 300.0  # decades: with more, a float overflows


def figure(value: float, digits: int = DIGITS) -> str:
    """Counts in full, the rest to three significant digits, ``1-2e-12`` just below 1, NaN as such.

    The second argument is for numbers that must be told apart (``compared``).
    """
    if math.isnan(value):
        return "NaN"
    if value == int_or_nan(value):
        return f"{int(value):,}"
    if 0 < 1 - value < NEAR_ONE:
        return f"1-{1 - value:.{digits - 1}g}"
    return f"{value:.{digits}g}"


def int_or_nan(value: float) -> float:
    """``value`` rounded, if it is small enough to be a count; NaN, which equals nothing, if not."""
    return round(value) if abs(value) < LARGEST_COUNT else math.nan


def compared(result: CheckResult) -> tuple[str, str]:
    """Measured value and limit, with as many digits as it takes to see which one is larger."""
    for digits in range(DIGITS, EXACT_DIGITS + 1):
        pair = figure(result.measured, digits), figure(result.limit, digits)
        if pair[0] != pair[1] or result.measured == result.limit:
            break
    return pair


def name_of(result: CheckResult) -> str:
    """``parity score_8 max_abs``; a check that is about one thing does not say it twice."""
    return " ".join(dict.fromkeys((result.check, result.subject, result.metric)))


def sentence(result: CheckResult) -> str:
    """``0.136, at most 5e-05 allowed (largest on mosaic)``."""
    measured, limit = compared(result)
    detail = f" ({result.detail})" if result.detail else ""
    return f"{measured}, {bound(result)} {limit} allowed{detail}"


def bound(result: CheckResult) -> str:
    """Which side of the limit is the good one."""
    return "at least" if result.at_least else "at most"


def share_of_limit(result: CheckResult) -> float | None:
    """How much of the allowed error is there: 1 is the limit, above fails.

    For lower limits: decibels are turned back into amplitudes, and what must not fall below a
    share of 1 (cosine, recall) counts as its distance from 1. None where a share says nothing, as
    for a count with limit 0; infinite for NaN.
    """
    measured, limit = result.measured, result.limit
    if math.isnan(measured) or math.isnan(limit):
        return math.inf
    if result.metric == "sqnr":
        decades = (limit - measured) / DECIBELS_PER_DECADE
        return math.inf if decades > LOUDEST else float(10**decades)
    error, allowed = (1 - measured, 1 - limit) if result.at_least else (measured, limit)
    return max(0.0, error / allowed) if 0 < allowed < math.inf else None


def worst_share(outcome: Outcome) -> float | None:
    """The largest share of a limit over all checks; None where nothing has one."""
    results = outcome.report.results if outcome.report else ()
    shares = [share for share in map(share_of_limit, results) if share is not None]
    return max(shares, default=None)


def reason_for(outcome: Outcome) -> str:
    """Why an artifact is in its state: the first failed check, or the message of the build."""
    if outcome.state == "failed" and outcome.report and outcome.report.failures:
        return outcome.report.summary()
    return outcome.why or (outcome.report.summary() if outcome.report else "no reason was recorded")


def first_failure(result: BuildResult) -> str:
    """A sentence about a build that did not pass: how many artifacts, the first one, and why."""
    bad = result.failures
    if not bad:
        return result.summary()
    return (
        f"{len(bad)} of {result.summary()}; first {bad[0].name}: {reason_for(bad[0]).rstrip('.')}"
    )


def megabytes(size: int) -> str:
    """``2.52 MB``, of one million bytes; small files keep their digits."""
    return f"{size / MEGABYTE:.{DIGITS}g} MB" if size < MEGABYTE else f"{size / MEGABYTE:.2f} MB"


def duration(seconds: float) -> str:
    """``4.1 s``, ``2 min 07 s``."""
    if not math.isfinite(seconds):
        return f"{figure(seconds)} s"
    if round(seconds, 1) < MINUTE:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), MINUTE)
    return f"{minutes} min {rest:02d} s"
