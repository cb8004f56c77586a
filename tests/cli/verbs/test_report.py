"""The verb report, as a process."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from scrfdconv.checks.reports.files import report_json
from scrfdconv.converters.network.architecture import BUILTIN


@pytest.fixture
def parts(small_result, tmp_path):
    """Reports of two machines: one of good artifacts, one with failures."""
    for name, outcomes in (("a", small_result.outcomes[:2]), ("b", small_result.outcomes[2:])):
        text = report_json(replace(small_result, outcomes=outcomes))
        (tmp_path / f"{name}.json").write_text(text)
    return "a.json", "b.json"


def test_merge_writes_all_reports_and_exits_by_the_worst(scrfdconv, parts, tmp_path):
    ran = scrfdconv("report", "merge", *parts, "-o", "merged")

    assert ran.code == 1
    assert "6 artifacts: 1 built, 1 cached, 2 failed, 1 skipped, 1 not run" in ran.out
    assert ran.sentence.startswith("scrfdconv: 3 of 6 artifacts: 1 built, ")
    assert "first scrfd_500m/scrfd_500m_shape640x640_int8.onnx: 4 of 34 checks" in ran.sentence
    names = sorted(path.name for path in (tmp_path / "merged").iterdir())
    assert names == ["junit.xml", "report.html", "report.json", "report.md"]


def test_merge_of_good_reports_is_fine(scrfdconv, parts):
    ran = scrfdconv("report", "merge", parts[0], "-o", "merged", "--json")

    assert ran.code == 0
    assert ran.json["passed"] is True
    assert ran.err == ""


def test_a_summary_and_annotations_go_to_github(scrfdconv, parts, tmp_path):
    summary = tmp_path / "summary.md"
    summary.write_text("before\n")

    ran = scrfdconv(
        "report", "merge", *parts, "--json", GITHUB_STEP_SUMMARY=str(summary), GITHUB_ACTIONS="true"
    )

    assert ran.json["passed"] is False  # stdout is still one object
    assert ran.err.count("::error title=") == 2
    assert ran.err.count("::warning title=") == 2
    assert summary.read_text().startswith("before\n## small")


def test_a_summary_that_cannot_be_written_does_not_change_the_verdict(scrfdconv, parts, tmp_path):
    ran = scrfdconv("report", "merge", parts[0], GITHUB_STEP_SUMMARY=str(tmp_path))

    assert ran.code == 0
    assert "no summary for GitHub" in ran.err


@pytest.mark.parametrize(
    ("content", "code", "sentence"),
    [("{}", 3, "missing key report_version"), (None, 3, "there is no such file")],
)
def test_a_bad_report_is_one_sentence(scrfdconv, tmp_path, content, code, sentence):
    if content is not None:
        (tmp_path / "bad.json").write_text(content)

    ran = scrfdconv("report", "merge", "bad.json", "-o", "merged")

    assert ran.code == code
    assert sentence in ran.sentence
    assert not (tmp_path / "merged").exists()


def entry(path, sha256):
    return {
        "path": path, "sha256": sha256 * 64, "size": 1, "format": "onnx", "precision": "fp32",
        "files": [{"path": path, "sha256": sha256 * 64, "size": 1}],
        "checkpoint": {
            "name": "a", "model": "scrfd_1g", "seed": 0, "sha256": None, "weights_sha256": "0",
            "architecture": BUILTIN["scrfd_1g"].to_dict(),
        },
        "options": {"tolerance": {"loosen": 1.0}}, "checks": [],
    }  # fmt: skip


@pytest.fixture
def folders(parts, tmp_path):
    """The same two reports in folders of their own, with a manifest beside each."""

    def placed(*entries):
        for name, content in zip(("a", "b"), entries, strict=True):
            folder = tmp_path / name
            folder.mkdir()
            (tmp_path / f"{name}.json").rename(folder / "report.json")
            manifest = {"manifest_version": 2, "recipe": "r", "artifacts": [content]}
            (folder / "manifest.json").write_text(json.dumps(manifest))
        return "a/report.json", "b/report.json"

    return placed


def test_manifests_beside_the_reports_become_one(scrfdconv, folders, tmp_path):
    reports = folders(entry("a/x.onnx", "0"), entry("b/x.onnx", "1"))

    scrfdconv("report", "merge", *reports, "-o", "merged")

    merged = json.loads((tmp_path / "merged/manifest.json").read_text())
    assert [found["path"] for found in merged["artifacts"]] == ["a/x.onnx", "b/x.onnx"]


def test_manifests_that_contradict_each_other_are_refused(scrfdconv, folders, tmp_path):
    reports = folders(entry("a/x.onnx", "0"), entry("a/x.onnx", "1"))

    ran = scrfdconv("report", "merge", *reports, "-o", "merged")

    assert ran.code == 3
    assert "a/x.onnx is another file than in a/manifest.json" in ran.sentence
