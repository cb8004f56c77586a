"""Small networks, one for each thing that makes an SCRFD different from another."""

from __future__ import annotations

from dataclasses import replace

from scrfdconv.converters.network.architecture import Architecture

TINY = Architecture(
    "tiny", "basic", (4, 4, 8), (1, 1, 1, 1), (8, 8, 16, 16), 8, (8, 8, 8), (1, 1, 1),
    head_groups=0, head_shared=False, head_separable=False, box_scales=True, keypoints=5,
)  # fmt: skip
SHARED = {"head_channels": (8,), "head_convs": (2,), "head_shared": True}
MOBILE = {"block": "separable", "stem_channels": (4, 8), "head_separable": True}

# One per thing that makes an SCRFD different from another, and that no row has.
NETWORKS = {
    "basic": TINY,
    "bottleneck": replace(TINY, block="bottleneck", stage_channels=(4, 4, 4, 8)),
    "many blocks": replace(TINY, stage_blocks=(2, 3, 1, 2)),
    "separable": replace(TINY, **MOBILE, head_convs=(1, 2, 3)),
    "shared GroupNorm": replace(TINY, **SHARED, head_groups=4, keypoints=0),
    "one group": replace(TINY, **SHARED, head_groups=1),
    "as many groups as channels": replace(TINY, **SHARED, **MOBILE, head_groups=8),
    "GroupNorm per stride": replace(TINY, head_groups=2),
    "shared BatchNorm": replace(TINY, **SHARED, box_scales=False),
    "two towers": replace(TINY, shared_tower=False, head_convs=(2, 1, 1)),
    "two shared towers": replace(TINY, **SHARED, head_groups=4, shared_tower=False),
    "widths per stride": replace(TINY, head_channels=(8, 12, 16), head_convs=(1, 2, 3)),
    "classes and anchors": replace(TINY, classes=3, anchors=1),
    "one keypoint": replace(TINY, keypoints=1),
    "two keypoints": replace(TINY, keypoints=2, anchors=3),
    "five strides": replace(
        TINY, strides=(8, 16, 32, 64, 128), head_channels=(8,) * 5, head_convs=(1,) * 5, anchors=1),
    "from stride 4": replace(
        TINY, strides=(4, 8, 16, 32), head_channels=(8,) * 4, head_convs=(1,) * 4),
    "one stride": replace(TINY, strides=(32,), head_channels=(8,), head_convs=(1,)),
    "three strides from 16": replace(TINY, strides=(16, 32, 64)),
    "top-down neck": replace(TINY, neck="fpn"),
    "top-down neck with more strides": replace(TINY, neck="fpn", strides=(16, 32, 64)),
    "distributions": replace(TINY, box_bins=9),
    "shared distributions": replace(TINY, **SHARED, box_bins=17, keypoints=0, neck="fpn"),
}  # fmt: skip
