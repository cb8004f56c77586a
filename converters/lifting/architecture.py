"""The architecture of a walked graph, and the keys of its heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from scrfdconv.converters.errors import ArtifactError, UsageError
from scrfdconv.converters.lifting.backbone import FoundBackbone, Walk
from scrfdconv.converters.lifting.heads import FoundHead, Kind, Neck
from scrfdconv.converters.lifting.units import Unit
from scrfdconv.converters.network.architecture import (
    BOX_SIDES,
    BUILTIN,
    Architecture,
    common_row,
)

# Where a learned factor was multiplied in, the boxes' weights are a multiple of another stride's
# weights, up to this relative error: two roundings, with room. FP16's smallest numbers are coarse.
_ROUNDING = {"float16": (2e-3, 1e-7)}
_FLOAT_ROUNDING = (1e-6, 1e-37)


@dataclass(frozen=True)
class FoundArchitecture:
    """An architecture, the learned factors of its boxes, and what was chosen on the way."""

    architecture: Architecture
    scales: tuple[float, ...]
    notes: tuple[str, ...]


def architecture_of(
    walk: Walk, body: FoundBackbone, pyramid: Neck, heads: Sequence[FoundHead], name: str
) -> FoundArchitecture:
    """Assemble the architecture and name the heads; ArtifactError if the heads do not fit."""
    _require_alike(walk, heads)
    factors = _folded_factors(heads)
    shared = len(heads) > 1 and factors is not None
    stored = heads[:1] if shared else heads
    scales, notes = _scales(heads, factors if shared else None)
    keys = ["0"] if shared else [str((s, s)) for s in pyramid.strides]
    for key, one in zip(keys, stored, strict=True):
        _name_head(walk, one, key)
    walk.see(*(node for one in heads for unit in _towers(one) for node in unit.nodes))
    separable = stored[0].tower[0].depthwise
    anchors, classes, keypoints = _counts(walk, stored[0])
    bins = stored[0].outputs["reg"].bins
    try:
        architecture = Architecture(
            name=name,
            block=body.block,
            stem_channels=body.stem,
            stage_blocks=body.blocks,
            stage_channels=body.channels,
            neck_channels=pyramid.channels,
            head_channels=tuple(one.tower[-1].width for one in stored),
            head_convs=tuple(len(one.tower) // (1 + separable) for one in stored),
            head_groups=_groups(walk, heads),
            head_shared=shared,
            head_separable=separable,
            box_scales=scales is not None,
            keypoints=keypoints,
            strides=pyramid.strides,
            anchors=anchors,
            classes=classes,
            shared_tower=stored[0].boxes_tower is None,
            neck=pyramid.kind,
            box_bins=bins,
        )
    except UsageError as error:
        raise ArtifactError(f"{walk.graph.where}: cannot be lifted: {error}") from error
    with_scales = common_row(replace(architecture, box_scales=True))
    if scales is None and _is_row(with_scales) and not _is_row(common_row(architecture)):
        note = "the boxes' learned factors are in the convolutions before them: they became 1"
        return FoundArchitecture(with_scales, (1.0,) * len(heads), (note,))
    return FoundArchitecture(common_row(architecture), scales or (), notes)


def _require_alike(walk: Walk, heads: Sequence[FoundHead]) -> None:
    first = heads[0]
    for other in heads[1:]:
        towers = (first.boxes_tower is None) == (other.boxes_tower is None)
        if other.outputs.keys() != first.outputs.keys() or not towers:
            walk.graph.refuse(
                other.outputs["reg"].unit.node,
                f"has {' and '.join(other.outputs)} in its head, where another stride has "
                f"{' and '.join(first.outputs)}, or other towers",
            )


def _is_row(architecture: Architecture) -> bool:
    return architecture in BUILTIN.values()


def _scales(
    heads: Sequence[FoundHead], folded: tuple[float, ...] | None
) -> tuple[tuple[float, ...] | None, tuple[str, ...]]:
    """The boxes' factors per stride: multiplications, or traces in a shared head's weights."""
    written = [one.outputs["reg"].factor for one in heads]
    if any(factor is not None for factor in written):
        ones = folded or (1.0,) * len(heads)
        return tuple((w or 1.0) * f for w, f in zip(written, ones, strict=True)), ()
    if folded and set(folded) != {1.0}:
        note = "the boxes' learned factors were in the convolutions before them: now relative"
        return folded, (f"{note} to the finest stride's",)
    return None, ()


def _folded_factors(heads: Sequence[FoundHead]) -> tuple[float, ...] | None:
    """Factors of the boxes' convolutions by stride where all else is the same; else None."""
    first, factors = heads[0], [1.0]
    for other in heads[1:]:
        if not _same_head(first, other):
            return None
        factor = _factor(first.outputs["reg"].unit, other.outputs["reg"].unit)
        if factor is None:
            return None
        factors.append(factor)
    return tuple(factors)


def _same_head(one: FoundHead, other: FoundHead) -> bool:
    mine, theirs = list(_towers(one)), list(_towers(other))
    mine += [output.unit for kind, output in one.outputs.items() if kind != "reg"]
    theirs += [output.unit for kind, output in other.outputs.items() if kind != "reg"]
    return (
        one.outputs.keys() == other.outputs.keys()
        and len(mine) == len(theirs)
        and all(map(_same, mine, theirs))
    )


def _same(one: Unit, other: Unit) -> bool:
    return _parameters(one).keys() == _parameters(other).keys() and all(
        np.array_equal(value, _parameters(other)[key]) for key, value in _parameters(one).items()
    )


def _parameters(unit: Unit) -> dict[str, np.ndarray]:
    values = {"weight": unit.weight, "bias": unit.bias}
    if unit.norm:
        groups = np.array(unit.norm.groups)
        values |= {"gamma": unit.norm.weight, "beta": unit.norm.bias, "groups": groups}
        values |= {"mean": unit.norm.mean, "variance": unit.norm.variance}
    return {key: value for key, value in values.items() if value is not None}


def _factor(one: Unit, other: Unit) -> float | None:
    """The factor from ``one`` to ``other``, within rounding; None if there is none."""
    first, second = _parameters(one), _parameters(other)
    if first.keys() != second.keys() or one.weight.shape != other.weight.shape:
        return None
    a, b = (np.concatenate([v.ravel() for v in p.values()]).astype(float) for p in (first, second))
    if np.array_equal(a, b):
        return 1.0
    factor = float(a @ b / (a @ a)) if a.any() else 0.0
    relative, absolute = _ROUNDING.get(one.weight.dtype.name, _FLOAT_ROUNDING)
    near = np.abs(b - factor * a) <= relative * np.abs(b) + absolute
    return factor if near.all() else None


def _towers(one: FoundHead) -> tuple[Unit, ...]:
    return one.tower + (one.boxes_tower or ())


def _name_head(walk: Walk, one: FoundHead, key: str) -> None:
    for module, tower in (("cls", one.tower), ("reg", one.boxes_tower or ())):
        prefix = f"bbox_head.{module}_stride_convs.{key}"
        separable = tower and tower[0].depthwise
        for i, unit in enumerate(tower):
            norm = "gn" if unit.norm and unit.norm.kind == "gn" else "bn"
            half = ("depthwise_conv", "pointwise_conv")[i % 2]
            place = f"{prefix}.{i // 2}.{half}" if separable else f"{prefix}.{i}"
            walk.name(unit, f"{place}.conv", f"{place}.{norm}")
    for kind, output in one.outputs.items():
        walk.name(output.unit, f"bbox_head.stride_{kind}.{key}")


def _groups(walk: Walk, heads: Sequence[FoundHead]) -> int:
    units = [unit for one in heads for unit in _towers(one)]
    first = units[0].norm.groups if units[0].norm else 0
    for unit in units:
        if (unit.norm.groups if unit.norm else 0) != first:
            walk.graph.refuse(unit.node, f"has another norm than {units[0].node}")
    return first


def _counts(walk: Walk, one: FoundHead) -> tuple[int, int, int]:
    """Anchors per cell, classes and keypoints."""
    boxes = one.outputs["reg"]
    anchors = boxes.unit.width // (BOX_SIDES * max(boxes.bins, 1))
    per_anchor: dict[Kind, int] = {}
    for kind, output in one.outputs.items():
        width = output.unit.width // anchors
        pairs = kind != "kps" or width % 2 == 0
        if output.unit.width % anchors or output.width not in (None, width) or not pairs:
            walk.graph.refuse(
                output.unit.node,
                f"makes {output.unit.width} numbers per cell, which do not fit {anchors} anchors",
            )
        per_anchor[kind] = width
    return anchors, per_anchor["cls"], per_anchor.get("kps", 0) // 2
