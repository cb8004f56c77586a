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
INTEGRAL_KEY = "bbox_head.integral.project"
INTEGRAL = {INTEGRAL_KEY: (9,)}

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
    "four_points": replace(KPS, keypoints=4, classes=3),
    "mesh": replace(KPS, keypoints=106, anchors=1),
    "coarse": replace(KPS, strides=(32,), head_channels=(64,), head_convs=(2,)),
    "shared": replace(KPS, head_shared=True, head_channels=(64,), head_convs=(2,), classes=2),
    "own_tower": replace(KPS, shared_tower=False),
    "no_scale": replace(KPS, box_scales=False),
    "bottleneck": replace(BUILTIN["scrfd_34g"], head_groups=0, head_shared=False,
                          head_channels=(256,) * 3, head_convs=(2,) * 3),
    "separable": replace(BUILTIN["scrfd_1gbn"], keypoints=5, head_separable=True),
    "fpn": replace(KPS, neck="fpn"),
    "fpn_five_strides": replace(KPS, neck="fpn", strides=(8, 16, 32, 64, 128),
                                head_channels=(64,) * 5, head_convs=(2,) * 5),
    "dfl": replace(KPS, box_bins=9),
    "dfl_shared": replace(KPS, box_bins=9, head_shared=True, head_channels=(64,),
                          head_convs=(2,), classes=2, anchors=1),
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


@pytest.mark.parametrize(
    ("channels", "groups", "fitting"),
    [
        (64, 16, "8, 16 and 32 fit"),
        (96, 32, "8, 16 and 32 fit"),
        (144, 36, "8, 16 and 36 fit"),
        (36, 36, "36 fit"),
        (10, 5, "1, 2, 5 and 10 fit"),
    ],
)
@pytest.mark.parametrize("shared", [True, False])
def test_the_numbers_of_groups_that_fit_are_named(channels, groups, fitting, shared):
    towers = 1 if shared else 3
    gn = replace(KPS, name="gn", head_channels=(channels,) * towers, head_convs=(1,) * towers,
                 head_groups=groups, head_shared=shared)  # fmt: skip
    shapes = parameter_shapes(gn)

    with pytest.raises(CheckpointError, match=rf"\({fitting}, "):
        recognise(shapes, "gn")
    with pytest.raises(CheckpointError, match="--norm-groups 7 does not divide"):
        recognise(shapes, "gn", groups=7)

    assert recognise(shapes, "gn", groups=groups) == gn


def test_the_users_groups_count_for_a_known_network_too():
    assert recognise(parameter_shapes(BUILTIN["scrfd_500m"]), "mine", groups=8).head_groups == 8


def with_rows(shapes, predictor, factor):
    return {k: (v[0] * factor, *v[1:]) if predictor in k else v for k, v in shapes.items()}


@pytest.mark.parametrize("bins", [9, 17])
def test_one_anchor_tells_the_bins_without_their_constant(bins):
    dfl = replace(KPS, name="dfl", anchors=1, box_bins=bins)

    assert recognise(parameter_shapes(dfl), "dfl") == dfl


def test_as_many_anchors_as_bins_could_be_either():
    nine_anchors = parameter_shapes(replace(KPS, anchors=9, keypoints=0)) | INTEGRAL

    with pytest.raises(CheckpointError, match="9 anchors and no DFL as well as 1 anchors and 9"):
        recognise(nine_anchors, "file")


REFUSED = {
    "distributions without their constant": (
        lambda shapes: with_rows(shapes, ".stride_reg.", 9),
        "fit 1 anchors and 18 bins of DFL as well as 2 anchors and 9 bins of DFL; pass .* --config",
    ),
    "rows of nothing": (
        lambda shapes: with_rows(shapes | {INTEGRAL_KEY: (5,)}, ".stride_reg.", 9),
        "2 score and 72 box rows do not fit together",
    ),
    "half a point": (
        lambda shapes: {k: (21, *v[1:]) if ".stride_kps." in k else v for k, v in shapes.items()},
        "21 rows, which are no x and y for each point of 2 anchors",
    ),
    "pooled levels": (
        lambda shapes: (
            shapes
            | {k.replace("(32, 32)", "(64, 64)"): v for k, v in shapes.items() if "(32, 32)" in k}
        ),
        "4 strides and its neck convolutions for 3; add_extra_convs='on_output'",
    ),
    "no head": (
        lambda shapes: {k: v for k, v in shapes.items() if "stride_cls" not in k},
        "not an SCRFD that can be recognised",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_supported_is_refused_with_what_to_do(case):
    change, said = REFUSED[case]

    with pytest.raises(CheckpointError, match=said):
        recognise(change(dict(parameter_shapes(KPS))), "file")


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
