"""`scrfdconv int8` as a user runs it."""

from __future__ import annotations

import runpy
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest

FAKES = Path(__file__).parents[2] / "fakes"
prefaced = runpy.run_path(str(FAKES / "prefaced.py"))["prefaced"]
SIZE = ("--shape", 96, 128)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures")
    draw = np.random.default_rng(0)
    for i in range(4):
        cv2.imwrite(str(path / f"{i}.png"), draw.integers(0, 256, (90, 120, 3), np.uint8))
    return path


def test_a_model_is_quantized_verified_and_timed(scrfdconv, tiny_onnx, folder, tmp_path):
    ran = scrfdconv(
        "int8", tiny_onnx, "--images", folder, *SIZE, "--max-face-loss", 0.5, "--json",
        "--plan", "plan.json",
    )  # fmt: skip

    assert ran.code == 0, ran.err
    content = ran.json
    assert content["precision"] == "int8"
    assert content["path"] == "tiny_shape96x128_int8.onnx"
    assert content["verified"]
    assert {pace["threads"] for pace in content["speed"]["paces"]} == {1, None}
    assert content["audit"]["convolutions"]["fp32"] == 4  # heads and the first one
    assert "only 4 calibration pictures" in ran.err
    assert (tmp_path / "plan.json").is_file()


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--no-verify",)])
def test_a_note_is_shown_once(scrfdconv, tiny_onnx, folder, options):
    ran = scrfdconv("int8", tiny_onnx, "--images", folder, *SIZE, "--max-face-loss", 0.5, *options)

    assert ran.code == 0, ran.err
    assert (ran.out + ran.err).count("judged on the calibration pictures") == 1


@pytest.mark.slow
def test_a_plan_needs_no_pictures(scrfdconv, tiny_onnx, folder):
    options = (*SIZE, "--no-verify", "--max-face-loss", 0.5, "--plan", "p.json", "--json")
    first = scrfdconv("int8", tiny_onnx, "--images", folder, *options)

    again = scrfdconv("int8", tiny_onnx, "-o", "again.onnx", *options)

    assert (first.code, again.code) == (0, 0), again.err
    assert again.json["replayed"]
    assert again.json["sha256"] == first.json["sha256"]


def test_an_unreachable_budget_is_exit_1_and_leaves_nothing(scrfdconv, tiny_pth, folder, tmp_path):
    ran = scrfdconv(
        "int8", tiny_pth, "--images", folder, *SIZE, "--max-face-loss", 0, "--max-rounds", 0
    )

    assert ran.code == 1
    assert "accuracy budget cannot be kept" in ran.sentence
    assert list(tmp_path.iterdir()) == []


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 2, "--images DIR, 24 or more"),
        (("--images", "nowhere"), 3, "does not exist"),
        (("--images", "texts"), 3, "no picture in this folder"),
        (("--images", "broken"), 3, "None of the 1 pictures can be read"),
        (("--images", "{folder}", "--keep-float", "Konv"), 2, "close are Conv"),
        (("--images", "{folder}", "--calibration-size", 100, 100), 2, "multiples of 32"),
        (("--images", "{folder}", "--opset", 30), 2, "--opset 30"),
        (("--images", "{folder}", "--plan", "no/where.json"), 2, "does not exist"),
        (("--images", "{folder}", "--calibration-table", "texts/a.txt"), 3, "no JSON"),
    ],
)
def test_what_is_wrong_is_said(scrfdconv, tiny_pth, folder, tmp_path, arguments, code, said):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts/a.txt").write_text("no picture")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/a.jpg").write_text("no picture")

    ran = scrfdconv("int8", tiny_pth, *(str(a).format(folder=folder) for a in arguments))

    assert ran.code == code, ran.err
    assert said in ran.sentence
    assert not list(tmp_path.glob("*.onnx"))


@pytest.mark.slow
def test_a_quantized_model_is_no_source(scrfdconv, tiny_onnx, folder):
    options = (
        "--images",
        folder,
        "--no-verify",
        "--max-face-loss",
        1,
        "--calibration-size",
        96,
        96,
    )
    scrfdconv("int8", tiny_onnx, *options, "-o", "once.onnx")

    ran = scrfdconv("int8", "once.onnx", *options)

    assert ran.code == 3
    assert "is int8 already" in ran.sentence


def test_other_kinds_of_models_are_no_source(scrfdconv, tiny_pth, folder):
    scrfdconv("torchscript", tiny_pth, "--no-verify", "-o", "model.pt")

    ran = scrfdconv("int8", "model.pt", "--images", folder)

    assert ran.code in (2, 3)
    assert "float ONNX" in ran.sentence


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["identity", "frame"])
def test_operators_before_the_network_stay_what_they_are(
    in_process, tiny_onnx, folder, tmp_path, kind
):
    """The network begins behind them: its first convolution stays float, as without them."""
    source = prefaced(tiny_onnx, tmp_path / "source.onnx", kind, metadata=True)
    size = ("--calibration-size", 96, 128)

    ran = in_process(
        "int8", source, "--images", folder, *size, "--max-face-loss", 0.5, "--loosen", 4,
        "--no-lift", "-o", tmp_path / "int8.onnx", "--json",
    )  # fmt: skip

    assert ran.code == 0, ran.err
    assert ran.json["audit"]["convolutions"]["fp32"] == 4  # heads and the first one
    written = onnx.load(tmp_path / "int8.onnx")
    assert written.graph.input == onnx.load(source).graph.input
