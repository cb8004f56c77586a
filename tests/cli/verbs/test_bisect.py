"""The verb bisect as a user meets it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper


@pytest.fixture(scope="module")
def faulty(tiny_onnx, tmp_path_factory):
    """A file whose third convolution has other weights, and the name of that convolution."""
    model = onnx.load(tiny_onnx)
    node = [node for node in model.graph.node if node.op_type == "Conv"][2]
    tensor = next(t for t in model.graph.initializer if t.name == node.input[1])
    tensor.CopyFrom(
        numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.2), tensor.name)
    )
    path = tmp_path_factory.mktemp("faulty") / "faulty.onnx"
    onnx.save(model, path)
    return path, node.name


def test_the_first_faulty_layer_is_the_first_line_and_the_exit_code_is_1(
    in_process, faulty, tiny_pth
):
    path, name = faulty

    ran = in_process("bisect", path, "--reference", tiny_pth, "--all")

    assert ran.code == 1
    assert ran.out.startswith(f"begins at {name}: scale: its weights are 1.2 times")
    assert ran.out.count("<-") == 1
    assert f"begins at {name}" in ran.sentence


def test_json_has_every_layer(in_process, faulty, tiny_onnx):
    path, name = faulty

    ran = in_process("bisect", path, "--reference", tiny_onnx, "--json")

    assert ran.code == 1
    assert ran.json["faulty"] == [name]
    assert not ran.json["passed"]
    assert len(ran.json["layers"]) > 30


@pytest.mark.slow
def test_the_layers_that_lose_most_by_8_bits_are_named_last(
    in_process, tiny_pth, widerface, tmp_path
):
    out, photographs = tmp_path / "tiny_int8.onnx", widerface / "WIDER_val/images"
    made = in_process(
        "int8",
        tiny_pth,
        "--shape",
        64,
        96,
        "--images",
        photographs,
        "--max-face-loss",
        1,
        "-o",
        out,
        "--no-verify",
    )
    assert made.code == 0, made.err

    ran = in_process("bisect", out, "--reference", tiny_pth)
    levels = in_process("bisect", out, "--reference", tiny_pth, "--json").json["sensitivity"]

    assert list(levels.values()) == sorted(levels.values())
    assert 10 < min(levels.values()) < max(levels.values()) < 90
    assert f"8 bits cost most in: {next(iter(levels))} {min(levels.values()):.1f} dB, " in ran.out


def test_a_right_model_has_no_faulty_layer(in_process, tiny_onnx, tiny_pth):
    ran = in_process("bisect", tiny_onnx, "--reference", tiny_pth, "--json")

    assert ran.code == 0
    assert ran.json["passed"]
    assert ran.json["faulty"] == []
    assert ran.json["verdict"].startswith("no layer is at fault")


def test_verify_ends_a_failure_with_the_layer(in_process, faulty, tiny_pth):
    path, name = faulty

    ran = in_process("verify", path, "--reference", tiny_pth)

    assert ran.code == 1
    assert f"; begins at {name}: scale" in ran.sentence


def test_verify_of_a_large_fixed_size_gives_the_advice(in_process, faulty, tiny_pth, tmp_path):
    path, _ = faulty
    fixed = tmp_path / "fixed.onnx"
    made = in_process("simplify", path, "--shape", 512, 512, "--no-verify", "-o", fixed)
    assert made.code == 0, made.err

    ran = in_process("verify", fixed, "--reference", tiny_pth)

    assert ran.code == 1
    assert ran.sentence.endswith("; `bisect` names the layer.")
    assert "begins at" not in ran.err


@pytest.mark.parametrize("file", ["tiny.xml", "gone.onnx", "text.onnx", "empty.onnx"])
def test_what_cannot_be_bisected_is_one_sentence(in_process, tiny_pth, tmp_path, file):
    (tmp_path / "text.onnx").write_text("text")
    (tmp_path / "empty.onnx").touch()
    (tmp_path / "tiny.xml").write_text("<net/>")

    ran = in_process("bisect", tmp_path / file, "--reference", tiny_pth)

    assert ran.code == 3
    assert file in ran.sentence


def test_another_network_is_no_fault_of_one_layer(in_process, tiny_onnx):
    ran = in_process("bisect", tiny_onnx, "--reference", "scrfd_500m")

    assert ran.code in (2, 3)
    assert "tiny" in ran.sentence


@pytest.mark.parametrize(("verb", "suffix"), [("torchscript", ".pt"), ("mnn", ".mnn")])
def test_what_shows_no_values_says_which_file_to_give(verb, suffix, in_process, tiny_pth, tmp_path):
    out = tmp_path / f"tiny{suffix}"
    made = in_process(verb, tiny_pth, "--no-verify", "-o", out)
    if made.code == 4:
        pytest.skip(made.sentence)

    ran = in_process("bisect", out, "--reference", tiny_pth)

    assert ran.code == 2
    assert "which shows no values between its layers; give the ONNX file" in ran.sentence
