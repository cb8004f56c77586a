"""--mean, --std and --color as users type them."""

from __future__ import annotations

import runpy
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

FAKES = Path(__file__).parents[1] / "fakes"
prefaced = runpy.run_path(str(FAKES / "prefaced.py"))["prefaced"]
SMALL = ("--size", 64, 96, "--threshold", 0.1)


@pytest.fixture
def bare(tiny, tmp_path):
    """A checkpoint that says nothing but its weights."""
    path = tmp_path / "bare.pth"
    torch.save({"state_dict": dict(tiny.weights)}, path)
    return path


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (70, 120, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)
    return tmp_path / "a.png"


def test_what_the_user_says_is_kept_and_obeyed(in_process, bare, picture, tmp_path):
    assert "is assumed" in in_process("detect", bare, picture, *SMALL).err

    ran = in_process("onnx", bare, "--std", 64, "--color", "bgr", "-o", tmp_path / "o.onnx")
    assert ran.code == 0, ran.err
    said = in_process("detect", tmp_path / "o.onnx", picture, *SMALL, "--json")
    same = in_process("detect", bare, picture, *SMALL, "--json", "--std", 64, "--color", "bgr")

    assert said.json["normalization"] == {"color": "BGR", "mean": 127.5, "std": 64.0}
    assert "is assumed" not in said.err
    faces = [ran.json["images"][0]["faces"] for ran in (said, same)]
    assert len(faces[0]) == len(faces[1]) > 0
    assert faces[0][0]["score"] == pytest.approx(faces[1][0]["score"], abs=1e-5)


def test_inspect_shows_it(in_process, bare):
    assert "RGB, (x - 127.5) / 128 (assumed: nothing says it)" in in_process("inspect", bare).out
    assert (
        "BGR, (x - 1,2,3) / 128"
        in in_process("inspect", bare, "--mean", "1,2,3", "--color", "bgr").out
    )


@pytest.mark.parametrize("verb", ["onnx", "detect", "verify"])
def test_a_contradiction_is_refused_and_nothing_written(
    in_process, tiny_onnx, picture, tmp_path, verb
):
    more = {
        "onnx": ["-o", tmp_path / "new.onnx"],
        "detect": [picture],
        "verify": ["--reference", tiny_onnx],
    }
    ran = in_process(verb, tiny_onnx, *more[verb], "--std", 1)

    assert ran.code == 2
    assert "--std 1 contradicts" in ran.sentence
    assert "std 128" in ran.sentence
    assert not (tmp_path / "new.onnx").exists()


def test_a_foreign_file_that_takes_frames_finds_the_same(in_process, tiny_onnx, picture, tmp_path):
    frame = prefaced(tiny_onnx, tmp_path / "frame.onnx", "frame")
    found = [in_process("detect", model, picture, *SMALL, "--json") for model in (tiny_onnx, frame)]

    assert found[0].json["images"][0]["faces"] == found[1].json["images"][0]["faces"] != []
    assert "is assumed" not in found[1].err
    assert "uint8 NHWC, BGR" in in_process("inspect", frame).out

    for pair in ((frame, tiny_onnx), (tiny_onnx, frame)):
        ran = in_process("verify", pair[0], "--reference", pair[1], "--json")
        assert ran.code == 0, ran.err


def test_a_file_takes_frames_if_asked_to(in_process, tiny_pth, picture, tmp_path):
    asked = ("--input", "uint8", "--layout", "nhwc", "--input-color", "bgr")
    assert in_process("onnx", tiny_pth, "-o", tmp_path / "a.onnx", "--no-verify").code == 0

    ran = in_process("onnx", tiny_pth, *asked, "-o", tmp_path / "frame.onnx", "--json")

    assert ran.code == 0, ran.err
    verified = in_process("verify", tmp_path / "frame.onnx", "--reference", tiny_pth)
    assert verified.code == 0, verified.err
    assert "arranged in another way" not in verified.err + verified.out
    models = tmp_path / "a.onnx", tmp_path / "frame.onnx"
    found = [in_process("detect", one, picture, *SMALL, "--json").json for one in models]
    faces = [one["images"][0]["faces"] for one in found]
    assert len(faces[0]) == len(faces[1]) > 0
    np.testing.assert_allclose(faces[0][0]["box"], faces[1][0]["box"], atol=1e-2)


@pytest.mark.parametrize("verb", ["ncnn", "mnn"])
def test_formats_that_cannot_take_frames_say_so(in_process, tiny_pth, tmp_path, verb):
    pytest.importorskip("pnnx" if verb == "ncnn" else "MNN")
    ran = in_process(verb, tiny_pth, "--input", "uint8", "-o", tmp_path / f"a.{verb}")

    assert ran.code == 2
    assert "gets normalised float pictures in NCHW: " in ran.sentence
    assert not list(tmp_path.iterdir())
