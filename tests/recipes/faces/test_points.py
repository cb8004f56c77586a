"""Networks with another number of keypoints than five."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from scrfdconv.checks.faces.decode import keypoint_names
from scrfdconv.checks.faces.draw import draw_faces
from scrfdconv.checks.faces.images import read_image
from scrfdconv.checks.verification import Demand, verify
from scrfdconv.converters.checkpoint.loading import load_checkpoint, seeded_checkpoint
from scrfdconv.converters.errors import CheckFailed, CheckpointError
from scrfdconv.converters.formats.onnx import OnnxOptions
from scrfdconv.converters.formats.onnx.building import onnx_from_checkpoint
from scrfdconv.converters.formats.pytorch.runner import EagerRunner
from scrfdconv.converters.graph.model_file import serialised
from scrfdconv.recipes.faces.detection import DetectOptions, Detector

SMALL = DetectOptions((64, 96), threshold=0.1)
PICTURE = np.random.default_rng(0).integers(0, 256, (70, 120, 3), np.uint8)


def fewer(weights, points, old=5, anchors=2):
    """The first ``points`` of each anchor: rows are anchor by anchor, point by point, x and y."""

    def cut(tensor):
        rows = tensor.reshape(anchors, old, 2, *tensor.shape[1:])[:, :points]
        return rows.reshape(anchors * points * 2, *tensor.shape[1:]).contiguous()

    return {k: cut(v) if ".stride_kps." in k else v for k, v in weights.items()}


@pytest.mark.parametrize("points", [4, 106])
def test_any_number_of_points_is_exported_verified_detected_and_drawn(tiny, tmp_path, points):
    network = seeded_checkpoint(replace(tiny.architecture, keypoints=points))
    photograph, path = tmp_path / "a.png", tmp_path / "net.onnx"
    cv2.imwrite(str(photograph), PICTURE)

    for outputs in ("raw", "faces"):
        options = OnnxOptions(outputs=outputs, shape=(64, 96))
        path.write_bytes(serialised(onnx_from_checkpoint(network, options)))
        report = verify(network, path, Demand((photograph,)))
        assert not [r for r in report.failures if r.check != "faces"], report.summary()
    (faces,) = Detector(EagerRunner(network), SMALL).detect([PICTURE])

    assert faces.keypoints.shape == (len(faces), points, 2)
    assert len(faces) > 0
    assert (draw_faces(PICTURE, faces) != PICTURE).any()
    assert len(set(keypoint_names(points))) == points


def test_dropped_points_leave_the_others_where_they_are(tiny, tmp_path):
    path = tmp_path / "four.pth"
    torch.save({"state_dict": fewer(tiny.weights, 4)}, path)
    four = load_checkpoint(path)

    (wanted,) = Detector(EagerRunner(tiny), SMALL).detect([PICTURE])
    (found,) = Detector(EagerRunner(four), SMALL).detect([PICTURE])

    assert four.architecture.keypoints == 4
    np.testing.assert_allclose(found.keypoints, wanted.keypoints[:, :4], atol=1e-3)
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-3)


def test_half_a_point_is_refused_with_its_key(tiny, tmp_path):
    weights = dict(tiny.weights)
    for key in [key for key in weights if ".stride_kps." in key]:
        weights[key] = weights[key][:18]
    torch.save({"state_dict": weights}, tmp_path / "odd.pth")

    with pytest.raises(CheckpointError, match=r"stride_kps\.\(8, 8\)\.weight has 18 rows"):
        load_checkpoint(tmp_path / "odd.pth")


def test_outputs_of_half_a_point_are_refused():
    from scrfdconv.checks.faces.decode import decode

    rows = {"score_32": np.ones((1, 2, 1)), "bbox_32": np.ones((1, 2, 4)),
            "kps_32": np.ones((1, 2, 9))}  # fmt: skip

    with pytest.raises(CheckFailed, match="kps_32 has 9 channels"):
        decode(rows, (32, 32))


# --- real models -------------------------------------------------------------------------------


@pytest.mark.parametrize("said", [True, False, None], ids=["num_kps", "widths", "no config"])
def test_a_released_detector_of_four_points_finds_its_six_faces(data, tmp_path, said):
    released = data / "checkpoints/scrfd_500m_bnkps.pth"
    content = torch.load(released, weights_only=True)
    meta = dict(content["meta"])
    if said:
        meta["config"] = meta["config"].replace("use_kps=True", "use_kps=True, num_kps=4")
    state = fewer(content["state_dict"], 4)
    torch.save({"state_dict": state} | ({} if said is None else {"meta": meta}), tmp_path / "4.pth")
    image = read_image(data / "images/test/insightface_t1.jpg")

    (wanted,) = Detector(EagerRunner(load_checkpoint(released))).detect([image])
    (found,) = Detector(EagerRunner(load_checkpoint(tmp_path / "4.pth"))).detect([image])

    assert len(found) == 6
    np.testing.assert_allclose(found.boxes, wanted.boxes, atol=1e-2)
    np.testing.assert_allclose(found.keypoints, wanted.keypoints[:, :4], atol=1e-2)
