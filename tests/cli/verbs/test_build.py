"""The verb build as a user, a CI system and a power cut meet it."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from scrfdconv.recipes.build.manifest import SCHEMA

RECIPE = """
[checkpoints.tiny]
path = "tiny.pth"

[[targets]]
format = "onnx"
shape = ["dynamic", [64, 96]]
precision = ["fp32", "fp16"]

[[targets]]
format = "torchscript"
"""
ARTIFACTS = 5


def recipe_in(folder: Path, weights: Path) -> Path:
    (folder / "tiny.pth").symlink_to(weights)
    path = folder / "recipe.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture
def recipe(tiny_pth, tmp_path) -> Path:
    return recipe_in(tmp_path, tiny_pth)


@pytest.fixture(scope="module")
def once(tiny_pth, tmp_path_factory) -> tuple[int, Path, str, str]:
    """The first build of the recipe, as a process: its exit code, folder, stdout and stderr."""
    folder = tmp_path_factory.mktemp("once")
    process = start(recipe_in(folder, tiny_pth), folder / "out", "--insightface")
    out, err = process.communicate(timeout=300)
    return process.returncode, folder / "out", out, err


@pytest.fixture
def built(once, tmp_path) -> Path:
    """What it left, to work on."""
    shutil.copytree(once[1], tmp_path / "out")
    return tmp_path / "out"


def files(out: Path) -> dict[str, bytes]:
    """Everything that a build leaves but times: the reports, which have some, among it."""
    timed = {"report.json", "report.html", "report.md", "junit.xml", "lock"}
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.name not in timed and "times" not in path.parts
    }


def start(recipe, out, *options) -> subprocess.Popen:
    command = [sys.executable, "-m", "scrfdconv.cli", "build", recipe, "-o", out, *options]
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


# ---------------------------------------------------------------- what is left


def test_a_build_leaves_artifacts_a_manifest_and_reports(once):
    code, out, said, err = once

    assert code == 0, err
    assert "5 artifacts: 5 built" in said
    assert sum(line.startswith("[") for line in err.splitlines()) == ARTIFACTS
    assert {p.name for p in out.iterdir()} == {
        ".scrfdconv", "tiny", "manifest.json", "report.json", "report.md", "report.html",
        "junit.xml", "insightface",
    }  # fmt: skip
    manifest = json.loads((out / "manifest.json").read_text())
    schema = json.loads(SCHEMA.read_text())
    Draft202012Validator.check_schema(schema)
    Draft202012Validator(schema).validate(manifest)
    assert len(manifest["artifacts"]) == ARTIFACTS
    assert str(out.parent) not in (out / "manifest.json").read_text()


def test_json_is_the_report_and_the_second_run_is_cached(scrfdconv, recipe, built):
    ran = scrfdconv("build", recipe, "-o", "out", "--json")

    assert ran.json["summary"] == "5 artifacts: 5 cached"
    assert ran.json == json.loads((built / "report.json").read_text())


def test_a_dry_run_shows_the_graph_and_writes_nothing(scrfdconv, recipe, tmp_path):
    ran = scrfdconv("build", recipe, "-o", "out", "--dry-run")

    assert ran.code == 0
    assert "run   tiny/tiny_fp16.onnx  (new)  from tiny/tiny.onnx" in ran.out
    assert "5 of 5 steps would run" in ran.out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["--jobs=2", "--matrix", "--dry-run"])
def test_a_cluster_and_what_it_would_not_use_are_refused(in_process, recipe, option):
    ran = in_process("build", recipe, "--scheduler", "tcp://127.0.0.1:9", option)

    assert ran.code == 2
    assert "--scheduler" in ran.sentence


def test_the_matrix_is_one_line_for_each_checkpoint(scrfdconv, recipe):
    ran = scrfdconv("build", recipe, "--matrix")

    assert ran.json == {"include": [{"name": "tiny", "only": "tiny/*", "artifacts": ARTIFACTS}]}
    assert len(ran.out.splitlines()) == 1


def test_init_writes_a_recipe_that_builds(scrfdconv, tiny_pth, tmp_path):
    assert scrfdconv("build", "--init", tiny_pth, "-o", "mine.toml").code == 0

    ran = scrfdconv("build", "mine.toml", "--dry-run")

    assert ran.code == 0, ran.err
    assert "4 of 4 steps would run" in ran.out
    again = scrfdconv("build", "--init", tiny_pth, "-o", "mine.toml")
    assert again.code == 2
    assert "is there already" in again.sentence


def test_a_package_for_insightface_has_what_it_reads(once):
    folder = once[1] / "insightface/models/tiny"
    manifest = json.loads((folder / "manifest.json").read_text())
    detection = manifest["tasks"]["detection"]
    assert manifest["manifest_version"] == 2
    assert (folder / manifest["license"]).is_file()
    assert detection["preprocessing"] == {"mean": 127.5, "std": 128.0}
    content = (folder / detection["file"]).read_bytes()
    assert hashlib.sha256(content).hexdigest() == detection["sha256"]


@pytest.mark.slow
def test_github_gets_a_summary_and_annotations(scrfdconv, recipe, tmp_path):
    recipe.write_text(RECIPE + "budgets = { max_size_mb = 0.001 }\n")
    summary = tmp_path / "summary.md"

    ran = scrfdconv(
        "build", recipe, "-o", "out", "--only", "*.pt", GITHUB_ACTIONS="true",
        GITHUB_STEP_SUMMARY=str(summary),
    )  # fmt: skip

    assert ran.code == 1
    assert "::error" in ran.err
    assert "tiny/tiny.pt" in summary.read_text()
    assert "size_mb" in ran.sentence


# ---------------------------------------------------------------- verify manifest.json


def test_a_manifest_verifies_its_folder_and_measures_anew(scrfdconv, recipe, built, tmp_path):
    manifest = built / "manifest.json"

    assert scrfdconv("verify", manifest).code == 0
    again = scrfdconv("verify", manifest, "--rerun", "--reference", tmp_path, "--json")
    lost = scrfdconv("verify", manifest, "--rerun", "--reference", built)
    damaged = built / "tiny/tiny_fp16.onnx"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    bad = scrfdconv("verify", manifest)

    assert again.code == 0, again.err
    assert again.json["passed"]
    assert all(len(r["results"]) > 40 for r in again.json["artifacts"].values())
    assert lost.code == 3
    assert "name it or its folder with --reference" in lost.sentence
    assert bad.code == 1
    assert "1 of 5 artifacts failed, first tiny/tiny_fp16.onnx" in bad.sentence


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "{}", '{"manifest_version": 3, "artifacts": []}',
        '{"manifest_version": 2, "artifacts": [{"path": "../x"}]}',
        '{"manifest_version": 2, "artifacts": 3}',
    ],
)  # fmt: skip
def test_a_file_that_is_no_manifest_is_refused(scrfdconv, tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)

    ran = scrfdconv("verify", "manifest.json")

    assert ran.code == 3
    assert "manifest.json" in ran.sentence


def test_an_empty_manifest_proves_nothing(scrfdconv, tmp_path):
    (tmp_path / "manifest.json").write_text('{"manifest_version": 2, "artifacts": []}')

    assert scrfdconv("verify", "manifest.json").code == 1


# ---------------------------------------------------------------- bad input


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        (("tiny.pth", "gone.pth"), 3, "gone.pth: there is no such file"),
        (
            ('"tiny.pth"', f'"tiny.pth"\nsha256 = "{"0" * 64}"'),
            3,
            "the recipe expects 000000000000",
        ),
        (("[[targets]]", "[[target]]"), 3, "target is unknown; known here are"),
        (("[64, 96]", "[65, 96]"), 3, "targets[1].shape"),
        (('"fp16"]', '"fp16", "int8"]'), 3, "images.calibration is missing"),
        (("[checkpoints", "version = 9\n[checkpoints"), 3, "made for a newer scrfdconv"),
        (('"torchscript"', '"onnx"'), 2, "asked for twice, first tiny/tiny.onnx"),
        (('format = "torchscript"', "format = ["), 3, "is not TOML"),
    ],
)
def test_a_bad_recipe_is_one_sentence_and_builds_nothing(
    scrfdconv, recipe, tmp_path, change, code, says
):
    recipe.write_text(RECIPE.replace(*change))

    ran = scrfdconv("build", recipe, "-o", "out")

    assert ran.code == code, ran.err
    assert says in ran.sentence
    assert not (tmp_path / "out").exists()


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), "give one RECIPE"),
        (("a.toml", "b.toml"), "give one RECIPE"),
        (("recipe.toml", "--only", "x*"), "--only x*: matches no artifact"),
        (("recipe.toml", "-o", "recipe.toml"), "recipe.toml"),
        (("recipe.toml", "-o", "recipe.toml/out"), "recipe.toml"),
    ],
)
def test_wrong_usage_is_said(scrfdconv, recipe, options, says):
    ran = scrfdconv("build", *options)

    assert ran.code == 2, ran.err
    assert says in ran.sentence


@pytest.mark.parametrize(
    ("content", "cause"),
    [
        (b"text", "is neither a checkpoint"),
        (b"PK\x03\x04 cut off", "damaged or truncated"),
    ],
)
def test_the_first_cause_comes_first_and_gives_the_exit_code(
    in_process, recipe, tmp_path, content, cause
):
    (tmp_path / "tiny.pth").unlink()
    (tmp_path / "tiny.pth").write_bytes(content)

    ran = in_process("build", recipe, "-o", "out", "--json", cwd=tmp_path)

    outcomes = ran.json["outcomes"]
    assert ran.code == 3
    assert cause in ran.sentence
    assert [outcome["state"] for outcome in outcomes].count("not run") > 0
    assert len(outcomes) == ARTIFACTS
    for outcome in outcomes:
        assert outcome["why"].startswith(f"{tmp_path / 'tiny.pth'}: ")
        assert cause in outcome["why"]
        assert outcome["exit_code"] == 3


# ---------------------------------------------------------------- kills, neighbours, jobs


@pytest.mark.slow
def test_ten_kills_change_nothing(recipe, tmp_path, monkeypatch):
    """SIGKILL at random moments, then run to the end: as if nothing had happened."""
    undisturbed, out = tmp_path / "undisturbed", tmp_path / "out"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    begun = time.monotonic()
    start(recipe, undisturbed, "--jobs", 2).communicate(timeout=300)
    whole = time.monotonic() - begun
    moments = random.Random(0)

    for turn in range(10):
        process = start(recipe, out, "--jobs", 2)
        time.sleep(moments.uniform(0.1, whole))
        process.kill()
        process.communicate()
        if (out / "manifest.json").exists() and moments.random() < 0.5:
            moved = out.rename(tmp_path / f"done{turn}")  # it got through: begin again
            assert files(moved).keys() >= {"manifest.json"}
    last = start(recipe, out, "--jobs", 2)
    _, err = last.communicate(timeout=300)

    assert last.returncode == 0, err
    assert files(out) == files(undisturbed)
    assert not [path for path in out.rglob("*") if "scratch" in path.parts]
    assert not list(out.rglob("*.part"))
    assert not list(temporary.glob("scrfdconv-*"))
    assert not _workers_of(out)


def _workers_of(out: Path) -> list[str]:
    """Processes that still have a build of this folder on their command line, or its files open."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if str(out) in (folder / "cmdline").read_text() and folder.name != str(os.getpid()):
                found.append(folder.name)
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_two_builds_at_once_in_one_folder_do_not_harm_each_other(recipe, tmp_path):
    pair = [start(recipe, tmp_path / "out") for _ in range(2)]

    ends = [process.communicate(timeout=300) for process in pair]

    assert [process.returncode for process in pair] == [0, 0], ends
    summaries = sorted(out.split("  ")[0] for out, _ in ends)
    assert summaries == ["5 artifacts: 5 built", "5 artifacts: 5 cached"]


@pytest.mark.slow
def test_another_folder_and_another_number_of_jobs_give_the_same_bytes(recipe, tmp_path):
    for name, jobs in (("one", 1), ("two", 2)):
        process = start(recipe, tmp_path / name, "--jobs", jobs)
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err

    assert files(tmp_path / "one") == files(tmp_path / "two")


@pytest.mark.slow
def test_an_interrupted_build_goes_on_where_it_was(recipe, tmp_path):
    out = tmp_path / "out"
    process = start(recipe, out, "--jobs", 1)
    assert process.stderr.readline().startswith("[1/5] built")

    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    again = start(recipe, out)
    rest, _ = again.communicate(timeout=300)

    assert process.returncode == 130
    assert "Traceback" not in err
    assert not (out / ".scrfdconv/scratch").exists()
    assert "cached" in rest
    assert again.returncode == 0
