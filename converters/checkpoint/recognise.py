"""Tell from the names and shapes of a state_dict which SCRFD it belongs to.

Names and shapes tell everything except GroupNorm's number of groups; pooling and strides follow
from the block type. Boxes as distributions (DFL) look like many anchors: `integral.project` and
the numbers of scores and keypoints tell them apart.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from math import gcd

from scrfdconv.converters.errors import CheckpointError, UsageError
from scrfdconv.converters.network.architecture import (
    BOTTLENECK_EXPANSION,
    BOX_SIDES,
    BUILTIN,
    FIRST_STAGE_STRIDE,
    STAGES,
    Architecture,
    Block,
)
from scrfdconv.converters.network.bounds import LARGEST

Shapes = Mapping[str, tuple[int, ...]]
Backbone = tuple[Block, tuple[int, ...], tuple[int, ...], tuple[int, ...]]

# What reading raises for names and shapes that are no SCRFD's.
_UNREADABLE = (KeyError, ValueError, IndexError, ZeroDivisionError, UsageError)

_BOTTOM_UP = ("neck.downsample_convs.", "neck.pafpn_convs.")

# Share of identical names and shapes from which a network is "like" a known one: the models
# differ in far more than a tenth of their tensors, damaged files in less.
LIKENESS = 0.9

# GroupNorm's numbers of groups in public configs (mmdet's default is 32), in rising order.
USUAL_GROUPS = (8, 16, 32, 36)

BINS = "bbox_head.integral.project"

# Tensors of a checkpoint that no output depends on, and why.
IGNORED = {
    BINS: "the constant 0..reg_max, which only distributions (DFL) use",
    "num_batches_tracked": "BatchNorm's counter, used in training only",
}


def recognise(shapes: Shapes, name: str, groups: int | None = None) -> Architecture:
    """The architecture with exactly these parameters.

    ``groups`` is GroupNorm's number of groups, as the user gave it. Raises CheckpointError where
    the state_dict is no SCRFD, or does not determine what the network computes.
    """
    known = _known(shapes)
    if known and groups in (None, known.head_groups):
        return known
    fitting = fitting_groups(shapes)
    if groups is not None and has_group_norm(shapes) and groups not in fitting:
        raise CheckpointError(
            f"--norm-groups {groups} does not divide the channels of its head; "
            f"{spoken(fitting)} fit"
        )
    try:
        return _read(shapes, name, groups)
    except _UNREADABLE as error:
        raise CheckpointError(f"not an SCRFD that can be recognised ({error})") from error


def _known(shapes: Shapes) -> Architecture | None:
    """The built-in architecture with exactly these parameters, if there is one."""
    try:
        backbone = _backbone(shapes)
    except _UNREADABLE:
        return None
    # A network is only built where its backbone fits: to build all takes half a second.
    fitting = (a for a in BUILTIN.values() if _backbone_of(a) == backbone)
    return next((a for a in fitting if parameter_shapes(a) == needed(shapes)), None)


def _backbone_of(a: Architecture) -> Backbone:
    return a.block, a.stem_channels, a.stage_blocks, a.stage_channels


def only_groups_are_open(shapes: Shapes) -> bool:
    """True for a complete SCRFD whose weights leave only GroupNorm's number of groups open."""
    try:
        candidate = recognise(shapes, "candidate", groups=1)  # 1 divides every number of channels
    except CheckpointError:
        return False
    return candidate.head_groups > 0 and parameter_shapes(candidate) == needed(shapes)


def has_group_norm(shapes: Shapes) -> bool:
    """True where norms of the head have groups, whose number no tensor shows."""
    return any(".gn." in key for key in shapes)


def fitting_groups(shapes: Shapes) -> list[int]:
    """The numbers of groups that divide the channels of every GroupNorm."""
    widths = [shape[0] for key, shape in shapes.items() if key.endswith(".gn.weight") and shape]
    largest = min(gcd(*widths) or 1, LARGEST["head_groups"])
    return [n for n in range(1, largest + 1) if largest % n == 0]


def spoken(numbers: Sequence[int]) -> str:
    """``8, 16 and 32``."""
    *first, last = (str(number) for number in numbers)
    return f"{', '.join(first)} and {last}" if first else last


def needed(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """``shapes`` without the tensors that no output depends on."""
    return {k: v for k, v in shapes.items() if not k.endswith(tuple(IGNORED))}


def closest(shapes: Shapes) -> tuple[Architecture, float]:
    """The known model that is most like a state_dict, and how much (0 to 1)."""
    best = max(BUILTIN.values(), key=lambda architecture: likeness(shapes, architecture))
    return best, likeness(shapes, best)


def likeness(shapes: Shapes, architecture: Architecture) -> float:
    """Share of names and shapes that a state_dict has in common with ``architecture``."""
    theirs = parameter_shapes(architecture)
    same = sum(theirs.get(key) == shape for key, shape in shapes.items())
    return same / max(len(theirs), len(shapes), 1)


@cache
def parameter_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that the network needs (BatchNorm's counters are not)."""
    import torch

    from scrfdconv.converters.network.model import SCRFD

    with torch.device("meta"):  # nothing is allocated
        state = SCRFD(architecture).state_dict()
    return needed({name: tuple(tensor.shape) for name, tensor in state.items()})


# ---------------------------------------------------------------- reading


def _read(shapes: Shapes, name: str, groups: int | None) -> Architecture:
    block, stem, blocks, channels = _backbone(shapes)
    heads = _heads(shapes)
    shared = heads == ["0"]
    separable = f"bbox_head.cls_stride_convs.{heads[0]}.0.depthwise_conv.conv.weight" in shapes
    anchors, classes, keypoints, bins = _predictors(shapes, heads[0])
    tower = [f"bbox_head.cls_stride_convs.{head}" for head in heads]
    return Architecture(
        name=name,
        block=block,
        stem_channels=stem,
        stage_blocks=blocks,
        stage_channels=channels,
        neck_channels=shapes["neck.lateral_convs.0.conv.weight"][0],
        head_channels=tuple(shapes[f"bbox_head.stride_cls.{h}.weight"][1] for h in heads),
        head_convs=tuple(_count(shapes, prefix) for prefix in tower),
        head_groups=_groups(shapes, groups),
        head_shared=shared,
        head_separable=separable,
        box_scales="bbox_head.scales.0.scale" in shapes,
        keypoints=keypoints,
        strides=_strides(shapes, heads),
        anchors=anchors,
        classes=classes,
        shared_tower=not _has(shapes, "bbox_head.reg_stride_convs."),
        neck="pafpn" if _has(shapes, *_BOTTOM_UP) or len(_laterals(shapes)) == 1 else "fpn",
        box_bins=bins,
    )


def _has(shapes: Shapes, *prefixes: str) -> bool:
    return any(key.startswith(prefixes) for key in shapes)


def _backbone(shapes: Shapes) -> Backbone:
    stages = [f"backbone.layer{i}" for i in range(1, STAGES + 1)]
    blocks = tuple(_count(shapes, stage) for stage in stages)
    if "backbone.layer1.0.conv1.weight" not in shapes:
        stem = (shapes["backbone.stem.0.0.weight"][0], shapes["backbone.stem.1.3.weight"][0])
        return "separable", stem, blocks, tuple(shapes[f"{s}.0.3.weight"][0] for s in stages)
    stem3 = tuple(shapes[f"backbone.stem.{i}.weight"][0] for i in (0, 3, 6))
    planes = tuple(shapes[f"{s}.0.conv1.weight"][0] for s in stages)
    if "backbone.layer1.0.conv3.weight" not in shapes:
        return "basic", stem3, blocks, planes
    if shapes["backbone.layer1.0.conv3.weight"][0] != BOTTLENECK_EXPANSION * planes[0]:
        raise ValueError("bottlenecks widen by 4")
    return "bottleneck", stem3, blocks, planes


def _count(shapes: Shapes, prefix: str) -> int:
    """Number of children ``prefix.0``, ``prefix.1``, ... that have parameters."""
    found = {key[len(prefix) + 1 :].split(".")[0] for key in shapes if key.startswith(prefix + ".")}
    if not found:
        raise KeyError(f"{prefix}.*")
    return len(found)


def _heads(shapes: Shapes) -> list[str]:
    """Keys of the heads, ``["0"]`` or ``["(8, 8)", "(16, 16)", ...]``, finest stride first."""
    prefix, suffix = "bbox_head.stride_cls.", ".weight"
    keys = [k[len(prefix) : -len(suffix)] for k in shapes if k.startswith(prefix) and suffix in k]
    if not keys:
        raise KeyError("bbox_head.stride_cls.*")
    return sorted(keys, key=_stride)


def _stride(head: str) -> int:
    match = re.fullmatch(r"0|\((\d+), \1\)", head)
    if match is None:
        raise ValueError(f"head key {head!r}")
    return int(match[1] or 0)


def _strides(shapes: Shapes, heads: list[str]) -> tuple[int, ...]:
    levels = _count(shapes, "neck.fpn_convs")
    if heads != ["0"]:
        if len(heads) > levels:
            raise ValueError(
                f"its head has {len(heads)} strides and its neck convolutions for {levels}; "
                "add_extra_convs='on_output' is the only way to more strides"
            )
        return tuple(_stride(head) for head in heads)
    # A shared head names no strides: they follow from the stages that the neck reads.
    start = STAGES - len(_laterals(shapes))
    return tuple(FIRST_STAGE_STRIDE << (start + i) for i in range(levels))


def _predictors(shapes: Shapes, head: str) -> tuple[int, int, int, int]:
    """Anchors, classes and keypoints per cell, and bins (0: no DFL), from rows of the last convs.

    Raises CheckpointError where the rows fit no network, or more than one.
    """
    scores = shapes[f"bbox_head.stride_cls.{head}.weight"][0]
    boxes = shapes[f"bbox_head.stride_reg.{head}.weight"][0]
    points = shapes.get(f"bbox_head.stride_kps.{head}.weight", (0,))[0]
    stored = shapes.get(BINS, (0,))[0]
    readings = [(boxes // BOX_SIDES, 0)]
    if stored > 1:  # upstream stores them always, and uses them with DFL only
        readings.append((boxes // BOX_SIDES // stored, stored))
    found = [r for r in readings if _fits(*r, scores, boxes, points)]
    if not found and _fits(*readings[0], scores, boxes, 0):
        keypoints_in(shapes, boxes // BOX_SIDES)  # says what is wrong with them
    if not found and not stored:
        counts = range(1, scores + 1)
        readings = [(n, boxes // BOX_SIDES // n) for n in counts if scores % n == 0]
        found = [r for r in readings if r[1] > 1 and _fits(*r, scores, boxes, points)]
    if not found:
        raise ValueError(
            f"{scores} score and {boxes} box rows do not fit together: there are four distances "
            "for each anchor, or four distributions (DFL)"
        )
    if len(found) > 1:
        words = (f"{n} anchors and {f'{b} bins of DFL' if b else 'no DFL'}" for n, b in found)
        raise CheckpointError(
            f"{scores} score and {boxes} box rows fit {' as well as '.join(words)}; pass the "
            "training config with --config"
        )
    anchors, bins = found[0]
    return anchors, scores // anchors, keypoints_in(shapes, anchors), bins


def _fits(anchors: int, bins: int, scores: int, boxes: int, points: int) -> bool:
    """Are the rows those of whole classes, distances and points for this number of anchors?"""
    rows = anchors * BOX_SIDES * max(bins, 1)
    return anchors > 0 and rows == boxes and scores % anchors == points % (2 * anchors) == 0


def unused_levels(shapes: Shapes) -> set[str]:
    """Keys of the neck's extra levels beyond the strides of the head, which feed no output.

    Only convolutions behind those of the backbone's levels: these are all used. A shared head
    counts its strides by its scales; without scales, nothing tells, and nothing is unused.
    """
    heads = {key.split(".")[2] for key in shapes if key.startswith("bbox_head.stride_cls.")}
    if heads == {"0"}:
        heads = {key.split(".")[2] for key in shapes if key.startswith("bbox_head.scales.")}
    backbone = _laterals(shapes)
    if len(heads) < len(backbone) or not backbone:
        return set()
    parts = (key.split(".") for key in shapes if key.startswith("neck.fpn_convs."))
    return {".".join(p) for p in parts if p[2].isdecimal() and int(p[2]) >= len(heads)}


def _laterals(shapes: Shapes) -> set[str]:
    """Numbers of the convolutions through which the neck reads the backbone."""
    return {key.split(".")[2] for key in shapes if key.startswith("neck.lateral_convs.")}


def keypoints_in(shapes: Shapes, anchors: int) -> int:
    """The number of keypoints that the head's widths show; 0 for none.

    Raises CheckpointError for a width that has not x and y for each point of each anchor.
    """
    for key, shape in shapes.items():
        if key.startswith("bbox_head.stride_kps.") and key.endswith(".weight") and shape:
            points, left = divmod(shape[0], 2 * anchors)
            if left or not points:
                raise CheckpointError(
                    f"{key} has {shape[0]} rows, which are no x and y for each point of "
                    f"{anchors} anchors"
                )
            return points
    return 0


def _groups(shapes: Shapes, groups: int | None) -> int:
    if not has_group_norm(shapes):
        return 0
    if groups is None:
        fitting = fitting_groups(shapes)
        usual = [n for n in USUAL_GROUPS if n in fitting] or fitting
        raise CheckpointError(
            "its head has GroupNorm and it is none of the known models, so that the number of "
            f"groups is open ({spoken(usual)} fit, and the tensors look the same for every "
            "number); pass --norm-groups N, or the training config with --config"
        )
    return groups
