"""What CI systems read."""

from __future__ import annotations

import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from scrfdconv.checks.reports.junit import junit
from scrfdconv.checks.reports.outcome import BuildResult
from scrfdconv.checks.results import CheckResult, Report

# Elements, their attributes and children, as Jenkins' schema has them (junit-10.xsd).
COUNTS = {"name", "tests", "failures", "errors", "time"}
SCHEMA = {
    "testsuites": (COUNTS, {"testsuite"}),
    "testsuite": (COUNTS | {"skipped"}, {"testcase"}),
    "testcase": ({"classname", "name", "time"}, {"failure", "error", "skipped"}),
    **dict.fromkeys(("failure", "error", "skipped"), ({"type", "message"}, set())),
}


def parsed(result: BuildResult) -> ElementTree.Element:
    return ElementTree.fromstring(junit(result))


def test_every_element_is_in_the_schema(small_result):
    for element in parsed(small_result).iter():
        attributes, children = SCHEMA[element.tag]
        assert set(element.attrib) == attributes
        assert {child.tag for child in element} <= children


def test_there_is_a_suite_per_artifact_and_a_case_per_check(release_result):
    root = parsed(release_result)

    for suite, outcome in zip(root, release_result.outcomes, strict=True):
        assert suite.get("name") == outcome.name
        checks = len(outcome.report.results) if outcome.report else 0
        assert len(suite) == 1 + checks  # the build itself is the first


def test_counts_and_times_add_up(small_result):
    root = parsed(small_result)

    for element in (root, *root):
        cases = list(element.iter("testcase"))
        assert int(element.get("tests")) == len(cases)
        for attribute, tag in (("failures", "failure"), ("errors", "error")):
            assert int(element.get(attribute)) == len(list(element.iter(tag)))
    for suite in root:
        times = sum(float(case.get("time")) for case in suite)
        assert float(suite.get("time")) == pytest.approx(times)
        assert int(suite.get("skipped")) == len(list(suite.iter("skipped")))


def test_a_failed_check_says_what_was_measured_and_allowed(small_result):
    failures = list(parsed(small_result).iter("failure"))

    assert failures[0].get("message") == (
        "28.7, at most 0.7 allowed (largest on mosaic 1x3x640x640)"
    )
    assert failures[1].text == "NaN, at most 0.15 allowed (3 values are NaN <or> infinite)"
    assert failures[0].get("type") == "parity"


def test_a_failure_without_measurements_is_an_error(small_result):
    error = next(parsed(small_result).iter("error"))

    assert error.get("type") == "failed"
    assert error.get("message").startswith("no space left\non the disk")


def test_a_skip_has_its_reason(small_result):
    (skip,) = parsed(small_result).iter("skipped")

    assert skip.get("message") == "TensorRT is not installed on this machine"


GOOD, BAD = (Report.of([CheckResult("c", "s", "m", value, 1)]) for value in (0.5, 2))


@pytest.mark.parametrize(
    ("state", "report"),
    [
        ("built", GOOD), ("built", None), ("cached", GOOD), ("failed", BAD), ("failed", GOOD),
        ("failed", None), ("skipped", None), ("not run", None),
    ],
)  # fmt: skip
@pytest.mark.parametrize("strict", [False, True])
def test_the_file_is_red_if_and_only_if_the_build_is(small_result, state, report, strict):
    outcome = replace(small_result.outcomes[0], state=state, report=report)
    result = BuildResult("r", (outcome,), strict=strict)

    root = parsed(result)

    red = int(root.get("failures")) + int(root.get("errors")) > 0
    assert red is not result.passed


def test_a_build_of_nothing_is_red(builds):
    assert parsed(builds["nothing"]()).get("errors") == "1"


def test_no_two_cases_have_one_name(small_result):
    fault = CheckResult("parity", "score_8", "finite", 1, 0)
    outcome = replace(small_result.outcomes[0], report=Report.of([fault, fault, fault]))

    names = [case.get("name") for case in parsed(BuildResult("r", (outcome,))).iter("testcase")]

    assert names == ["build", *(f"parity score_8 finite{n}" for n in ("", " (2)", " (3)"))]


def test_dots_in_names_make_no_packages(small_result):
    outcome = replace(small_result.outcomes[0], name="scrfd_2.5g/scrfd_2.5g.onnx")

    case = next(parsed(BuildResult("r", (outcome,))).iter("testcase"))

    assert case.get("classname") == "scrfd_2_5g.scrfd_2_5g_onnx"


@pytest.mark.parametrize("bad", ["\x00", "\x1b[31m", "\ufffe", "\ud800"])
def test_what_xml_cannot_hold_is_replaced(small_result, bad):
    check = CheckResult(f"c{bad}", "s", "m", math.nan, 1, detail=f"a{bad}b\tc\r\nd")
    outcome = replace(small_result.outcomes[0], name=f"x{bad}", report=Report.of([check]))

    root = parsed(BuildResult(f"r{bad}", (outcome,)))

    assert root.get("name") == "r\N{REPLACEMENT CHARACTER}" + bad[1:]
    assert "b\tc\r\nd" in next(root.iter("failure")).get("message")
    junit(BuildResult(f"r{bad}", (outcome,))).encode()
