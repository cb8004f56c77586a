"""Reports of several machines become one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from scrfdconv.checks.reports.files import report_json
from scrfdconv.checks.reports.merge import merge_reports, read_report
from scrfdconv.converters.errors import InputFileError


@pytest.fixture
def saved(tmp_path):
    """Write results as report.json of machines a, b, ... and give the paths."""

    def save(*results):
        paths = [tmp_path / f"{letter}.json" for letter in "abcdef"[: len(results)]]
        for path, result in zip(paths, results, strict=True):
            path.write_text(report_json(result))
        return paths

    return save


@pytest.fixture
def good(small_result):
    """A build of two artifacts."""
    return replace(small_result, outcomes=small_result.outcomes[:2])


def with_outcome(result, **changes):
    return replace(result, outcomes=(replace(result.outcomes[0], **changes),))


def test_parts_become_the_whole(release_result, saved):
    parts = [
        replace(release_result, outcomes=release_result.outcomes[start : start + 30])
        for start in (0, 30, 60)
    ]

    merged = merge_reports(saved(*parts))

    assert [o.name for o in merged.outcomes] == [o.name for o in release_result.outcomes]
    assert merged.summary() == release_result.summary()
    assert merged.exit_code == 1
    assert merged.pictures == release_result.pictures
    assert merged.environment == release_result.environment
    assert merged.command == release_result.command


def test_one_report_stays_what_it_is(small_result, saved):
    assert merge_reports(saved(small_result)).to_dict() == small_result.to_dict()


def test_what_differs_between_machines_is_kept_side_by_side(good, saved):
    other = replace(good, command="scrfdconv build b", environment={"Python": "3.12"}, seconds=1.5)

    merged = merge_reports(saved(good, other))

    assert merged.environment["Python"] == "3.11 | 3.12"
    assert merged.command.splitlines()[-1] == "scrfdconv build b"
    assert merged.seconds == good.seconds + 1.5


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ("built", "cached", "built"), ("cached", "built", "built"), ("skipped", "built", "built"),
        ("built", "skipped", "built"), ("not run", "failed", "failed"),
        ("skipped", "skipped", "skipped"), ("not run", "cached", "cached"),
    ],
)  # fmt: skip
def test_an_artifact_that_two_machines_report_is_there_once(good, saved, first, second, kept):
    paths = saved(with_outcome(good, state=first), with_outcome(good, state=second))

    (outcome,) = merge_reports(paths).outcomes

    assert outcome.state == kept


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sha256": "f" * 64}, "of other content in .*b.json than in .*a.json"),
        ({"state": "failed"}, "failed in .*b.json and built in .*a.json"),
    ],
)
def test_machines_that_contradict_each_other_are_named(good, saved, changes, message):
    with pytest.raises(InputFileError, match=message):
        merge_reports(saved(good, with_outcome(good, **changes)))


def test_one_strict_machine_makes_the_whole_strict(good, saved):
    skipped = with_outcome(good, state="skipped")

    assert merge_reports(saved(skipped, skipped)).exit_code == 0
    assert merge_reports(saved(skipped, replace(skipped, strict=True))).exit_code == 1


def test_another_recipe_is_refused(good, saved):
    with pytest.raises(
        InputFileError, match=r"b\.json: is of the recipe other, .*a\.json of small"
    ):
        merge_reports(saved(good, replace(good, recipe="other")))


def test_another_picture_of_the_same_name_is_refused(good, saved):
    cropped = replace(good, pictures=(replace(good.pictures[0], width=10),))

    with pytest.raises(InputFileError, match=r"t1\.jpg has another size in .*b\.json"):
        merge_reports(saved(good, cropped))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "is no report.json .*expected object, got array"),
        ('{"a": 1}', "missing key report_version"),
        ('{"report_version": 2}', "is a report of version 2, this scrfdconv reads 1"),
        ('{"report_version": "1"}', "report_version: expected int, got str"),
        (
            '{"report_version": 1, "recipe": "r", "outcomes": [], "pictures": [], '
            '"environment": {}, "command": "", "strict": false, "seconds": 1' + "0" * 400 + "}",
            r"\$\.seconds: a number of",
        ),
        ('{"report_version": 1, "recipe": 7}', r"\$\.recipe: expected str, got int"),
    ],
)
def test_what_is_no_report_is_refused_in_a_sentence(tmp_path, content, message):
    path = tmp_path / "report.json"
    path.write_text(content)

    with pytest.raises(InputFileError, match=message):
        read_report(path)


def test_bytes_that_are_no_text_are_refused(tmp_path):
    path = tmp_path / "report.json"
    path.write_bytes(b"\xff\xfe\x00\x01")

    with pytest.raises(InputFileError, match="is no JSON"):
        read_report(path)


def test_the_place_of_damage_is_named(small_result, tmp_path):
    content = json.loads(report_json(small_result))
    content["outcomes"][1]["size"] = "large"
    path = tmp_path / "report.json"
    path.write_text(json.dumps(content))

    with pytest.raises(InputFileError, match=r"outcomes\[1\]\.size: expected int, got str"):
        read_report(path)
