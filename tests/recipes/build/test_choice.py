"""A target that is the fastest of several: planned, made from cached steps, remembered."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from in_this_process import InThisProcess, Silent

from scrfdconv.checks.benchmark import Ratio, Timing
from scrfdconv.checks.faces.decode import Faces
from scrfdconv.checks.faces.matching import agreement
from scrfdconv.converters import runner
from scrfdconv.converters.errors import CheckFailed, InputFileError, UsageError
from scrfdconv.recipes.bench import ComparedModel
from scrfdconv.recipes.build import choice, scheduling
from scrfdconv.recipes.build import step as build_step
from scrfdconv.recipes.build.build import BuildOptions, build
from scrfdconv.recipes.build.plan import plan
from scrfdconv.recipes.build.recipe_file import load_recipe
from scrfdconv.recipes.build.verify_manifest import verify_manifest

RECIPE = """
[checkpoints.a]
path = {path}
[images]
test = "photos"
[[targets]]
format = "fastest"
shape = [64, 96]
candidates = ["onnx-fp32", "onnx-fp16"]
budgets = {{ max_face_loss = 1.0 }}
"""
FLOAT, HALF, CHOICE = (
    "a/tiny_shape64x96.onnx",
    "a/tiny_shape64x96_fp16.onnx",
    "a/fastest/tiny_shape64x96",
)


@pytest.fixture
def recipe(tmp_path, tiny_pth, widerface):
    """A recipe of one choice, with more lines if need be."""
    (tmp_path / "photos").symlink_to(widerface / "WIDER_val/images", target_is_directory=True)

    def load(more="", *, without=""):
        text = RECIPE.format(path=json.dumps(str(tiny_pth)))
        lines = [line for line in text.splitlines() if not (without and line.startswith(without))]
        file = tmp_path / "r.toml"
        file.write_text("\n".join(["latency = false", *lines, more]))
        return load_recipe(file)

    return load


@pytest.fixture
def here(monkeypatch):
    threads = torch.get_num_threads()
    monkeypatch.setattr(scheduling, "Workers", InThisProcess)
    monkeypatch.setattr(choice, "DEFAULT_RUNS", 2)
    build_step._checkpoint.cache_clear()
    yield
    runner.limit_threads(None)
    torch.set_num_threads(threads)


def run(recipe, out, **options):
    view = Silent()
    (outcome,) = build(recipe, out, BuildOptions(**options), view).outcomes
    return outcome, view.ran


def test_candidates_are_steps_and_the_choice_needs_them_all(recipe):
    steps = {step.name: step for step in plan(recipe())}

    found = steps[CHOICE]
    assert set(found.candidates) == {f".scrfdconv/parents/{name}" for name in (FLOAT, HALF)}
    assert set(found.candidates) <= set(found.needs)
    assert set(found.files) == {f"{CHOICE}.onnx", f"{CHOICE}_fp16.onnx"}
    assert not found.internal
    assert list(steps)[-1] == CHOICE


def test_a_file_that_is_asked_for_is_the_candidate(recipe):
    more = '[[targets]]\nformat = "onnx"\nshape = [64, 96]\nprecision = ["fp32", "fp16"]'
    steps = {step.name: step for step in plan(recipe(more))}

    assert set(steps[CHOICE].candidates) == {FLOAT, HALF}


def test_the_key_follows_from_the_candidates_the_machine_and_the_pictures(recipe, monkeypatch):
    first = plan(recipe())[-1]

    for name, other in (("cpu_name", lambda: "other"), ("usable_cores", lambda: 99)):
        with monkeypatch.context() as patch:
            patch.setattr(f"scrfdconv.recipes.build.plan.{name}", other)
            assert plan(recipe())[-1].key != first.key
    assert plan(recipe())[-1].key == first.key
    assert plan(recipe("threads = 1"))[-1].key != first.key
    assert first.key != plan(recipe())[0].key


def test_the_choice_is_made_once_and_stands_in_manifest_and_report(here, recipe, tmp_path):
    out = tmp_path / "out"

    first, ran = run(recipe(), out)

    assert first.state == "built", first.why
    assert first.name in (f"{CHOICE}.onnx", f"{CHOICE}_fp16.onnx")
    assert (first.format, first.precision) == ("onnx", "fp16" if "fp16" in first.name else "fp32")
    assert (out / first.name).is_file()
    assert ran[-1] == CHOICE
    assert first.report.passed
    notes = " ".join(first.report.notes)
    assert "tiny_shape64x96.onnx:" in notes
    assert "faces lost or new" in notes
    (report,) = verify_manifest(out / "manifest.json").values()
    assert report.passed
    (entry,) = json.loads((out / "manifest.json").read_text())["artifacts"]
    assert (entry["path"], entry["reproducible"]) == (first.name, False)

    again, ran = run(recipe(), out)

    assert (again.state, again.name, ran) == ("cached", first.name, [])


@pytest.fixture
def paces(monkeypatch):
    """Milliseconds of candidates by precision, in place of a contest; all find one face."""
    paces = {"fp32": 1.0, "fp16": 2.0}
    face = Faces(boxes=np.array([[0.0, 0, 9, 9]]), scores=np.array([0.9]), keypoints=None)

    def compared(name):
        precision = "fp16" if "fp16" in name else "fp32"
        seconds = np.full(2, paces[precision] / 1e3)
        return ComparedModel(
            timing=Timing(name, seconds, seconds, 1, 1, precision),
            ratio=Ratio(1, 1, 1),
            threads=2,
            file_bytes=1,
            format="onnx",
            agreement=agreement([(face, face)]),
        )

    monkeypatch.setattr(
        choice, "compare_speed", lambda models, *_, **__: ([*map(compared, models)], 0)
    )
    return paces


def test_another_choice_replaces_the_files_of_the_one_before(here, recipe, tmp_path, paces):
    out = tmp_path / "out"
    for milliseconds, name in ((0.5, f"{CHOICE}_fp16.onnx"), (2.0, f"{CHOICE}.onnx")):
        paces["fp16"] = milliseconds

        outcome, _ = run(recipe(), out, force=True, only=("*/fastest/*",))

        assert outcome.name == name
        assert [str(path.relative_to(out)) for path in (out / "a/fastest").iterdir()] == [name]
        (report,) = verify_manifest(out / "manifest.json").values()
        assert report.passed, report.summary()


def test_a_candidate_that_fails_costs_only_itself(here, recipe, tmp_path, paces, monkeypatch):
    convert = build_step._convert

    def fails(job, *rest):
        if job.step.target.precision == "fp16":
            raise CheckFailed("is not its source")
        return convert(job, *rest)

    monkeypatch.setattr(build_step, "_convert", fails)

    outcome, _ = run(recipe(), tmp_path / "out", fail_fast=True)

    assert outcome.name == f"{CHOICE}.onnx"
    assert "left out: tiny_shape64x96_fp16.onnx: is not its source" in outcome.report.notes


def test_without_a_candidate_that_keeps_the_faces_the_target_fails(
    here, recipe, tmp_path, paces, monkeypatch
):
    monkeypatch.setattr(choice.Budget, "holds", lambda budget, model: False)

    outcome, _ = run(recipe(), tmp_path / "out")

    assert outcome.state == "failed"
    assert outcome.format == "fastest"
    assert "No candidate keeps the faces within budgets.max_face_loss 1" in outcome.why
    assert "too many" in outcome.why
    assert not list((tmp_path / "out").glob("a/fastest/*"))


@pytest.mark.parametrize(
    ("more", "without", "says"),
    [
        ('precision = "fp16"', "", "precision means nothing for fastest"),
        ("opset = 17", "", "opset means nothing for fastest"),
        ("", "shape", "shape must be [height, width] for fastest"),
        ('shape = "dynamic"', "shape", "shape must be [height, width] for fastest"),
        ("shape = [64, 100]", "shape", "nearest"),
        ('candidates = ["onyx"]', "candidates", "onyx is no candidate; known are onnx"),
        ('format = ["onnx", "fastest"]', "format", "fastest is a choice of formats"),
        ("threads = 0", "", "threads must be a positive integer"),
        ("", "test", "images.test is missing: fastest counts faces"),
        ("[checkpoints.b]\nmodel = 'scrfd_500m'", "", "b, whose seeded weights find none"),
    ],
)
def test_what_means_nothing_is_refused_with_its_place(more, without, says, recipe):
    with pytest.raises(InputFileError) as caught:
        recipe(more, without=without)

    assert says in str(caught.value)
    assert "r.toml" in str(caught.value)


def test_several_machines_cannot_choose(recipe, tmp_path):
    with pytest.raises(UsageError, match="is timed on one machine"):
        build(recipe(), tmp_path / "out", BuildOptions(scheduler="tcp://nowhere:1"), Silent())
