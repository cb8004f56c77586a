"""From the stages' results through the neck and the heads to the outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scrfdconv.converters.lifting.backbone import Walk, require_doubling
from scrfdconv.converters.lifting.graph import Node
from scrfdconv.converters.lifting.units import Unit
from scrfdconv.converters.network.architecture import BOX_SIDES, FIRST_STAGE_STRIDE, NeckKind

# (N, C, H, W) to (N, H, W, C), and to (H, W, N, C) as files from before October 2021 have it.
_LAST = ((0, 2, 3, 1), (2, 3, 0, 1))
_TO_ROWS = ("Transpose", "Reshape")
_LAST_AXIS = (-1, 2)  # of (N, rows of anchors and sides, bins)
Kind = Literal["cls", "reg", "kps"]


@dataclass(frozen=True)
class Neck:
    """Kind, width, strides, and the maps for the heads, finest first."""

    kind: NeckKind
    channels: int
    strides: tuple[int, ...]
    maps: tuple[str, ...]


@dataclass(frozen=True)
class Output:
    """A last convolution, and what lies between it and output number ``index``."""

    unit: Unit
    index: int
    score: bool  # ends in a sigmoid
    factor: float | None  # a multiplication, on boxes
    width: int | None  # last dimension, where the graph says it
    is_map: bool  # (N, C, H, W) as from the convolution, not rows of anchors
    bins: int = 0  # of the distributions (DFL) whose means are the output


@dataclass(frozen=True)
class FoundHead:
    """What one stride's map goes through; ``boxes_tower`` is None where boxes share the scores'."""

    tower: tuple[Unit, ...]
    boxes_tower: tuple[Unit, ...] | None
    outputs: dict[Kind, Output]


def neck(walk: Walk, levels: tuple[str, ...]) -> Neck:
    """Follow the stages' results to the maps for the heads."""
    laterals = [walk.reading(level, relu=False) for level in levels]
    start = next((i for i, units in enumerate(laterals) if units), None)
    if start is None:
        walk.refuse(levels[-1], "ends the backbone, and no neck reads it")
    for level, units in zip(levels[start:], laterals[start:], strict=True):
        if len(units) != 1:
            walk.refuse(
                level, f"should go to one convolution of the neck, but goes to {len(units)}"
            )
    first = [units[0] for units in laterals[start:]]
    for i, unit in enumerate(first):
        walk.name(unit, f"neck.lateral_convs.{i}.conv")
    maps = _top_down(walk, [unit.out for unit in first])
    kind: NeckKind = "pafpn"
    if len(maps) > 1 and not _downs(walk, maps, 0):
        kind = "fpn"
    else:
        maps = _bottom_up(walk, maps)
    maps = _extended(walk, maps)
    strides = tuple(FIRST_STAGE_STRIDE << (start + i) for i in range(len(maps)))
    return Neck(kind, first[0].width, strides, tuple(maps))


def _top_down(walk: Walk, x: list[str]) -> list[str]:
    """Results of the 3x3 convolutions behind the top-down path."""
    for i in range(len(x) - 1, 0, -1):
        resizes = [r for r in walk.graph.readers(x[i]) if r.operator in ("Resize", "Upsample")]
        if len(resizes) != 1:
            walk.refuse(x[i], f"should be enlarged once, not {len(resizes)} times")
        require_doubling(walk, resizes[0])
        add = walk.graph.only_reader(resizes[0].output, "Add")
        if walk.graph.other(add, resizes[0].output) != x[i - 1]:
            walk.graph.refuse(add, "should add the enlarged map to the next finer one")
        walk.see(add)
        x[i - 1] = add.output
    found = []
    for i, value in enumerate(x):
        unit = _single(walk, value, walk.reading(value, relu=False))
        found.append(walk.name(unit, f"neck.fpn_convs.{i}.conv").out)
    return found


def _bottom_up(walk: Walk, x: list[str]) -> list[str]:
    """Results of both paths; ``x`` are those of the top-down path."""
    maps = x[:1]
    for i in range(len(x) - 1):
        down = _single(walk, x[i], _downs(walk, x, i))
        walk.name(down, f"neck.downsample_convs.{i}.conv")
        (add,) = walk.graph.readers(down.out)
        walk.see(add)
        x[i + 1] = add.output
    for i, value in enumerate(x[1:]):
        units = [u for u in walk.reading(value, relu=False) if u not in walk.named]
        unit = walk.name(_single(walk, value, units), f"neck.pafpn_convs.{i}.conv")
        maps.append(unit.out)
    return maps


def _downs(walk: Walk, x: list[str], i: int) -> list[Unit]:
    """Convolutions of the bottom-up path that halve level ``i``."""
    return [u for u in walk.reading(x[i], relu=False) if _adds_to(walk, u, x[i + 1])]


def _extended(walk: Walk, maps: list[str]) -> list[str]:
    """``maps`` and those of strides beyond the backbone's."""
    count = len(maps)
    while extra := [u for u in walk.reading(maps[-1], relu=False) if u not in walk.named]:
        unit = _single(walk, maps[-1], extra)
        maps.append(walk.name(unit, f"neck.fpn_convs.{count}.conv").out)
        count += 1
    return maps


def _adds_to(walk: Walk, unit: Unit, value: str) -> bool:
    readers = walk.graph.readers(unit.out)
    return [r.operator for r in readers] == ["Add"] and value in walk.graph.values(readers[0])


def _single(walk: Walk, value: str, units: list[Unit]) -> Unit:
    if len(units) != 1:
        walk.refuse(value, f"should go to one more convolution of the neck, not {len(units)}")
    return units[0]


def head(walk: Walk, value: str) -> FoundHead:
    """Follow one map of the neck to its outputs."""
    towers = [_tower(walk, unit) for unit in walk.reading(value, relu=True)]
    ends = [[_output(walk, u) for u in walk.reading(t[-1].out, relu=False)] for t in towers]
    pairs = sorted(
        zip(towers, ends, strict=True), key=lambda pair: not any(o.score for o in pair[1])
    )
    outputs = [output for _, found in pairs for output in found]
    scores = [output for output in outputs if output.score]
    if len(pairs) not in (1, 2) or len(scores) != 1 or len(outputs) not in (2, 3):
        walk.refuse(
            value,
            f"should go through one or two towers to scores, boxes and perhaps keypoints; "
            f"{len(pairs)} towers, {len(scores)} scores and {len(outputs)} outputs were found",
        )
    others = sorted((o for o in outputs if not o.score), key=_boxes_first)
    boxes = others[0]
    if boxes.width not in (None, BOX_SIDES) or boxes.unit.width % (BOX_SIDES * max(boxes.bins, 1)):
        walk.graph.refuse(
            boxes.unit.node,
            f"makes boxes of {boxes.width or boxes.unit.width} numbers, not of {BOX_SIDES} "
            "distances",
        )
    kinds: tuple[Kind, ...] = ("cls", "reg", "kps")
    return FoundHead(
        pairs[0][0],
        pairs[1][0] if len(pairs) > 1 else None,
        dict(zip(kinds, (*scores, *others), strict=False)),
    )


def _boxes_first(output: Output) -> tuple[bool, int]:
    """Sort key: boxes have four numbers; two keypoints, too, but they come later in every file."""
    return output.width not in (None, BOX_SIDES), output.index


def _tower(walk: Walk, first: Unit) -> tuple[Unit, ...]:
    units = [first]
    while following := walk.reading(units[-1].out, relu=True):
        if len(following) > 1:
            walk.refuse(units[-1].out, "should go to one convolution of a tower, but goes to two")
        units += following
    return tuple(units)


def _output(walk: Walk, unit: Unit) -> Output:
    """Follow a last convolution to its output."""
    graph, value = walk.graph, unit.out
    score, factor, width, bins = False, None, None, 0
    moved: list[str] = []
    walk.see(*unit.nodes)
    while value not in graph.outputs:
        readers = graph.readers(value)
        if len(readers) != 1:
            walk.refuse(value, f"should lead to one output, but is read {len(readers)} times")
        node = readers[0]
        if node.operator == "Mul" and not bins:
            factor = (1.0 if factor is None else factor) * _scalar(walk, node)
        elif node.operator == "Reshape":
            shape = graph.constant(node, 1)
            width = int(shape[-1]) if shape is not None and shape.ndim == 1 and len(shape) else None
        elif node.operator == "Sigmoid":
            score = True
        elif node.operator == "Softmax" and not bins:
            walk.see(node)
            node, bins = _means(walk, node, width)
        elif node.operator != "Transpose" or node.ints("perm", ()) not in _LAST:
            graph.refuse(node, "is not known behind a last convolution")
        moved += [node.operator] if node.operator in _TO_ROWS else []
        walk.see(node)
        value = node.output
    if moved and moved != [*_TO_ROWS, *_TO_ROWS[1 : 1 + bool(bins)]]:
        walk.refuse(value, f"should make rows of anchors by {' and '.join(_TO_ROWS)}, both")
    index = graph.outputs.index(value)
    declared = graph.declared[index]
    if not width and moved and declared:
        width = declared[-1]
    return Output(
        unit=unit,
        index=index,
        score=score,
        factor=factor,
        width=width if width and width > 0 else None,
        is_map=not moved,
        bins=bins,
    )


def _means(walk: Walk, softmax: Node, width: int | None) -> tuple[Node, int]:
    """The product that makes a mean of each distribution over 0, 1, 2 ..., and how many bins."""
    product = walk.graph.only_reader(softmax.output, "MatMul")
    bins = walk.graph.constant(product, 1)
    if bins is None or bins.ravel().tolist() != list(range(bins.size)):
        walk.graph.refuse(product, "should weigh each bin of a distribution by its number")
    if width not in (None, bins.size) or softmax.attributes.get("axis") not in _LAST_AXIS:
        walk.graph.refuse(softmax, f"should make distributions over {bins.size} bins")
    return product, bins.size


def _scalar(walk: Walk, node: Node) -> float:
    constants = [walk.graph.constant(node, index) for index in (0, 1)]
    found = next((c for c in constants if c is not None and c.size == 1), None)
    if found is None:
        walk.graph.refuse(node, "should multiply by one learned factor")
    return float(found.reshape(()))
