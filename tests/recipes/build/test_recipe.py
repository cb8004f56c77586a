"""Recipes: what they mean, and how every mistake in one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from scrfdconv.converters.errors import InputFileError
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.recipes.build.digests import source_digest
from scrfdconv.recipes.build.recipe import Budgets, Tolerance
from scrfdconv.recipes.build.recipe_file import find_recipe, load_recipe

SMALL = """
[checkpoints.a]
model = "scrfd_500m"

[[targets]]
format = "onnx"
"""


@pytest.fixture
def load(tmp_path):
    def loaded(text: str):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return load_recipe(path)

    return loaded


def test_the_smallest_recipe_is_one_dynamic_float_onnx(load):
    recipe = load(SMALL)

    (target,) = recipe.targets
    assert recipe.name == "recipe"
    assert (target.target.format, target.size, target.target.precision, target.target.batch) == (
        "onnx", "dynamic", "fp32", 1
    )  # fmt: skip


def test_lists_stand_for_all_combinations(load):
    recipe = load(
        SMALL + 'shape = ["dynamic", [640, 640], [480, 640]]\nprecision = ["fp32", "fp16"]\n'
    )

    found = [(t.size, t.target.precision) for t in recipe.targets]
    assert found == [
        ("dynamic", "fp32"), ("dynamic", "fp16"), ("640x640", "fp32"), ("640x640", "fp16"),
        ("480x640", "fp32"), ("480x640", "fp16"),
    ]  # fmt: skip


def test_defaults_hold_where_a_target_says_nothing_else(load):
    recipe = load(
        SMALL
        + '[[targets]]\nformat = "onnx"\nopset = 11\n[defaults]\nopset = 13\n'
        + 'budgets = { max_size_mb = 3 }\ntolerance = { loosen = 2, reason = "old CPUs" }\n'
    )

    assert [entry.target.of(OnnxOptions).opset for entry in recipe.targets] == [13, 11]
    assert recipe.targets[0].budgets == Budgets(max_size_mb=3.0)
    assert recipe.targets[0].tolerance == Tolerance(2.0, "old CPUs")


def test_paths_are_relative_to_the_recipe(load, tmp_path):
    recipe = load(
        '[checkpoints.a]\npath = "weights/a.pth"\n[images]\ntest = ["one", "two"]\n'
        '[[targets]]\nformat = "torchscript"\n'
    )

    assert recipe.checkpoints[0].path == tmp_path / "weights/a.pth"
    assert recipe.test == (tmp_path / "one", tmp_path / "two")


@pytest.mark.parametrize("name", ["release", "smallest"])
def test_the_recipes_that_come_along_are_good(name):
    recipe = load_recipe(find_recipe(name))

    assert recipe.targets
    assert all(checkpoint.seeded for checkpoint in recipe.checkpoints)


def test_the_release_has_all_eight_models_in_every_shape_and_precision():
    recipe = load_recipe(find_recipe("release"))

    assert len(recipe.checkpoints) == 8
    onnx = {(t.size, t.target.precision) for t in recipe.targets if t.target.format == "onnx"}
    assert onnx == {
        (size, precision)
        for size in ("dynamic", "640x640", "480x640")
        for precision in ("fp32", "fp16", "int8")
    }
    others = {"torchscript", "openvino", "ncnn", "tensorrt"}
    assert {t.target.format for t in recipe.targets} == {"onnx", *others}


CHECKPOINT = '[checkpoints.a]\nmodel = "scrfd_500m"\n'


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("x = [", "recipe.toml", "is not TOML"),
        ("", "recipe.toml", "is empty"),
        (SMALL[SMALL.index("\n[[") :], "checkpoints", "missing or empty"),
        (CHECKPOINT, "targets", "missing or empty"),
        (SMALL + "opsets = 3", "targets[1].opsets", "known here are format"),
        (SMALL + '[defaults]\nshap = "dynamic"', "defaults.shap", "is unknown"),
        ("colour = 1\n" + SMALL, "colour", "is unknown"),
        ("version = 2\n" + SMALL, "version", "newer scrfdconv"),
        ('version = "1"\n' + SMALL, "version", "must be an integer"),
        (SMALL + 'opset = "17"', "targets[1].opset", "must be an opset"),
        (SMALL + "opset = true", "targets[1].opset", "must be an opset"),
        (SMALL + "shape = [650, 490]", "targets[1].shape", "640 or 672"),
        (SMALL + "shape = [640]", "targets[1].shape", "[height, width]"),
        (SMALL + "shape = []", "targets[1].shape", "[height, width]"),
        (SMALL + 'precision = ["fp16", "fp16"]', "targets[1].precision", "different"),
        (SMALL + 'precision = "fp8"', "targets[1].precision", "fp32, fp16 or int8"),
        (SMALL + "batch = 4", "targets[1].batch", "needs a fixed shape"),
        (SMALL + 'checkpoints = "b*"', "targets", "no checkpoint matches"),
        (SMALL + "tolerance = { loosen = 3 }", "targets[1].tolerance.reason", "say why"),
        (SMALL + "tolerance = { loosen = 0.5 }", "targets[1].tolerance.loosen", "1 or more"),
        (SMALL + "budgets = { max_size_mb = 0 }", "targets[1].budgets.max_size_mb", "above 0"),
        (SMALL + "budgets = { size = 1 }", "targets[1].budgets.size", "max_size_mb"),
        (
            CHECKPOINT + '[[targets]]\nformat="torchscript"\nbudgets={max_latency_ratio=2}',
            "targets[1].budgets.max_latency_ratio", "is for ONNX",
        ),
        (
            "latency = false\n" + SMALL + "budgets = { max_latency_ratio = 2 }",
            "latency", "max_latency_ratio",
        ),
        (CHECKPOINT + "[[targets]]\nshape = [64, 64]", "targets[1].format", "is missing"),
        (CHECKPOINT + "[targets]\nformat = 1", "targets", "[[targets]]"),
        (CHECKPOINT + 'path = "a.pth"' + SMALL[SMALL.index("\n[[") :], "a.path", "not both"),
        ('[checkpoints.a]\nmodel = "yolo"' + SMALL[SMALL.index("\n[[") :], "a.model", "models"),
        ('[checkpoints.a]\npath="p"\nsha256 = "12"' + SMALL[SMALL.index("\n[[") :], "sha256", "64"),
        ('[checkpoints."../a"]\npath="p"' + SMALL[SMALL.index("\n[[") :], "../a", "folder"),
        (
            '[checkpoints.a]\npath="p"\n[[targets]]\nformat="onnx"\nprecision="int8"',
            "images.calibration", "needs photographs",
        ),
        (
            CHECKPOINT + '[[targets]]\nformat="torchscript"\nprecision="fp16"',
            "targets[1].precision", "TorchScript",
        ),
    ],
)  # fmt: skip
def test_a_mistake_is_named_with_its_place(load, text, place, says):
    with pytest.raises(InputFileError) as caught:
        load(text)

    message = str(caught.value)
    assert "recipe.toml" in message
    assert place in message
    assert says in message
    assert "\n" not in message


def test_a_recipe_that_is_not_there_is_said(tmp_path):
    with pytest.raises(InputFileError, match="no such file"):
        load_recipe(Path(tmp_path, "missing.toml"))


def test_a_checkpoint_may_say_what_pictures_it_wants(load):
    said = SMALL.replace("[[targets]]", 'mean = "1,2,3"\nstd = "1"\ncolor = "bgr"\n[[targets]]')

    (checkpoint,) = load(said).checkpoints

    found = checkpoint.normalization
    assert (found.mean, found.std, found.color) == ((1, 2, 3), (1, 1, 1), "bgr")
    assert source_digest(checkpoint) != source_digest(load(SMALL).checkpoints[0])


@pytest.mark.parametrize("line", ['mean = "x"', 'std = "0"', 'color = "grey"'])
def test_impossible_pictures_are_named(load, line):
    with pytest.raises(InputFileError, match=rf"checkpoints\.a\.{line.split()[0]} is impossible"):
        load(SMALL.replace("[[targets]]", f"{line}\n[[targets]]"))
