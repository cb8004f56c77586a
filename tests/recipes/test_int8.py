"""INT8 from pictures: split, search, plan, and what is said about poor sets."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import pytest

from scrfdconv.checks.faces.coverage import Seen
from scrfdconv.checks.verify import Demand
from scrfdconv.converters.artifact import artifact_at
from scrfdconv.converters.checkpoint.loading import load_checkpoint
from scrfdconv.converters.errors import CheckFailed, InputFileError, UsageError
from scrfdconv.converters.formats.onnx.format import OnnxOptions, onnx_from_checkpoint
from scrfdconv.converters.graph.model_file import serialised
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.recipes.int8.int8 import int8
from scrfdconv.recipes.int8.measuring import split
from scrfdconv.recipes.int8.request import Int8Recipe
from scrfdconv.recipes.int8.search import Judge, search
from scrfdconv.recipes.pictures import load_pictures, mosaics, views

SHAPE = (96, 128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twenty pictures with structure, in which ``tiny`` finds what it takes for faces."""
    path = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(4)
    for i in range(20):
        blocks = draw.integers(0, 256, (6, 8, 3), np.uint8).repeat(16, 0).repeat(16, 1)
        cv2.imwrite(str(path / f"{i:02}.png"), cv2.GaussianBlur(blocks, (0, 0), 1 + i % 4))
    return path


@pytest.fixture(scope="module")
def images(folder):
    return tuple(sorted(folder.glob("*.png")))


@pytest.fixture
def trained(tiny_pth):
    """The tiny network from a file: for the package its weights are trained ones."""
    return load_checkpoint(tiny_pth)


def test_a_seeded_model_is_quantized_without_a_word_about_faces(tiny, images, tmp_path):
    made = int8(tiny, tmp_path / "out.onnx", Int8Recipe(images, SHAPE), Demand(weights=False))

    checks = {result.check for result in made.made.report.results}
    assert made.made.report.passed
    assert made.search is None
    assert not checks & {"faces", "budget"}
    assert any("nothing is said about faces" in note for note in made.notes)


def test_the_budget_is_judged_on_pictures_that_were_held_back(trained, images, tmp_path):
    recipe = Int8Recipe(images, SHAPE, max_face_loss=0.2)

    made = int8(trained, tmp_path / "out.onnx", recipe, Demand(weights=False))

    assert "calibrated on 15 pictures, judged on 5 others" in " ".join(made.notes)
    assert made.search.rounds[0].found.images == 25  # five views each
    assert {r.metric for r in made.made.report.results if r.check == "budget"} == {"lost", "extra"}
    assert made.made.report.passed


@pytest.mark.parametrize(("count", "held"), [(16, 4), (24, 6), (96, 24), (300, 25)])
def test_some_pictures_of_each_kind_are_held_back_and_never_hundreds(count, held):
    faces = [Seen({8: i % 7}, 0.1) for i in range(count)]

    parts = split(faces)

    assert len(parts.held) == held
    assert sorted((*parts.inside, *parts.held)) == list(range(count))
    assert len({faces[i].faces for i in parts.held}) >= min(held, 6)


def test_few_pictures_are_judged_on_themselves_and_warned_about(trained, images, tmp_path):
    recipe = Int8Recipe(images[:3], SHAPE, max_face_loss=0.3)

    made = int8(trained, tmp_path / "out.onnx", recipe, None)

    assert "only 3 calibration pictures" in made.warnings[0]
    assert any("judged on the calibration pictures" in note for note in made.notes)
    assert any("mosaics" in note for note in made.notes)


def test_a_budget_that_cannot_be_kept_fails_with_its_rounds(trained, images, tmp_path):
    out = tmp_path / "out.onnx"
    recipe = Int8Recipe(images, SHAPE, max_face_loss=0.0, max_rounds=2)

    with pytest.raises(CheckFailed, match=r"after 3 rounds .* 0 allowed") as failed:
        int8(trained, out, recipe, None)

    assert not failed.value.report.passed
    assert not out.exists()


def test_layers_go_back_to_float_until_the_budget_holds(trained, images, tmp_path):
    made = int8(trained, tmp_path / "a.onnx", Int8Recipe(images, SHAPE, max_face_loss=1.0), None)
    parent = tmp_path / "parent.onnx"
    parent.write_bytes(serialised(onnx_from_checkpoint(trained, OnnxOptions(SHAPE))))
    canvases = load_pictures(images[:6], SHAPE).canvases
    strict = Judge.of(OnnxRunner(parent), canvases, 0.0)

    found = search(artifact_at(parent, "onnx"), [made.options], strict, canvases, 100)

    assert len(found.rounds) > 2
    assert not found.rounds[-2].found.recall == found.rounds[-2].found.precision == 1
    assert found.rounds[-1].found.recall == found.rounds[-1].found.precision == 1
    assert len(found.options.sensitive) == len(found.rounds) - 1
    assert [r.sqnr for r in found.rounds[1:]] == sorted(r.sqnr for r in found.rounds[1:])


def test_a_plan_repeats_the_bytes_without_pictures(tiny, images, tmp_path):
    plan = tmp_path / "plan.json"
    first = int8(tiny, tmp_path / "a.onnx", Int8Recipe(images, SHAPE, plan=plan), None)
    again = int8(tiny, tmp_path / "b.onnx", Int8Recipe((), SHAPE, plan=plan), None)

    assert again.replayed
    assert not first.replayed
    assert first.made.artifact.digest == again.made.artifact.digest


def test_a_plan_of_something_else_is_refused(tiny, tiny_gn, images, tmp_path):
    plan = tmp_path / "plan.json"
    recipe = Int8Recipe(images[:2], SHAPE, plan=plan)
    int8(tiny, tmp_path / "a.onnx", recipe, None)

    with pytest.raises(InputFileError, match="plan of another source"):
        int8(tiny_gn, tmp_path / "b.onnx", recipe, None)
    with pytest.raises(UsageError, match="made for 96x128, not 64x96"):
        int8(tiny, tmp_path / "b.onnx", replace(recipe, shape=(64, 96)), None)
    with pytest.raises(UsageError, match="--target cpu"):
        int8(tiny, tmp_path / "b.onnx", replace(recipe, target="tensorrt"), None)
    plan.write_text(json.dumps({"scrfdconv_int8_plan": 99}))
    with pytest.raises(InputFileError, match="no INT8 plan"):
        int8(tiny, tmp_path / "b.onnx", recipe, None)


def test_a_calibration_table_is_reused(tiny, images, tmp_path):
    table = tmp_path / "table.json"
    first = int8(tiny, tmp_path / "a.onnx", Int8Recipe(images, SHAPE, save_calibration=table), None)

    again = int8(
        tiny, tmp_path / "b.onnx", Int8Recipe(images[:2], SHAPE, calibration_table=table), None
    )

    assert first.made.artifact.digest == again.made.artifact.digest


def test_a_dynamic_model_stays_dynamic(tiny, images, tmp_path):
    recipe = Int8Recipe(images[:2], calibration_size=SHAPE)

    made = int8(tiny, tmp_path / "out.onnx", recipe, Demand(weights=False))

    assert made.made.report.passed
    assert OnnxRunner(made.made.artifact.path).interface.shape is None
    assert made.options.table.shape == SHAPE


def test_auto_tries_every_calibrator(trained, images, tmp_path):
    recipe = Int8Recipe(images, SHAPE, calibrator="auto", max_face_loss=1.0)

    made = int8(trained, tmp_path / "out.onnx", recipe, None)

    assert made.options.table.calibrator in ("minmax", "entropy", "percentile")
    assert made.search.holds


def test_unreadable_pictures_are_counted_and_named(images, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(images[0].read_bytes()[:200])

    found = load_pictures([images[0], *sorted(tmp_path.iterdir())], SHAPE)

    assert len(found) == 1
    assert "2 unreadable files skipped" in found.notes()[0]
    with pytest.raises(InputFileError, match="None of the 2 pictures can be read"):
        load_pictures(sorted(tmp_path.iterdir()), SHAPE)


def test_pictures_of_any_kind_are_read(tmp_path):
    dot, line, deep, alpha = (tmp_path / f"{i}.png" for i in range(4))
    cv2.imwrite(str(dot), np.zeros((1, 1, 3), np.uint8))
    cv2.imwrite(str(line), np.zeros((20, 20000, 3), np.uint8))
    cv2.imwrite(str(deep), np.full((9, 9), 40000, np.uint16))
    cv2.imwrite(str(alpha), np.full((9, 9, 4), 99, np.uint8))

    found = load_pictures([dot, line, deep, alpha], SHAPE)

    assert [canvas.shape for canvas in found.canvases] == [(*SHAPE, 3)] * 4
    assert found.skipped == ()


def test_the_views_and_mosaics_of_a_picture_keep_its_size(images):
    canvases = load_pictures(images[:5], SHAPE).canvases

    seen, tiled = views(canvases[0]), mosaics(canvases)

    assert {view.shape for view in (*seen, *tiled)} == {(*SHAPE, 3)}
    np.testing.assert_array_equal(seen[1], canvases[0][:, ::-1])
    assert not seen[2][48:].any()
    assert len(tiled) == 3  # 2 with four pictures each, 1 with sixteen
