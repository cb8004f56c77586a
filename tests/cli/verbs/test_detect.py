"""The verb detect as users type it."""

from __future__ import annotations

import json

import cv2
import numpy as np
import onnx
import pytest
from twins import twice

from scrfdconv.converters.checkpoint.saving import save_checkpoint

KEYPOINTS = ["left_eye", "right_eye", "nose", "left_mouth", "right_mouth"]
SMALL = ("--size", 64, 96, "--threshold", 0.1)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for seed, name in enumerate(("a.png", "b.jpg")):
        pixels = np.random.default_rng(seed).integers(0, 256, (70, 120, 3), np.uint8)
        cv2.imwrite(str(folder / name), pixels)
    return folder


def test_faces_come_as_one_json_object_in_pixels_of_the_picture(scrfdconv, tiny_onnx, pictures):
    ran = scrfdconv("detect", tiny_onnx, pictures, *SMALL, "--max-faces", 2, "--json")

    assert ran.code == 0, ran.err
    assert ran.json["input"] == [64, 96]
    assert ran.json["errors"] == []
    assert [image["file"][-5:] for image in ran.json["images"]] == ["a.png", "b.jpg"]
    first = ran.json["images"][0]
    assert first["size"] == {"height": 70, "width": 120}
    assert len(first["faces"]) == 2
    face = first["faces"][0]
    assert len(face["box"]) == 4
    assert 0.1 <= face["score"] <= 1
    assert list(face["keypoints"]) == KEYPOINTS
    assert all(len(point) == 2 for point in face["keypoints"].values())


def test_drawings_are_written_and_told(scrfdconv, tiny_onnx, pictures, tmp_path):
    ran = scrfdconv("detect", tiny_onnx, f"{pictures}/*.png", *SMALL, "--draw", "new/drawn")

    assert ran.code == 0, ran.err
    assert "a.png  120x70" in ran.out
    drawn = cv2.imread(str(tmp_path / "new/drawn/a.png"))
    assert drawn.shape == (70, 120, 3)


def test_a_bad_picture_is_reported_and_the_rest_goes_on(scrfdconv, tiny_onnx, pictures):
    (pictures / "bad.jpg").write_bytes(b"no picture")

    ran = scrfdconv("detect", tiny_onnx, pictures, "none.png", *SMALL, "--json")

    assert ran.code == 3
    assert len(ran.json["images"]) == 2
    assert {error["file"].rpartition("/")[2] for error in ran.json["errors"]} == {
        "none.png", "bad.jpg",
    }  # fmt: skip
    assert len(ran.err.strip().splitlines()) == 2


def test_a_model_without_keypoints_and_a_picture_without_faces_are_fine(
    scrfdconv, tiny_gn, pictures, tmp_path
):
    import torch

    torch.save({"state_dict": dict(tiny_gn.weights)}, tmp_path / "gn.pth")
    ran = scrfdconv("detect", "gn.pth", pictures / "a.png", "--size", 64, 64,
                    "--norm-groups", 4, "--threshold", 1, "--json")  # fmt: skip

    assert ran.code == 0, ran.err
    assert ran.json["images"][0]["faces"] == []


def test_seeded_weights_are_said_to_find_nothing(scrfdconv, pictures):
    ran = scrfdconv("detect", "scrfd_500m_kps", pictures / "a.png", "--size", 64, 64)

    assert ran.code == 0
    assert "seeded, not trained" in ran.err


def not_an_scrfd(folder):
    """One image in, one number out."""
    node = onnx.helper.make_node("ReduceMean", ["x"], ["y"], keepdims=0)
    image = onnx.helper.make_tensor_value_info("x", 1, ["n", 3, "h", "w"])
    graph = onnx.helper.make_graph(
        [node], "g", [image], [onnx.helper.make_tensor_value_info("y", 1, [])]
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), folder / "no.onnx")
    return "no.onnx"


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["README.txt", "pictures"], 3, "neither a checkpoint"),
        (["none.onnx", "pictures"], 3, "no such file"),
        ([not_an_scrfd, "pictures"], 3, "expected score_8 score_16"),
        (["MODEL", "pictures", "--size", 640, 650], 2, "nearest: 640 or 672"),
        (["MODEL", "pictures", "--draw", "pictures"], 2, "would replace"),
        (["MODEL", "pictures", "--draw", "README.txt"], 2, "cannot be made"),
        (["MODEL", "pictures", "--threshold", 2], 2, "threshold"),
    ],
)
def test_bad_input_gets_one_sentence(
    arguments, code, says, scrfdconv, tiny_onnx, pictures, tmp_path
):
    (tmp_path / "README.txt").write_text("text")
    given = [a(tmp_path) if callable(a) else tiny_onnx if a == "MODEL" else a for a in arguments]

    ran = scrfdconv("detect", *given, "--json")

    assert ran.code == code, ran.err
    assert says in ran.sentence
    assert json.loads(ran.out)["exit_code"] == code


def test_names_are_kept_and_shown(in_process, tiny, tmp_path):
    save_checkpoint(twice(tiny), tmp_path / "two.pth")
    pixels = np.random.default_rng(0).integers(0, 256, (70, 120, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "a.png"), pixels)

    ran = in_process("detect", tmp_path / "two.pth", tmp_path / "a.png", "--size", 64, 96,
                     "--threshold", 0.1, "--json")  # fmt: skip

    assert ran.code == 0, ran.err
    faces = ran.json["images"][0]["faces"]
    assert {(face["label"], face["class"]) for face in faces} == {(0, "face"), (1, "plate")}
