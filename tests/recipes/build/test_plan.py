"""Plans: what is made from what, and which change reaches which artifact."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from scrfdconv.converters.errors import InputFileError, UsageError
from scrfdconv.recipes.artifacts.target import target_of
from scrfdconv.recipes.build import plan as planning
from scrfdconv.recipes.build.plan import artifact_name, plan
from scrfdconv.recipes.build.recipe import (
    Budgets,
    CheckpointEntry,
    Recipe,
    TargetEntry,
    Tolerance,
)

SHAPE = (64, 96)
ENTRY = CheckpointEntry("a", model="scrfd_500m")


def entry(name, precision="fp32", budgets=None, **options) -> TargetEntry:
    target = target_of(name, precision, options)
    return TargetEntry(target=target, budgets=budgets or Budgets())


def recipe(*targets: TargetEntry, checkpoints=(ENTRY,), **more) -> Recipe:
    return Recipe("r", None, tuple(checkpoints), targets, **more)


def keys(of: Recipe) -> dict[str, str]:
    return {step.name: step.key for step in plan(of)}


def changed(before: Recipe, after: Recipe) -> set[str]:
    old, new = keys(before), keys(after)
    assert old.keys() == new.keys()
    return {name.partition("_")[2] for name in old if old[name] != new[name]}


ALL = [
    entry("onnx", precision, shape=shape)
    for shape in (None, SHAPE)
    for precision in ("fp32", "fp16", "int8")
] + [entry("torchscript")]


def test_every_artifact_is_made_from_the_nearest_one():
    parents = {step.name: step.parent for step in plan(recipe(*ALL))}

    stem = "a/scrfd_500m-seeded"
    assert parents == {
        f"{stem}.onnx": None,
        f"{stem}_fp16.onnx": f"{stem}.onnx",
        f"{stem}_int8.onnx": f"{stem}.onnx",
        f"{stem}_shape64x96.onnx": f"{stem}.onnx",
        f"{stem}_shape64x96_fp16.onnx": f"{stem}_shape64x96.onnx",
        f"{stem}_shape64x96_int8.onnx": f"{stem}_shape64x96.onnx",
        f"{stem}.pt": None,
    }


def test_what_nobody_asked_for_is_an_internal_step_and_made_once():
    steps = plan(recipe(entry("onnx", "fp16", shape=SHAPE), entry("onnx", "int8", shape=SHAPE)))

    assert [(step.name, step.internal) for step in steps] == [
        (".scrfdconv/parents/a/scrfd_500m-seeded.onnx", True),
        (".scrfdconv/parents/a/scrfd_500m-seeded_shape64x96.onnx", True),
        ("a/scrfd_500m-seeded_shape64x96_fp16.onnx", False),
        ("a/scrfd_500m-seeded_shape64x96_int8.onnx", False),
    ]


def test_a_plan_is_the_same_every_time():
    assert keys(recipe(*ALL)) == keys(recipe(*ALL))


@pytest.mark.parametrize(
    ("target", "name"),
    [
        (entry("onnx"), "scrfd_500m-seeded.onnx"),
        (
            entry("onnx", "fp16", shape=SHAPE, batch=4),
            "scrfd_500m-seeded_shape64x96_fp16_batch4.onnx",
        ),
        (entry("onnx", opset=13), "scrfd_500m-seeded_opset13.onnx"),
        (entry("onnx", opset=17), "scrfd_500m-seeded.onnx"),
        (entry("onnx", exporter="dynamo"), "scrfd_500m-seeded_dynamo.onnx"),
        (entry("torchscript", shape=SHAPE), "scrfd_500m-seeded_shape64x96.pt"),
        (entry("tensorrt", "fp16", shape=SHAPE), "scrfd_500m-seeded_shape64x96_fp16.engine"),
    ],
)
def test_names_say_what_is_special(target, name):
    assert artifact_name(ENTRY, target.target) == f"a/{name}"


def test_one_name_for_two_targets_is_refused():
    with pytest.raises(UsageError, match="asked for twice, first a/scrfd_500m"):
        plan(recipe(entry("onnx"), entry("onnx", opset=17)))


def test_only_takes_patterns_of_names_with_what_they_need():
    steps = plan(recipe(*ALL), ["a/*fp16.onnx"])

    assert [step.name.removeprefix("a/scrfd_500m-seeded") for step in steps] == [
        ".onnx", "_fp16.onnx", "_shape64x96.onnx", "_shape64x96_fp16.onnx",
    ]  # fmt: skip


def test_only_that_matches_nothing_is_refused():
    with pytest.raises(UsageError, match="--only b/\\*: matches no artifact"):
        plan(recipe(*ALL), ["b/*"])


# ---------------------------------------------------------------- what a change reaches

EVERYTHING = {
    "500m-seeded.onnx", "500m-seeded_fp16.onnx", "500m-seeded_int8.onnx",
    "500m-seeded_shape64x96.onnx", "500m-seeded_shape64x96_fp16.onnx",
    "500m-seeded_shape64x96_int8.onnx", "500m-seeded.pt",
}  # fmt: skip
ONNX = EVERYTHING - {"500m-seeded.pt"}


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "scrfd_500m-seeded.pth"
    path.write_bytes(b"weights")
    return CheckpointEntry("a", path)


def test_another_checkpoint_reaches_everything(checkpoint):
    before = recipe(*ALL, checkpoints=[checkpoint])
    old = keys(before)
    checkpoint.path.write_bytes(b"others")

    new = keys(before)

    assert all(old[name] != new[name] for name in new)


def test_a_seed_reaches_everything():
    before = recipe(*ALL)
    (entry,) = (replace(c, seed=0, model="scrfd_1g") for c in before.checkpoints)

    other = {step.key for step in plan(replace(before, checkpoints=(entry,)))}

    assert other.isdisjoint(keys(before).values())


def test_one_checkpoint_of_two_reaches_only_its_own(checkpoint):
    second = CheckpointEntry("b", model="scrfd_500m")
    before = recipe(*ALL, checkpoints=[checkpoint, second])
    old = keys(before)
    checkpoint.path.write_bytes(b"others")

    new = keys(before)

    assert {name for name in new if old[name] != new[name]} == {
        name for name in new if name.startswith("a/")
    }


def test_a_tolerance_reaches_its_own_artifact_alone():
    loose = replace(ALL[0], tolerance=Tolerance(2, "because"))

    assert changed(recipe(*ALL), recipe(loose, *ALL[1:])) == {"500m-seeded.onnx"}


def test_a_face_budget_reaches_int8_alone():
    strict = entry("onnx", "int8", Budgets(max_face_loss=0.0), max_face_loss=0.0)

    assert changed(recipe(*ALL), recipe(*ALL[:2], strict, *ALL[3:])) == {"500m-seeded_int8.onnx"}


def pictures(folder, content=b"1"):
    folder.mkdir(exist_ok=True)
    (folder / "one.png").write_bytes(content)
    return (folder,)


def test_calibration_pictures_reach_what_has_fewer_bits(tmp_path):
    before = recipe(*ALL, calibration=pictures(tmp_path / "c"))
    old = keys(before)
    pictures(tmp_path / "c", b"2")

    new = keys(before)

    assert {n for n in new if old[n] != new[n]} == {n for n in new if "int8" in n or "fp16" in n}


def test_test_pictures_reach_everything_that_is_measured_on_them(tmp_path, checkpoint):
    before = recipe(*ALL, checkpoints=[checkpoint], test=pictures(tmp_path / "t"))
    old = keys(before)
    contents = {step.name: step.content for step in plan(before)}
    pictures(tmp_path / "t", b"2")

    assert all(old[name] != key for name, key in keys(before).items())
    assert contents == {step.name: step.content for step in plan(before)}  # no file changes


@pytest.mark.parametrize(
    ("library", "reached"),
    [
        ("onnxsim", ONNX),  # it makes the float ONNX, from which the others are made
        ("onnxconverter-common", {n for n in EVERYTHING if "fp16" in n}),
        ("torch", EVERYTHING),
    ],
)
def test_a_library_reaches_what_is_made_or_measured_with_it(monkeypatch, library, reached):
    before = keys(recipe(*ALL))
    real = planning.library_version
    monkeypatch.setattr(
        planning, "library_version", lambda name: "99" if name == library else real(name)
    )

    after = keys(recipe(*ALL))

    found = {name.partition("_")[2] for name in after if before[name] != after[name]}
    assert found == reached


def test_own_code_reaches_everything(monkeypatch):
    before = keys(recipe(*ALL))
    monkeypatch.setattr(planning, "code_digest", lambda: "other")

    after = keys(recipe(*ALL))

    assert all(before[name] != after[name] for name in after)


# ---------------------------------------------------------------- bad input


def test_a_checkpoint_of_another_digest_is_refused(checkpoint):
    pinned = replace(checkpoint, sha256="0" * 64)

    with pytest.raises(InputFileError, match=r"the recipe expects 000000000000\.\.\."):
        plan(recipe(*ALL, checkpoints=[pinned]))


def test_a_missing_checkpoint_is_refused(tmp_path):
    with pytest.raises(InputFileError, match="no such file"):
        plan(recipe(*ALL, checkpoints=[CheckpointEntry("a", tmp_path / "gone.pth")]))


def test_options_are_plain_types():
    for step in plan(recipe(*ALL)):
        json.dumps(dict(step.ingredients))
