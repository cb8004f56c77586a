"""Sizes that no decoder has a grid for are refused, whatever the strides of the network."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from scrfdconv.converters.checkpoint.loading import seeded_checkpoint
from scrfdconv.converters.checkpoint.saving import save_checkpoint

FIVE = {
    "strides": (8, 16, 32, 64, 128),
    "anchors": 1,
    "head_channels": (8,) * 5,
    "head_convs": (1,) * 5,
}
VERBS = {
    "onnx": [],
    "torchscript": [],
    "openvino": [],
    "ncnn": [],
    "mnn": [],
    "fp16": [],
    "int8": ["--images", "{}/a.png"],
    "tensorrt": ["--plan-only"],
}


@pytest.fixture
def checkpoints(tiny, tmp_path):
    """Networks by the multiple that their sizes must be."""
    networks = {32: tiny, 128: seeded_checkpoint(replace(tiny.architecture, **FIVE))}
    for multiple, network in networks.items():
        save_checkpoint(network, tmp_path / f"{multiple}.pth")
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    return {multiple: tmp_path / f"{multiple}.pth" for multiple in networks}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    ("multiple", "shape", "faults"),
    [
        (32, (490, 640), ["height 490 (nearest: 480 or 512)"]),
        (32, (650, 16), ["height 650 (nearest: 640 or 672)", "width 16 (nearest: 32)"]),
        (128, (640, 608), ["width 608 (nearest: 512 or 640)"]),
    ],
)
def test_sizes_off_the_grid_are_refused_with_the_nearest_ones(
    in_process, checkpoints, tmp_path, verb, multiple, shape, faults
):
    more = [word.format(tmp_path) for word in VERBS[verb]]
    before = sorted(tmp_path.iterdir())

    ran = in_process(verb, checkpoints[multiple], "--shape", *shape, *more)

    assert ran.code == 2, ran.err
    assert all(fault in ran.sentence for fault in faults)
    assert f"must be a positive multiple of {multiple}" in ran.sentence
    assert sorted(tmp_path.iterdir()) == before
