"""Architectures read off names and shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scrfdconv.converters.checkpoint.recognise import (
    closest,
    only_groups_are_open,
    parameter_shapes,
    recognise,
)
from scrfdconv.converters.errors import CheckpointError
from scrfdconv.converters.network.architecture import BUILTIN

KPS = BUILTIN["scrfd_2.5g_kps"]
INTEGRAL = {"bbox_head.integral.project": (9,)}

VARIANTS = {
    "wider": replace(KPS, stage_channels=(32, 64, 64, 96), neck_channels=32),
    "deeper": replace(KPS, stage_blocks=(2, 2, 7, 3)),
    "stacked": replace(KPS, head_convs=(1, 2, 3)),
    "feat_mults": replace(KPS, head_channels=(32, 64, 128)),
    "classes": replace(KPS, classes=3),
    "one_anchor": replace(KPS, anchors=1),
    "three_anchors": replace(KPS, anchors=3, keypoints=0),
    "five_strides": replace(KPS, strides=(8, 16, 32, 64, 128), anchors=1,
                            head_channels=(64,) * 5, head_convs=(2,) * 5),
    "stride_4": replace(KPS, strides=(4, 8, 16, 32), head_channels=(64,) * 4, head_convs=(2,) * 4),
    "own_tower": replace(KPS, shared_tower=False),
    "no_scale": replace(KPS, box_scales=False),
    "bottleneck": replace(BUILTIN["scrfd_34g"], head_groups=0, head_shared=False,
                          head_channels=(256,) * 3, head_convs=(2,) * 3),
    "separable": replace(BUILTIN["scrfd_1gbn"], keypoints=5, head_separable=True),
}  # fmt: skip


@pytest.mark.parametrize("name", BUILTIN)
def test_every_known_network_is_recognised_by_its_weights(name):
    assert recognise(parameter_shapes(BUILTIN[name]) | INTEGRAL, "file") == BUILTIN[name]


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_that_people_train_is_recognised(name):
    variant = replace(VARIANTS[name], name=name)

    assert recognise(parameter_shapes(variant) | INTEGRAL, name) == variant


@pytest.mark.parametrize("base", ["scrfd_500m_kps", "scrfd_2.5g_kps", "scrfd_10g_kps"])
def test_groups_of_an_unknown_network_must_be_said(base):
    gnkps = replace(BUILTIN[base], name="gnkps", head_groups=8)
    shapes = parameter_shapes(gnkps)

    with pytest.raises(CheckpointError, match="--norm-groups N"):
        recognise(shapes, "gnkps")

    assert recognise(shapes, "gnkps", groups=8) == gnkps


def test_the_users_groups_count_for_a_known_network_too():
    assert recognise(parameter_shapes(BUILTIN["scrfd_500m"]), "mine", groups=8).head_groups == 8


def test_distributions_over_bins_are_refused_with_the_reason():
    shapes = parameter_shapes(KPS) | INTEGRAL
    for key, shape in list(shapes.items()):
        if ".stride_reg." in key:
            shapes[key] = (shape[0] * 9, *shape[1:])

    with pytest.raises(CheckpointError, match="DFL"):
        recognise(shapes, "dfl")


def test_a_foreign_state_dict_is_no_scrfd():
    with pytest.raises(CheckpointError, match="not an SCRFD"):
        recognise({"backbone.conv1.weight": (64, 3, 7, 7), "neck.x": (1,)}, "resnet")


def test_the_closest_known_network_is_found_for_a_damaged_one():
    shapes = dict(parameter_shapes(BUILTIN["scrfd_1g"]))
    shapes.pop("neck.fpn_convs.0.conv.weight")

    like, share = closest(shapes)

    assert like.name == "scrfd_1g"
    assert share > 0.99


@pytest.mark.parametrize(
    "changes", [{"keypoints": 5}, {"classes": 4}, {"shared_tower": False}, {"anchors": 1}]
)
def test_a_network_near_a_known_one_leaves_its_groups_open_too(changes):
    """Most of its tensors are those of scrfd_500m, and still it is another network."""
    shapes = parameter_shapes(replace(BUILTIN["scrfd_500m"], **changes))

    assert only_groups_are_open(shapes)


def test_a_damaged_known_network_is_not_a_question_of_groups():
    shapes = dict(parameter_shapes(BUILTIN["scrfd_500m"]))
    shapes.pop("neck.fpn_convs.0.conv.weight")

    assert not only_groups_are_open(shapes)
    assert not only_groups_are_open(parameter_shapes(KPS))
