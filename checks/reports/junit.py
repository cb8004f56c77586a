"""A build as JUnit XML: one suite per artifact, one case per check, for CI systems to show.

Attributes and their order of nesting follow the schema that Jenkins checks files with
(junit-10.xsd of its xunit plugin); GitLab and GitHub's actions read the same subset.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from xml.etree import ElementTree  # only written with, never parsed

from scrfdconv.checks.reports.outcome import BuildResult, Outcome
from scrfdconv.checks.reports.wording import name_of, reason_for, sentence

# Characters that XML 1.0 cannot hold, not even escaped (section 2.2); the file would be unreadable.
_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Case:
    """One test case: nothing but a name, if it passed."""

    name: str
    verdict: str = ""  # failure, error or skipped
    kind: str = ""  # kind of failure, for filters
    text: str = ""


def junit(result: BuildResult) -> str:
    """The whole build as one XML document.

    It has a failure or an error if, and only if, the build has: what was not run counts as an
    error, and with ``strict`` a skip as a failure.
    """
    suites = [(o.name, o.seconds or 0.0, list(cases_of(o, result))) for o in result.outcomes]
    if not suites:
        suites = [(result.recipe, 0.0, [Case("build", "error", "empty", result.summary())])]
    root = ElementTree.Element("testsuites", name=_clean(result.recipe))
    _count(root, [case for _, _, cases in suites for case in cases], result.seconds)
    for name, seconds, cases in suites:
        root.append(_suite(name, seconds, cases))
    ElementTree.indent(root, " ")
    declaration = '<?xml version="1.0" encoding="UTF-8"?>\n'
    return declaration + ElementTree.tostring(root, encoding="unicode") + "\n"


def cases_of(outcome: Outcome, result: BuildResult) -> Iterator[Case]:
    """The build itself first, then every check; no two cases share a name."""
    yield _building(outcome, result)
    seen: dict[str, int] = {}
    for check in outcome.report.results if outcome.report else ():
        name = name_of(check)
        seen[name] = seen.get(name, 0) + 1
        if seen[name] > 1:
            name += f" ({seen[name]})"
        if check.passed:
            yield Case(name)
        else:
            yield Case(name, "failure", check.check, sentence(check))


def _building(outcome: Outcome, result: BuildResult) -> Case:
    failed_checks = outcome.report.failures if outcome.report else ()
    if outcome.state == "skipped":
        verdict = "failure" if result.counts_as_failure(outcome) else "skipped"
        return Case("build", verdict, "skipped", reason_for(outcome))
    if result.counts_as_failure(outcome) and not failed_checks:
        return Case("build", "error", outcome.state, reason_for(outcome))
    return Case("build")


def _suite(name: str, seconds: float, cases: list[Case]) -> ElementTree.Element:
    suite = ElementTree.Element("testsuite", name=_clean(name))
    _count(suite, cases, seconds)
    suite.set("skipped", str(sum(case.verdict == "skipped" for case in cases)))
    # Dots are what Jenkins takes for packages: one per folder, none within names such as 2.5g.
    class_name = ".".join(part.replace(".", "_") for part in name.split("/"))
    for case in cases:
        time = seconds if case is cases[0] else 0.0  # checks are not timed one by one
        attributes = {"classname": class_name, "name": case.name, "time": _time(time)}
        element = ElementTree.SubElement(suite, "testcase", _all_clean(attributes))
        if case.verdict:
            told = _all_clean({"type": case.kind, "message": case.text})
            ElementTree.SubElement(element, case.verdict, told).text = told["message"]
    return suite


def _count(element: ElementTree.Element, cases: list[Case], seconds: float) -> None:
    element.set("tests", str(len(cases)))
    element.set("failures", str(sum(case.verdict == "failure" for case in cases)))
    element.set("errors", str(sum(case.verdict == "error" for case in cases)))
    element.set("time", _time(seconds))


def _time(seconds: float) -> str:
    return f"{seconds if math.isfinite(seconds) else 0:.3f}"  # the schema knows digits only


def _all_clean(attributes: dict[str, str]) -> dict[str, str]:
    return {key: _clean(value) for key, value in attributes.items()}


def _clean(text: str) -> str:
    return _ILLEGAL.sub("\N{REPLACEMENT CHARACTER}", text)
