"""All reports, or none."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from xml.etree import ElementTree

import pytest

from scrfdconv.checks.reports.files import write_reports
from scrfdconv.checks.reports.outcome import BuildResult
from scrfdconv.converters.errors import OutputError
from scrfdconv.converters.structured import to_plain

NAMES = ["junit.xml", "report.html", "report.json", "report.md"]


def test_all_reports_are_written_into_a_new_folder(small_result, tmp_path):
    folder = tmp_path / "new" / "folder"

    write_reports(small_result, folder)

    assert sorted(path.name for path in folder.iterdir()) == NAMES
    assert json.loads((folder / "report.json").read_text()) == small_result.to_dict()


def test_names_that_are_no_text_can_be_written(small_result, tmp_path):
    odd = replace(small_result.outcomes[0], name="a\udcff.onnx")

    write_reports(replace(small_result, outcomes=(odd,)), tmp_path)

    for path in tmp_path.iterdir():
        path.read_text("utf-8")


def numbers_changed(content, value):
    """``content`` with every number but those of histograms replaced; integers stay integers."""
    if isinstance(content, dict):
        kept = ("report_version", "counts", "edges")
        return {k: v if k in kept else numbers_changed(v, value) for k, v in content.items()}
    if isinstance(content, list):
        return [numbers_changed(item, value) for item in content]
    if type(content) is int:
        return int(value) if math.isfinite(value) else 0
    return value if type(content) is float else content


@pytest.mark.parametrize("value", [0, -1, 1e-300, 1e18, math.nan, math.inf, -math.inf])
def test_no_number_is_too_odd_for_a_report(small_result, tmp_path, value):
    content = json.loads(json.dumps(small_result.to_dict()))

    write_reports(BuildResult.from_dict(to_plain(numbers_changed(content, value))), tmp_path)

    ElementTree.parse(tmp_path / "junit.xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == NAMES


def test_a_file_in_the_way_is_said_so(small_result, tmp_path):
    (tmp_path / "file").touch()

    for place in ("file", "file/below"):
        with pytest.raises(OutputError, match="is no folder, or lies below a file"):
            write_reports(small_result, tmp_path / place)


def test_what_cannot_be_rendered_leaves_older_reports_as_they_were(small_result, tmp_path):
    write_reports(small_result, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        write_reports(replace(small_result, recipe=None), tmp_path)

    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
