"""What was measured: results with their limits, as data first and prose second."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from scrfdconv.converters.structured import Real, to_plain

if TYPE_CHECKING:
    from scrfdconv.converters.formats import Finding


@dataclass(frozen=True)
class CheckResult:
    """One measured value and its limit. NaN fails, on either side."""

    check: str  # parity, weights, faces ...
    subject: str  # score_8, interface ...
    metric: str
    measured: Real
    limit: Real
    at_least: bool = False  # True: the limit is a lower one
    detail: str = ""
    relation: Literal["<=", ">=", ""] = ""  # at_least as files write it; "": taken from at_least

    def __post_init__(self) -> None:
        """Counts and numpy's numbers become plain ones: reports must read back as they were."""
        object.__setattr__(self, "measured", float(self.measured))
        object.__setattr__(self, "limit", float(self.limit))
        if self.at_least and self.relation == "<=":
            raise ValueError("at_least, but its relation is <=")
        object.__setattr__(self, "at_least", self.at_least or self.relation == ">=")
        object.__setattr__(self, "relation", ">=" if self.at_least else "<=")

    @classmethod
    def of(cls, finding: Finding) -> CheckResult:
        """Turn a format's measurement of its own file into a result."""
        return cls(**vars(finding))

    @property
    def passed(self) -> bool:
        """True if the value keeps its limit."""
        if self.at_least:
            return self.measured >= self.limit
        return self.measured <= self.limit

    def text(self, value: float) -> str:
        """``value`` in few digits; a cosine near 1 as its distance from 1: it would read as 1."""
        return f"1-{1 - value:.0e}" if self.metric == "cosine" else f"{value:.3g}"

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``; values that JSON cannot hold become strings."""
        return {
            "check": self.check,
            "subject": self.subject,
            "metric": self.metric,
            "measured": to_plain(self.measured),
            "limit": to_plain(self.limit),
            "relation": self.relation,
            "passed": self.passed,
            "detail": self.detail,
        }


@dataclass(frozen=True)
class Report:
    """All results of one verification. It owns the verdict: no results is a failure."""

    results: tuple[CheckResult, ...]
    notes: tuple[str, ...] = field(default=())

    @classmethod
    def of(cls, results: Iterable[CheckResult], notes: Iterable[str] = ()) -> Report:
        """Collect results and notes."""
        return cls(tuple(results), tuple(notes))

    @property
    def passed(self) -> bool:
        """True if something was measured and nothing was outside its limit."""
        return bool(self.results) and not self.failures

    @property
    def failures(self) -> tuple[CheckResult, ...]:
        """The results outside their limits."""
        return tuple(result for result in self.results if not result.passed)

    @property
    def exit_code(self) -> int:
        """0 or 1, for the command line."""
        return 0 if self.passed else 1

    def summary(self) -> str:
        """One sentence: how many checks, and what failed first."""
        if not self.results:
            return "nothing was compared"
        if self.passed:
            return f"{len(self.results)} checks passed"
        first = self.failures[0]
        more = f" ({first.detail})" if first.detail else ""
        relation = "at least" if first.at_least else "at most"
        return (
            f"{len(self.failures)} of {len(self.results)} checks failed, first {first.subject} "
            f"{first.metric}: {first.text(first.measured)}, {relation} {first.text(first.limit)} "
            f"allowed{more}"
        )

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "passed": self.passed,
            "summary": self.summary(),
            "results": [result.to_dict() for result in self.results],
            "notes": list(self.notes),
        }
