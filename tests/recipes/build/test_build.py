"""Builds: what is done, what is remembered, and what a failure leaves."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from in_this_process import InThisProcess, Silent

from scrfdconv.converters import runner
from scrfdconv.converters.artifact import digest_of
from scrfdconv.recipes.artifacts.target import target_of
from scrfdconv.recipes.build import scheduling as build_run
from scrfdconv.recipes.build import step as build_step
from scrfdconv.recipes.build.build import BuildOptions, build, decisions
from scrfdconv.recipes.build.manifest import NAME
from scrfdconv.recipes.build.recipe import Budgets, CheckpointEntry, Recipe, TargetEntry

SHAPE = (64, 96)


def entry(name, precision="fp32", **options):
    return TargetEntry(target=target_of(name, precision, options))


DYNAMIC, FIXED = entry("onnx"), entry("onnx", shape=SHAPE)
HALF = entry("onnx", "fp16", shape=SHAPE)
ENGINE = entry("tensorrt", shape=SHAPE)
ONNX, ONNX_FIXED, ONNX_HALF = "a/a.onnx", "a/a_shape64x96.onnx", "a/a_shape64x96_fp16.onnx"


@pytest.fixture
def here(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(build_run, "Workers", InThisProcess)
    build_step._checkpoint.cache_clear()
    yield
    runner.limit_threads(None)
    torch.set_num_threads(threads)


def recipe_in(folder, weights):
    path = folder / "a.pth"
    shutil.copy(weights, path)
    return Recipe(
        "r", folder / "r.toml", (CheckpointEntry("a", path),), (DYNAMIC, FIXED, HALF),
        latency=False,
    )  # fmt: skip


@pytest.fixture
def recipe(tiny_pth, tmp_path):
    return recipe_in(tmp_path, tiny_pth)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture(scope="module")
def once(tiny_pth, tmp_path_factory):
    """The recipe's build, made once."""
    folder = tmp_path_factory.mktemp("once")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build_run, "Workers", InThisProcess)
        return folder / "out", run(recipe_in(folder, tiny_pth), folder / "out")[0]


@pytest.fixture
def first(once, out):
    """What the first build into ``out`` gave."""
    shutil.copytree(once[0], out)
    return once[1]


def run(recipe, out, **options):
    view = Silent()
    result = build(recipe, out, BuildOptions(**options), view)
    return result, view.ran


def states(result):
    return {outcome.name: outcome.state for outcome in result.outcomes}


def files(out):
    """Everything but times and the lock, with its content."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and "times" not in path.parts and path.name != "lock"
    }


def test_a_build_makes_verifies_and_remembers_every_artifact(here, recipe, out):
    result, ran = run(recipe, out)

    assert states(result) == dict.fromkeys([ONNX, ONNX_FIXED, ONNX_HALF], "built")
    assert ran == [ONNX, ONNX_FIXED, ONNX_HALF]
    assert result.exit_code == 0
    for outcome in result.outcomes:
        assert outcome.sha256 == digest_of(out / outcome.name)
        assert outcome.report.passed
        assert len(outcome.histograms) == 9


def test_an_unchanged_build_runs_nothing_and_says_the_same(here, recipe, out, first):
    before = files(out)

    second, ran = run(recipe, out)

    assert ran == []
    assert set(states(second).values()) == {"cached"}
    assert files(out) == before
    assert [o.report for o in second.outcomes] == [o.report for o in first.outcomes]
    assert [o.seconds for o in second.outcomes] == [o.seconds for o in first.outcomes]


def test_an_unchanged_build_loads_no_heavy_library(here, recipe, out, first):
    """In a process of its own, as it is for a user."""
    code = (
        "import sys, pickle\n"
        "from pathlib import Path\n"
        "from scrfdconv.recipes.build.build import BuildOptions, decisions, build\n"
        "recipe, out = pickle.loads(bytes.fromhex(sys.argv[1]))\n"
        "class View:\n"
        "    planned = started = finished = lambda self, *_: None\n"
        "result = build(recipe, out, BuildOptions(), View())\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'cv2', 'scipy'} & set(sys.modules)\n"
        "sys.exit(str(heavy) if heavy or set(result.counts) != {'cached'} else 0)\n"
    )
    arguments = pickle.dumps((recipe, out)).hex()
    ran = subprocess.run(
        [sys.executable, "-c", code, arguments], capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stderr


# ---------------------------------------------------------------- what is built again


def test_a_damaged_artifact_is_found_and_built_again(here, recipe, out, first):
    good = (out / ONNX_FIXED).read_bytes()
    (out / ONNX_FIXED).write_bytes(good[:-1] + b"x")

    result, ran = run(recipe, out)

    assert ran == [ONNX_FIXED]
    assert (out / ONNX_FIXED).read_bytes() == good
    assert result.passed


def test_a_missing_artifact_is_built_again_alone(here, recipe, out, first):
    (out / ONNX_HALF).unlink()

    _, ran = run(recipe, out)

    assert ran == [ONNX_HALF]


def test_a_damaged_parent_is_built_again_before_its_child(here, recipe, out):
    recipe = replace(recipe, targets=(HALF,))
    run(recipe, out)
    (out / ".scrfdconv/parents" / ONNX_FIXED).unlink()
    (out / ".scrfdconv/parents" / ONNX).unlink()
    (out / ONNX_HALF).unlink()

    _, ran = run(recipe, out)

    assert ran == [f".scrfdconv/parents/{ONNX}", f".scrfdconv/parents/{ONNX_FIXED}", ONNX_HALF]


def test_internal_files_that_nothing_needs_are_not_missed(here, recipe, out):
    recipe = replace(recipe, targets=(HALF,))
    run(recipe, out)
    shutil.rmtree(out / ".scrfdconv/parents")

    _, ran = run(recipe, out)

    assert ran == []


def test_force_builds_everything_to_the_same_bytes(here, recipe, out, first):
    before = files(out)

    _, ran = run(recipe, out, force=True)

    assert ran == [ONNX, ONNX_FIXED, ONNX_HALF]
    assert files(out) == before


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"record_version": 1}', b"\xff"])
def test_a_damaged_record_means_building_again(here, recipe, out, first, content, caplog):
    (out / ".scrfdconv/records" / f"{ONNX_HALF}.json").write_bytes(content)

    result, ran = run(recipe, out)

    assert ran == [ONNX_HALF]
    assert result.passed
    assert "built anew" in caplog.text


def test_leftovers_of_a_killed_build_are_removed(here, recipe, out):
    scratch = out / ".scrfdconv/scratch/a_a.onnx"
    scratch.mkdir(parents=True)
    (scratch / "a.onnx").write_bytes(b"half")

    run(recipe, out)

    assert not (out / ".scrfdconv/scratch").exists()


def test_a_dry_run_says_why_and_touches_nothing(here, recipe, out, first):
    (out / ONNX_FIXED).write_bytes(b"broken")
    before = files(out)
    other = replace(recipe, targets=(DYNAMIC, FIXED, entry("onnx", "fp16", shape=SHAPE, batch=2)))

    found = {d.step.name: d.why for d in decisions(other, out, BuildOptions())}

    assert found == {
        ONNX: "",
        ONNX_FIXED: "its file is damaged",
        ".scrfdconv/parents/a/a_shape64x96_batch2.onnx": "new",
        "a/a_shape64x96_fp16_batch2.onnx": "new",
    }
    assert files(out) == before


# ---------------------------------------------------------------- failures


IMPOSSIBLE = replace(FIXED, budgets=Budgets(max_size_mb=1e-6))


def test_a_failed_artifact_does_not_hide_the_others_and_gets_no_name(here, recipe, out):
    recipe = replace(recipe, targets=(DYNAMIC, IMPOSSIBLE, HALF, entry("torchscript")))

    result, _ = run(recipe, out)

    assert states(result) == {
        ONNX: "built", ONNX_FIXED: "failed", ONNX_HALF: "not run", "a/a.pt": "built"
    }  # fmt: skip
    failed = result.outcomes[1]
    assert [r.metric for r in failed.report.failures] == ["size_mb"]
    assert result.exit_code == 1
    assert sorted(p.name for p in (out / "a").iterdir()) == ["a.onnx", "a.pt"]


def test_a_failed_artifact_leaves_the_old_file_but_not_its_entry(here, recipe, out, first):
    old = (out / ONNX_FIXED).read_bytes()

    run(replace(recipe, targets=(DYNAMIC, IMPOSSIBLE, HALF)), out)

    assert (out / ONNX_FIXED).read_bytes() == old
    entries = json.loads((out / NAME).read_text())["artifacts"]
    assert ONNX_FIXED not in [entry["path"] for entry in entries]


def test_a_failure_is_tried_again_the_next_time(here, recipe, out):
    recipe = replace(recipe, targets=(DYNAMIC, IMPOSSIBLE))
    run(recipe, out)

    _, ran = run(recipe, out)

    assert ran == [ONNX_FIXED]


def test_fail_fast_starts_nothing_more(here, recipe, out):
    first = replace(DYNAMIC, budgets=Budgets(max_size_mb=1e-6))
    recipe = replace(recipe, targets=(first, entry("torchscript")))

    result, ran = run(recipe, out, fail_fast=True)

    assert ran == [ONNX]
    assert states(result) == {ONNX: "failed", "a/a.pt": "not run"}


def test_a_checkpoint_that_does_not_load_fails_with_its_own_code(here, recipe, out):
    recipe.checkpoints[0].path.write_bytes(b"no weights")

    result, _ = run(recipe, out)

    assert result.exit_code == 3
    assert states(result) == {ONNX: "failed", ONNX_FIXED: "not run", ONNX_HALF: "not run"}
    assert "neither a checkpoint" in result.outcomes[0].why


def test_an_engine_is_skipped_with_the_reason_where_tensorrt_is_not(here, recipe, out):
    recipe = replace(recipe, targets=(DYNAMIC, ENGINE))

    result, ran = run(recipe, out)

    assert ran == [ONNX]
    assert result.outcomes[1].state == "skipped"
    assert "tensorrt is not installed" in result.outcomes[1].why
    assert result.exit_code == 0


def test_strict_counts_a_skip_as_a_failure(here, recipe, out):
    result, _ = run(replace(recipe, targets=(DYNAMIC, ENGINE)), out, strict=True)

    assert result.exit_code == 1


def test_a_bug_in_a_step_is_a_failed_step(here, recipe, out, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(build_step, "convert", broken)

    result, _ = run(recipe, out)

    assert result.exit_code == 70
    assert "a bug in scrfdconv: ZeroDivisionError: oops" in result.outcomes[0].why


# ---------------------------------------------------------------- latency, pictures, only


def test_latency_is_measured_against_the_float_model_and_kept(here, recipe, out):
    recipe = replace(recipe, latency=True)
    first, _ = run(recipe, out)

    second, ran = run(recipe, out)

    assert ran == []
    paced = {o.name: o.latency for o in second.outcomes}
    assert paced[ONNX] is None
    assert paced[ONNX_HALF].ratio > 0
    assert paced[ONNX_HALF].shape == (1, *SHAPE)
    assert paced == {o.name: o.latency for o in first.outcomes}


def test_a_latency_budget_that_cannot_be_kept_fails(here, recipe, out):
    slow = replace(HALF, budgets=Budgets(max_latency_ratio=1e-3))

    result, _ = run(replace(recipe, latency=True, targets=(slow,)), out)

    (failed,) = result.outcomes[0].report.failures
    assert (failed.subject, failed.metric) == ("latency", "ratio")


def test_only_keeps_what_the_manifest_says_of_other_artifacts(here, recipe, out, first):
    whole = (out / NAME).read_bytes()

    _, ran = run(recipe, out, only=(ONNX_FIXED,), force=True)

    assert set(ran) == {ONNX, ONNX_FIXED}
    assert (out / NAME).read_bytes() == whole


def test_untrained_networks_calibrate_on_synthetic_pictures(here, out, tmp_path, monkeypatch):
    checkpoint = CheckpointEntry("s", model="scrfd_500m")
    target = entry("onnx", "int8", shape=SHAPE)
    recipe = Recipe("r", tmp_path / "r.toml", (checkpoint,), (target,), latency=False)

    result, _ = run(recipe, out)

    (outcome,) = result.outcomes
    assert outcome.state == "built", outcome.why
    assert any("seeded, not trained" in note for note in outcome.report.notes)
