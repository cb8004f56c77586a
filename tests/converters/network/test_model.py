"""Necks and boxes of the network, against sums that are written out here."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812

from scrfdconv.converters.checkpoint.loading import seeded_checkpoint

FAR = 200.0  # of a logit above the others: exp(-200) is zero in float32


def convolved(weights, key, x, stride=1):
    weight = weights[f"{key}.conv.weight"]
    padding = weight.shape[-1] // 2
    return F.conv2d(x, weight, weights[f"{key}.conv.bias"], stride=stride, padding=padding)


def pyramid(weights, levels, more):
    """mmdet's FPN with add_extra_convs='on_output', in its own words."""
    laterals = [convolved(weights, f"neck.lateral_convs.{i}", x) for i, x in enumerate(levels)]
    for i in reversed(range(len(laterals) - 1)):
        size = laterals[i].shape[2:]
        laterals[i] = laterals[i] + F.interpolate(laterals[i + 1], size=size, mode="nearest")
    outs = [convolved(weights, f"neck.fpn_convs.{i}", x) for i, x in enumerate(laterals)]
    for i in range(len(outs), len(outs) + more):
        outs.append(convolved(weights, f"neck.fpn_convs.{i}", outs[-1], stride=2))
    return outs


@pytest.mark.parametrize("strides", [(8, 16, 32), (4, 8, 16, 32), (16, 32, 64), (32,)])
def test_a_top_down_neck_is_that_of_mmdet(strides, tiny):
    towers = {"head_channels": (8,) * len(strides), "head_convs": (1,) * len(strides)}
    checkpoint = seeded_checkpoint(
        replace(tiny.architecture, neck="fpn", strides=strides, **towers)
    )
    model = checkpoint.model()

    with torch.inference_mode():
        levels = model.backbone(torch.rand(2, 3, 128, 192))[checkpoint.architecture.start_level :]
        found = model.neck(levels)
        expected = pyramid(checkpoint.weights, levels, len(strides) - len(levels))

    assert not any("downsample_convs" in key or "pafpn" in key for key in checkpoint.weights)
    for x, y in zip(found, expected, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


def test_a_bottom_up_path_that_adds_nothing_is_a_top_down_neck(tiny):
    weights = dict(tiny.weights)
    one = torch.zeros_like(weights["neck.pafpn_convs.0.conv.weight"])
    one[range(len(one)), range(len(one)), 1, 1] = 1
    for key, tensor in weights.items():
        if "downsample_convs" in key or ("pafpn" in key and key.endswith("bias")):
            weights[key] = torch.zeros_like(tensor)
        elif "pafpn" in key:
            weights[key] = one
    both = replace(tiny, weights=weights)
    paths = ("neck.downsample_convs", "neck.pafpn_convs")
    alone = replace(
        tiny,
        weights={key: tensor for key, tensor in weights.items() if not key.startswith(paths)},
        architecture=replace(tiny.architecture, neck="fpn"),
    )
    images = torch.rand(1, 3, 64, 96)

    with torch.inference_mode():
        pairs = zip(both.model()(images), alone.model()(images), strict=True)

    for x, y in pairs:
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
def test_a_box_is_the_mean_of_its_distributions(shared, tiny):
    """Each side of each anchor has all its mass on a bin of its own, or halves on two bins."""
    anchors, bins = 2, 9
    towers = {"head_shared": True, "head_channels": (8,), "head_convs": (1,)} if shared else {}
    checkpoint = seeded_checkpoint(replace(tiny.architecture, box_bins=bins, **towers))
    certain = np.arange(anchors * 4)  # anchor, side
    logits = torch.zeros(anchors * 4, bins)
    logits[certain, certain] = FAR
    logits[0, 5] = FAR
    weights = {
        key: tensor
        if ".stride_reg." not in key
        else logits.flatten()
        if key.endswith("bias")
        else torch.zeros_like(tensor)
        for key, tensor in checkpoint.weights.items()
    }

    with torch.inference_mode():
        outputs = replace(checkpoint, weights=weights).model()(torch.rand(2, 3, 64, 96))

    expected = certain.reshape(anchors, 4).astype(np.float32)
    expected[0, 0] = 2.5
    for boxes in outputs[3:6]:
        cells = boxes.shape[1] // anchors
        np.testing.assert_array_equal(boxes, np.tile(expected, (2, cells, 1)))
