"""From the picture through the stem and the four stages to the neck: convolutions by their keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn, TypeVar

from scrfdconv.converters.lifting.graph import Graph, Node
from scrfdconv.converters.lifting.units import Unit, units_of
from scrfdconv.converters.network.architecture import STAGES, Block

_Part = TypeVar("_Part")

_HALF = 2  # stride and kernel of everything that halves a map
_BOTTLENECK = 3  # convolutions of a bottleneck block; a basic block has two
# Ways of copying every pixel into four that are the same: (coordinates, rounding).
_COPIES = {
    ("asymmetric", "floor"),
    ("asymmetric", "round_prefer_floor"),
    ("half_pixel", "round_prefer_floor"),
    ("half_pixel", "round_prefer_ceil"),
    ("pytorch_half_pixel", "round_prefer_floor"),
    ("pytorch_half_pixel", "round_prefer_ceil"),
}


@dataclass(eq=False)
class Walk:
    """A graph, its convolutions, and the keys that they were given on the way."""

    graph: Graph
    units: dict[Node, Unit]
    # key of a convolution -> the convolution, key of its norm
    keys: dict[str, tuple[Unit, str | None]] = field(default_factory=dict)
    named: set[Unit] = field(default_factory=set)
    seen: set[Node] = field(default_factory=set)

    @classmethod
    def through(cls, graph: Graph) -> Walk:
        """Begin at the picture."""
        return cls(graph, units_of(graph))

    def reading(self, value: str, *, relu: bool) -> list[Unit]:
        """Convolutions of ``value`` that end in a ReLU, or those that do not."""
        readers = (self.units.get(reader) for reader in self.graph.readers(value))
        return [unit for unit in readers if unit is not None and unit.relu == relu]

    def after(self, value: str, what: str) -> Unit:
        """The one convolution that reads ``value``, which should be ``what``."""
        readers = self.graph.readers(value)
        unit = self.units.get(readers[0]) if len(readers) == 1 else None
        if unit is None:
            shown = ", ".join(map(str, readers)) or "nothing"
            self.refuse(value, f"should be read by {what}, but is read by {shown}")
        return unit

    def name(self, unit: Unit, key: str, norm: str | None = None) -> Unit:
        """Give a convolution its key in mmdet's checkpoints, and its norm the key ``norm``."""
        self.see(*unit.nodes)
        self.named.add(unit)
        self.keys[key] = unit, norm
        return unit

    def see(self, *nodes: Node) -> None:
        """Note that nodes were understood."""
        self.seen.update(nodes)

    def refuse(self, value: str, why: str) -> NoReturn:
        """Raise ArtifactError that names the node which makes ``value``."""
        self.graph.refuse(self.graph.maker(value), why)


@dataclass(frozen=True)
class FoundBackbone:
    """Block, widths and depths, and the results of the four stages."""

    block: Block
    stem: tuple[int, ...]
    blocks: tuple[int, ...]
    channels: tuple[int, ...]  # of a block's first convolution, of a separable's last
    levels: tuple[str, ...]


def backbone(walk: Walk) -> FoundBackbone:
    """Follow the picture to the stages' ends; raises ArtifactError where an unknown node is met."""
    first = walk.after(walk.graph.picture, "the first convolution")
    second = walk.after(first.out, "the second convolution")
    if second.depthwise:
        return _mobilenet(walk, first, second)
    return _resnet(walk, first, second)


def _mobilenet(walk: Walk, first: Unit, depthwise: Unit) -> FoundBackbone:
    pointwise = walk.after(depthwise.out, "a 1x1 convolution")
    walk.name(first, "backbone.stem.0.0", "backbone.stem.0.1")
    walk.name(depthwise, "backbone.stem.1.0", "backbone.stem.1.1")
    walk.name(pointwise, "backbone.stem.1.3", "backbone.stem.1.4")
    stages: list[list[tuple[Unit, Unit]]] = []
    value = pointwise.out
    while convolution := _next(walk, value):
        unit = convolution, walk.after(convolution.out, "a 1x1 convolution")
        value = unit[1].out
        _append(stages, unit, starts=convolution.stride == _HALF)
    _require_stages(walk, stages, value)
    for number, stage in enumerate(stages, 1):
        for i, unit in enumerate(stage):
            key = f"backbone.layer{number}.{i}"
            walk.name(unit[0], f"{key}.0", f"{key}.1")
            walk.name(unit[1], f"{key}.3", f"{key}.4")
    return FoundBackbone(
        "separable",
        stem=(first.width, walk.keys["backbone.stem.1.3"][0].width),
        blocks=tuple(map(len, stages)),
        channels=tuple(stage[0][1].width for stage in stages),
        levels=tuple(stage[-1][1].out for stage in stages),
    )


def _resnet(walk: Walk, first: Unit, second: Unit) -> FoundBackbone:
    third = walk.after(second.out, "the third convolution")
    for i, unit in zip((0, 3, 6), (first, second, third), strict=True):
        walk.name(unit, f"backbone.stem.{i}", f"backbone.stem.{i + 1}")
    pool = walk.graph.only_reader(third.out, "MaxPool")
    _require_halving(walk, pool)
    stages: list[list[_ResidualBlock]] = []
    value = pool.output
    while convolution := _next(walk, value):
        block = _residual_block(walk, value, convolution)
        value = block.out
        starts = not stages or any(unit.stride == _HALF for unit in block.body)
        _append(stages, block, starts=starts)
    _require_stages(walk, stages, value)
    depth = len(stages[0][0].body)
    for number, stage in enumerate(stages, 1):
        for i, block in enumerate(stage):
            if len(block.body) != depth:
                walk.refuse(
                    block.out, f"ends a block of {len(block.body)} convolutions, not {depth}"
                )
            _name_block(walk, block, f"backbone.layer{number}.{i}")
    return FoundBackbone(
        "bottleneck" if depth == _BOTTLENECK else "basic",
        stem=(first.width, second.width, third.width),
        blocks=tuple(map(len, stages)),
        channels=tuple(stage[0].body[0].width for stage in stages),
        levels=tuple(stage[-1].out for stage in stages),
    )


@dataclass(frozen=True)
class _ResidualBlock:
    body: tuple[Unit, ...]
    shortcut: Unit | None
    out: str


def _residual_block(walk: Walk, value: str, first: Unit) -> _ResidualBlock:
    body = [first, walk.after(first.out, "the second convolution of a block")]
    if body[-1].relu:
        body.append(walk.after(body[-1].out, "the third convolution of a block"))
    add = walk.graph.only_reader(body[-1].out, "Add")
    relu = walk.graph.only_reader(add.output, "Relu")
    walk.see(add, relu)
    identity = walk.graph.other(add, body[-1].out)
    shortcut = None if identity == value else _shortcut(walk, identity, value)
    return _ResidualBlock(tuple(body), shortcut, relu.output)


def _shortcut(walk: Walk, identity: str, value: str) -> Unit:
    """The convolution that makes ``identity`` of ``value``, behind an average pool or not."""
    unit = next((u for u in walk.units.values() if u.out == identity and not u.relu), None)
    if unit is None:
        walk.refuse(identity, "should be a block's shortcut: its input, or a 1x1 convolution of it")
    if unit.source != value:
        pool = walk.graph.maker(unit.source)
        if pool is None or pool.operator != "AveragePool" or pool.inputs[0] != value:
            walk.graph.refuse(
                unit.node, "should read a block's input, or the input behind an AveragePool"
            )
        _require_halving(walk, pool)
    return unit


def _name_block(walk: Walk, block: _ResidualBlock, key: str) -> None:
    for i, unit in enumerate(block.body, 1):
        walk.name(unit, f"{key}.conv{i}", f"{key}.bn{i}")
    if block.shortcut:
        walk.name(block.shortcut, f"{key}.downsample.1", f"{key}.downsample.2")


def _next(walk: Walk, value: str) -> Unit | None:
    """The next convolution of the backbone: convolutions of the neck have no ReLU."""
    units = walk.reading(value, relu=True)
    if len(units) > 1:
        walk.graph.refuse(
            units[1].node, f"goes on with the backbone a second time, beside {units[0].node}"
        )
    return units[0] if units else None


def _append(stages: list[list[_Part]], item: _Part, *, starts: bool) -> None:
    if starts or not stages:
        stages.append([])
    stages[-1].append(item)


def _require_stages(walk: Walk, stages: Sequence[object], end: str) -> None:
    if len(stages) == STAGES:
        return
    units = walk.reading(end, relu=False)
    behind = [*units, *(node for unit in units for node in walk.graph.readers(unit.out))]
    shown = ", ".join(str(item.node if isinstance(item, Unit) else item) for item in behind)
    walk.refuse(
        end,
        f"ends a backbone of {len(stages)} stages, where an SCRFD has {STAGES}; behind it stand "
        f"{shown or 'no convolutions'}",
    )


def _require_halving(walk: Walk, pool: Node) -> None:
    """Refuse other pools than 2x2 by 2. Rounding does not matter: valid sizes halve evenly."""
    walk.see(pool)
    kernel, strides = pool.ints("kernel_shape", ()), pool.ints("strides", (1, 1))
    if {*kernel, *strides} != {_HALF} or any(pool.ints("pads", ())):
        walk.graph.refuse(pool, f"pools {list(kernel)} by {list(strides)}, not 2x2 by 2")


def require_doubling(walk: Walk, resize: Node) -> None:
    """Raise ArtifactError unless a Resize copies pixels; the Add behind it ensures its factor."""
    walk.see(resize)
    said = {
        key: value.decode(errors="replace") if isinstance(value, bytes) else value
        for key, value in resize.attributes.items()
    }
    way = (
        said.get("coordinate_transformation_mode", "half_pixel"),
        said.get("nearest_mode", "round_prefer_floor"),
    )
    nearest = said.get("mode", "nearest") == "nearest"
    if not nearest or (resize.operator == "Resize" and way not in _COPIES):
        walk.graph.refuse(resize, f"should copy the nearest pixels, but has the attributes {said}")
