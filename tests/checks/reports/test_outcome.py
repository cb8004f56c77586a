"""A build's result is data: it survives JSON, and owns the verdict."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from scrfdconv.checks.reports.files import report_json
from scrfdconv.checks.reports.outcome import BuildResult, Outcome
from scrfdconv.converters.errors import InputFileError
from scrfdconv.converters.structured import plain_as, to_plain


def test_what_was_written_reads_back(small_result):
    again = BuildResult.from_dict(json.loads(report_json(small_result)))

    assert again.to_dict() == small_result.to_dict()
    assert (
        again.outcomes[0] == small_result.outcomes[0]
    )  # the one without NaN, which equals nothing


def test_every_number_may_be_nan(small_result):
    broken = replace(small_result.outcomes[0].latency, ratio=float("nan"))
    outcome = replace(small_result.outcomes[0], latency=broken, seconds=float("inf"))

    content = json.loads(json.dumps(to_plain(outcome), allow_nan=False))

    assert content["latency"]["ratio"] == "nan"
    assert to_plain(plain_as(content, Outcome, "outcome")) == content


def leaves(value, path=()):
    """Every path to something that is no container, first of each kind of place."""
    if isinstance(value, dict):
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list):
        for index in range(min(len(value), 1)):
            yield from leaves(value[index], (*path, index))
    else:
        yield path


DERIVED = ("passed", "summary")  # what is written for people, and computed anew


def test_a_value_of_another_type_is_refused_with_its_place(small_result):
    text = report_json(small_result)
    paths = [path for path in leaves(json.loads(text)) if path[-1] not in DERIVED]
    for path in paths:
        content = json.loads(text)
        parent = content
        for key in path[:-1]:
            parent = parent[key]
        parent[path[-1]] = ["something else"]

        with pytest.raises(InputFileError, match=rf"\$.*({path[-1]}|environment)"):
            BuildResult.from_dict(content)
    assert len(paths) > 40


@pytest.mark.parametrize("key", ["recipe", "outcomes", "report_version"])
def test_a_missing_key_is_refused(small_result, key):
    content = small_result.to_dict()
    del content[key]

    with pytest.raises(InputFileError, match=key):
        BuildResult.from_dict(content)


def test_a_key_that_nobody_knows_is_refused(small_result):
    content = json.loads(report_json(small_result))
    content["outcomes"][0]["surprise"] = 1

    with pytest.raises(InputFileError, match="surprise"):
        BuildResult.from_dict(content)


@pytest.mark.parametrize(
    ("state", "strict", "passed"),
    [
        ("built", False, True), ("cached", True, True), ("skipped", False, True),
        ("skipped", True, False), ("failed", False, False), ("not run", False, False),
    ],
)  # fmt: skip
def test_the_worst_outcome_decides(small_result, state, strict, passed):
    good = small_result.outcomes[0]

    result = BuildResult("r", (good, replace(good, state=state)), strict=strict)

    assert result.passed is passed
    assert result.exit_code == (0 if passed else 1)


def test_a_build_of_nothing_fails(builds):
    assert builds["nothing"]().exit_code == 1


@pytest.mark.parametrize("counts", [[1], [1, 2, -3]])
def test_a_histogram_that_does_not_fit_its_edges_is_refused(small_result, counts):
    content = to_plain(small_result.outcomes[0])
    content["histograms"][0] |= {"edges": [1.0, 2.0, 3.0, 4.0], "counts": counts}

    with pytest.raises(InputFileError, match="do not go together"):
        plain_as(content, Outcome, "outcome")
