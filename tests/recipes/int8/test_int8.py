"""INT8 from pictures: split, search, plan, and what is said about poor sets."""

from __future__ import annotations

import json
from dataclasses import replace

import cv2
import numpy as np
import onnx
import pytest

from scrfdconv.checks.faces.coverage import FacesSeen
from scrfdconv.checks.faces.limits import LIMITS
from scrfdconv.checks.faces.matching import agreement
from scrfdconv.checks.verification import Demand
from scrfdconv.converters.checkpoint.loading import load_checkpoint
from scrfdconv.converters.errors import CheckFailed, InputFileError, UsageError
from scrfdconv.converters.formats import formats
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.graph.model_file import serialised
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.recipes.artifacts.conversion import convert
from scrfdconv.recipes.artifacts.target import target_of
from scrfdconv.recipes.faces.pictures import load_pictures, mosaics, views
from scrfdconv.recipes.int8.conversion import Int8Conversion
from scrfdconv.recipes.int8.measuring import split
from scrfdconv.recipes.int8.plan import load_plan
from scrfdconv.recipes.int8.search import Judge, search
from scrfdconv.recipes.order import Order, silent

SHAPE = (96, 128)


def int8(source, out, images, demand=None, shape=SHAPE, **options):
    target = target_of("onnx", "int8", {"shape": shape, **options})
    return convert(source, target, out, demand, images=tuple(images))


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


@pytest.mark.slow
def test_a_seeded_model_is_quantized_without_a_word_about_faces(tiny, images, tmp_path):
    made = int8(tiny, tmp_path / "out.onnx", images, Demand(weights=False))

    checks = {result.check for result in made.report.results}
    assert made.report.passed
    assert not made.facts["rounds"]
    assert not checks & {"faces", "budget"}
    assert any("nothing is said about faces" in note for note in made.notes)


def test_the_budget_is_judged_on_pictures_that_were_held_back(trained, tiny_onnx, images, tmp_path):
    # The head alone is quantized: with weights of 7 bits, as processors without VNNI need them, the
    # noise of all layers is too much for the faces that an untrained network sees.
    convolutions = [n.name for n in onnx.load(tiny_onnx).graph.node if n.op_type == "Conv"]
    kept = tuple(name for name in convolutions if "bbox_head" not in name)
    options = {"max_face_loss": 0.2, "keep_float": kept}

    made = int8(trained, tmp_path / "out.onnx", images, Demand(weights=False), **options)

    assert "calibrated on 15 pictures, judged on 5 others" in " ".join(made.notes)
    budget = [r for r in made.report.results if r.check == "budget"]
    assert all("in 25 views" in r.detail for r in budget)  # five views each
    assert {r.metric for r in budget} == {"lost", "extra"}
    assert made.report.passed


@pytest.mark.parametrize(("count", "held"), [(16, 4), (24, 6), (96, 24), (300, 25)])
def test_some_pictures_of_each_kind_are_held_back_and_never_hundreds(count, held):
    faces = [FacesSeen({8: i % 7}, 0.1) for i in range(count)]

    parts = split(faces)

    assert len(parts.held) == held
    assert sorted((*parts.inside, *parts.held)) == list(range(count))
    assert len({faces[i].faces for i in parts.held}) >= min(held, 6)


def test_few_pictures_are_judged_on_themselves_and_warned_about(trained, images, tmp_path):
    made = int8(trained, tmp_path / "out.onnx", images[:3], max_face_loss=0.3)

    assert "only 3 calibration pictures" in made.warnings[0]
    assert any("judged on the calibration pictures" in note for note in made.notes)
    assert any("mosaics" in note for note in made.notes)


def test_a_budget_that_cannot_be_kept_fails_with_its_rounds(trained, images, tmp_path):
    out = tmp_path / "out.onnx"

    with pytest.raises(CheckFailed, match=r"after 3 rounds .* 0 allowed") as failed:
        int8(trained, out, images, max_face_loss=0.0, max_rounds=2)

    assert not failed.value.report.passed
    assert not out.exists()


@pytest.mark.slow
def test_layers_go_back_to_float_until_the_budget_holds(trained, images, tmp_path):
    plan = tmp_path / "plan.json"
    int8(trained, tmp_path / "a.onnx", images, max_face_loss=1.0, plan=plan)
    parent = tmp_path / "parent.onnx"
    parent.write_bytes(serialised(onnx_from_checkpoint(trained, OnnxOptions(shape=SHAPE))))
    canvases = load_pictures(images[:6], SHAPE).canvases
    strict = Judge.of(OnnxRunner(parent), canvases, 0.0)

    artifact = formats()["onnx"].artifact_at(parent)
    found = search(artifact, [load_plan(plan).options], strict, canvases, 100)

    assert len(found.rounds) > 2
    assert not found.rounds[-2].found.recall == found.rounds[-2].found.precision == 1
    assert found.rounds[-1].found.recall == found.rounds[-1].found.precision == 1
    assert len(found.options.sensitive) == len(found.rounds) - 1
    assert [r.sqnr for r in found.rounds[1:]] == sorted(r.sqnr for r in found.rounds[1:])


@pytest.fixture
def parent(trained, tmp_path):
    """The float graph of ``trained``."""
    path = tmp_path / "parent.onnx"
    path.write_bytes(serialised(onnx_from_checkpoint(trained, OnnxOptions(shape=SHAPE))))
    return formats()["onnx"].artifact_at(path)


class Blind(OnnxRunner):
    """A runtime in which no score is high enough for a face."""

    def _run(self, images):
        return [value * np.float32(0.01) for value in super()._run(images)]


@pytest.mark.slow
def test_faces_that_the_final_runtime_alone_loses_put_layers_back(
    trained, parent, images, tmp_path
):
    plan = tmp_path / "plan.json"
    int8(trained, tmp_path / "a.onnx", images, max_face_loss=1.0, plan=plan)
    opened = []

    def in_the_final_runtime(path):
        opened.append(path)
        return (Blind if len(opened) < 3 else OnnxRunner)(path)

    canvases = load_pictures(images[:2], SHAPE).canvases
    judge = Judge.of(OnnxRunner(parent.path), canvases, 0.9, in_the_final_runtime)
    found = search(parent, [load_plan(plan).options], judge, canvases, 100)

    assert found.holds
    assert [one.found.found == 0 for one in found.rounds] == [True, True, False]
    assert len(found.options.sensitive) == 2


@pytest.mark.parametrize("name", ["onnx", "openvino"])
def test_candidates_are_judged_in_the_format_that_is_made(name, trained, parent, images, tmp_path):
    if missing := formats()[name].why_not_built():
        pytest.skip(missing)
    quantized = tmp_path / "int8.onnx"
    int8(trained, quantized, images[:3], max_face_loss=1.0)
    target = target_of(name, "int8", {"shape": SHAPE})
    order = Order(
        source=trained, parent=parent, target=target, precision="int8", images=images,
        demand=None, stage=silent,
    )  # fmt: skip

    conversion = Int8Conversion.of(order)

    runner = conversion.opened(quantized)
    assert isinstance(runner, OnnxRunner) == (name == "onnx")
    assert runner.run(np.zeros((1, 3, *SHAPE), np.float32))["score_8"].shape == (1, 384, 1)
    told = any(f"judged in {formats()[name].title} itself" in note for note in conversion.notes())
    assert told == (name != "onnx")


def test_a_plan_repeats_the_bytes_without_pictures(tiny, images, tmp_path):
    plan = tmp_path / "plan.json"
    first = int8(tiny, tmp_path / "a.onnx", images, plan=plan)
    again = int8(tiny, tmp_path / "b.onnx", (), plan=plan)

    assert again.facts["replayed"]
    assert not first.facts["replayed"]
    assert first.artifact.digest == again.artifact.digest


def test_a_plan_of_something_else_is_refused(tiny, tiny_gn, images, tmp_path):
    plan = tmp_path / "plan.json"
    int8(tiny, tmp_path / "a.onnx", images[:2], plan=plan)

    with pytest.raises(InputFileError, match="plan of another source"):
        int8(tiny_gn, tmp_path / "b.onnx", images[:2], plan=plan)
    with pytest.raises(UsageError, match="made for 96x128, not 64x96"):
        int8(tiny, tmp_path / "b.onnx", images[:2], shape=(64, 96), plan=plan)
    with pytest.raises(UsageError, match="--target cpu"):
        int8(tiny, tmp_path / "b.onnx", images[:2], target="tensorrt", plan=plan)
    plan.write_text(json.dumps({"scrfdconv_int8_plan": 99}))
    with pytest.raises(InputFileError, match="no INT8 plan"):
        int8(tiny, tmp_path / "b.onnx", images[:2], plan=plan)


def test_a_calibration_table_is_reused(tiny, images, tmp_path):
    table = tmp_path / "table.json"
    first = int8(tiny, tmp_path / "a.onnx", images, save_calibration=table)

    again = int8(tiny, tmp_path / "b.onnx", images[:2], calibration_table=table)

    assert first.artifact.digest == again.artifact.digest


@pytest.mark.slow
def test_a_dynamic_model_stays_dynamic(tiny, images, tmp_path):
    out, plan = tmp_path / "out.onnx", tmp_path / "plan.json"

    demand = Demand(weights=False)
    made = int8(tiny, out, images, demand, shape=None, calibration_size=SHAPE, plan=plan)

    assert made.report.passed
    assert OnnxRunner(made.artifact.path).interface.shape is None
    assert load_plan(plan).options.table.shape == SHAPE


@pytest.mark.slow
def test_auto_tries_every_calibrator(trained, images, tmp_path):
    out, plan = tmp_path / "out.onnx", tmp_path / "plan.json"

    made = int8(trained, out, images, calibrator="auto", max_face_loss=1.0, plan=plan)

    assert made.facts["calibrator"] in ("minmax", "entropy", "percentile")
    assert load_plan(plan).budget["held"]


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


@pytest.fixture
def blind(tiny, tmp_path):
    """A network from a file that finds no face on any picture."""
    import torch

    weights = {
        name: torch.full_like(w, -20 if "bias" in name else 0) if "stride_cls" in name else w
        for name, w in tiny.weights.items()
    }
    torch.save({"state_dict": weights}, tmp_path / "blind.pth")
    return load_checkpoint(tmp_path / "blind.pth")


def test_a_reference_without_a_face_proves_nothing_and_is_refused(blind, images, tmp_path):
    out = tmp_path / "out.onnx"

    with pytest.raises(CheckFailed, match=r"finds no face on any of the 4 pictures.*--no-verify"):
        int8(blind, out, images[:4], Demand(weights=False))

    assert not out.exists()


def test_without_a_verification_it_is_written_and_says_so(blind, images, tmp_path):
    made = int8(blind, tmp_path / "out.onnx", images[:4], None)

    assert any("finds no face" in note for note in made.notes)
    assert made.artifact.path.is_file()


def test_a_face_that_crossed_the_threshold_is_not_lost_in_the_search(trained, images, tmp_path):
    """A face at 0.500 that becomes 0.499 must not put a layer back to float."""
    parent = tmp_path / "parent.onnx"
    parent.write_bytes(serialised(onnx_from_checkpoint(trained, OnnxOptions(shape=SHAPE))))
    canvases = load_pictures(images[:2], SHAPE).canvases
    judge = Judge.of(OnnxRunner(parent), canvases, 0.01)
    on_the_edge = tuple(
        replace(faces, scores=np.full_like(faces.scores, 0.53)) for faces in judge.reference
    )

    below = replace(judge, reference=on_the_edge)
    found = agreement(
        [(faces, replace(faces, scores=faces.scores - np.float32(0.05))) for faces in on_the_edge],
        margin=LIMITS["int8"].margin,
    )

    assert found.reference_faces == found.fell > 1
    assert below.holds(found)
    allowed = below.allowed(found)
    assert below.holds(replace(found, found=found.found - allowed))
    assert not below.holds(replace(found, found=found.found - allowed - 1))
