"""The summary of a CI job and GitHub's annotations."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from scrfdconv.checks.reports.markdown import LARGEST, escape, github_annotations, markdown
from scrfdconv.checks.reports.outcome import BuildResult
from scrfdconv.checks.reports.wording import figure, megabytes


def table_rows(text: str, heading: str) -> list[list[str]]:
    """The cells of the table that starts with ``heading``, without its two first lines."""
    lines = text[text.index(f"| {heading} |") :].partition("\n\n")[0].splitlines()
    cells = [re.split(r"(?<!\\)\|", line)[1:-1] for line in lines]
    assert len({len(row) for row in cells}) == 1, lines
    return [[cell.strip() for cell in row] for row in cells[2:]]


def test_the_verdict_comes_first(small_result, release_result):
    assert markdown(release_result).startswith("## release: ❌ failed\n")
    good = replace(small_result, recipe="good", outcomes=small_result.outcomes[:2])
    assert markdown(good).startswith("## good: ✅ passed\n")


def test_the_matrix_has_a_row_per_checkpoint_and_a_cell_per_artifact(release_result):
    rows = table_rows(markdown(release_result), "checkpoint")

    assert len(rows) == 8
    symbols = "".join(cell for row in rows for cell in row[1:])
    assert symbols.count("✅") == 79
    assert symbols.count("❌") == 1
    assert symbols.count("⏭️") == 8


def test_a_failed_check_has_measured_value_and_limit(small_result):
    rows = table_rows(markdown(small_result), "check")

    assert rows[0][:3] == [r"parity score\_8 max\_abs", "28.7", "at most 0.7"]
    assert rows[1][1] == "NaN"


def test_skips_have_their_reason_once(release_result):
    assert markdown(release_result).count("TensorRT is not installed") == 1


def test_sizes_and_latency_are_there(small_result):
    rows = table_rows(markdown(small_result), "artifact")

    made = [outcome for outcome in small_result.outcomes if outcome.size]
    assert [row[1] for row in rows] == [megabytes(outcome.size) for outcome in made]
    assert [row[4] for row in rows] == [figure(outcome.latency.ratio) for outcome in made]


def test_nothing_in_a_name_or_text_is_markup(small_result):
    text = markdown(small_result)

    # Commands stand in fenced blocks, where nothing is markup.
    outside = re.sub(r"^(`{3,})sh\n.*?\n\1$", "", text, flags=re.DOTALL | re.MULTILINE)
    assert set(re.findall(r"<[^>]*>", outside)) == {
        "<br>", "<details>", "</details>", "<summary>", "</summary>",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b", r"a\|b"), ("a\nb\r\n c", "a b c"), ("*_`[]", r"\*\_\`\[\]"), ("a\\", "a\\\\"),
        ("<b>&", "&lt;b&gt;&amp;"), ("x" * 400, "x" * 300 + "…"),
    ],
)  # fmt: skip
def test_texts_are_shown_literally_on_one_line(text, shown):
    assert escape(text) == shown


def test_a_command_with_a_fence_in_it_stays_in_its_block(small_result):
    text = markdown(replace(small_result, command="echo '\n```\n# heading'"))

    assert "````sh\necho '\n```\n# heading'\n````" in text


def test_a_huge_build_stays_below_githubs_limit(small_result):
    failed = small_result.outcomes[2]
    many = [replace(failed, name=f"{n}/" + "x" * 200, why="y" * 999) for n in range(5000)]

    text = markdown(replace(small_result, outcomes=tuple(many)))

    assert len(text.encode()) < LARGEST + 1000
    assert "report.html" in text
    assert "more artifacts" in text


def test_a_build_of_nothing_has_a_summary(builds):
    assert "nothing was asked for" in markdown(builds["nothing"]())


def test_annotations_are_errors_for_failures_and_warnings_for_skips(small_result):
    lines = list(github_annotations(small_result))

    assert [line.split(" ")[0] for line in lines] == [
        "::error",
        "::warning",
        "::error",
        "::warning",
    ]
    assert lines[0].endswith("28.7, at most 0.7 allowed (largest on mosaic 1x3x640x640)")
    assert "::TensorRT is not installed on this machine" in lines[1]


def test_a_skip_is_an_error_where_it_counts_as_failure(small_result):
    lines = list(github_annotations(replace(small_result, strict=True)))

    assert lines[1].startswith("::error title=skipped%3A ")


def test_annotations_are_escaped_as_github_wants_it(small_result):
    broken = replace(small_result.outcomes[4], name="a:b,c%\r\n", why="100 %\r\na::b, c")

    (line,) = github_annotations(BuildResult("r", (broken,)))

    assert line == (
        "::error title=failed%3A a%3Ab%2Cc%25%0D%0A::100 %25%0D%0Aa::b, c"
    )  # fmt: skip
