"""Which output of a model is which: by shapes, by our own names, or else by position.

Rows tell the stride (anchors times the cells of that size), the width tells the kind: 1 score, 4
box distances, 2k keypoints. Feature maps are rows whose anchors stand side by side as channels. Our
own names say both. Position decides only where neither does, and a remark then says so: a guess
must not look like a fact.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.network.architecture import BOX_SIDES, OUTPUT_KINDS

# Outputs of released models, which have numbers for names: (kinds, strides), by their count.
# All scores come first, then all boxes, then all keypoints.
LAYOUTS = {6: (2, 3), 9: (3, 3), 10: (2, 5), 15: (3, 5)}
_FIRST_STRIDE = 8  # of every released model
_OTHER_FIRST_STRIDES = (4, 16, 32)
_ANCHORS = (2, 1, 3)  # of a cell: all released models have two; a stride that needs more is wrong
MAP_RANK = 4  # of feature maps, which some exports end with
# Strides are powers of two up to the bound of network/bounds.py: "score_0" is no name of ours.
_STRIDES = tuple(1 << power for power in range(9))
NAME = re.compile(rf"({'|'.join(OUTPUT_KINDS)})_({'|'.join(map(str, _STRIDES))})")
_ROWS_RANKS = (2, 3)  # (rows, width) without a batch axis, or with one
_SHOWN = 9  # names that an error lists

if TYPE_CHECKING:
    import numpy as np

Shape = tuple[int, ...]  # of what one image gives


@dataclass(frozen=True)
class Naming:
    """The canonical name of each output, in the model's order; None for one that is no SCRFD's."""

    names: tuple[str | None, ...]
    remark: str = ""  # says what is a guess

    @property
    def canonical(self) -> tuple[str, ...]:
        """The names without the extra outputs."""
        return tuple(name for name in self.names if name is not None)


def named_by_name(names: Sequence[str]) -> Naming | None:
    """Names by our own names, with or without other outputs; None unless ours are a whole set."""
    found = tuple(name if NAME.fullmatch(name) else None for name in names)
    strides = {kind: set[str]() for kind in OUTPUT_KINDS}
    for name in filter(None, found):
        kind, _, stride = name.partition("_")
        strides[kind].add(stride)
    if None not in found and found:
        return Naming(found)
    score, bbox, kps = (strides[kind] for kind in OUTPUT_KINDS)
    whole = bool(score) and score == bbox and kps in (set(), score)
    return Naming(found) if whole else None


def named_by_shape(shapes: Sequence[Shape], size: tuple[int, int]) -> Naming | None:
    """Names by the shapes for one image of ``size`` (H, W); None where they are no SCRFD's.

    Outputs are rows of anchors, or all of them feature maps (N, anchors * width, H/s, W/s). Others,
    and those of no stride, are extra.
    """
    found = _named_by_rows(shapes, size)
    if found or not all(len(shape) == MAP_RANK for shape in shapes):
        return found
    ways = (_named_by_rows(_rows_in_maps(shapes, anchors), size) for anchors in _ANCHORS)
    return next((way for way in ways if way), None)


def _named_by_rows(shapes: Sequence[Shape], size: tuple[int, int]) -> Naming | None:
    rows = [shape[-2] if len(shape) in _ROWS_RANKS else 0 for shape in shapes]
    levels = _levels(shapes, rows)
    strides = _strides(levels, size)
    if not strides:
        return None
    names: list[str | None] = [None] * len(shapes)
    guessed = False
    with_kps = all(len(members) > 2 for members in levels.values())  # noqa: PLR2004
    for count, members in levels.items():
        kinds, sure = _kinds([shapes[i][-1] for i in members], keypoints=with_kps)
        guessed |= not sure
        for i, kind in zip(members, kinds, strict=True):
            names[i] = f"{kind}_{strides[count]}" if kind else None
    told = "kinds of equal or unusual width are told apart by their position" if guessed else ""
    return Naming(tuple(names), told)


def named_by_position(names: Sequence[str], where: Path) -> Naming:
    """Names by the order of released models; raises ArtifactError for another count."""
    if len(names) not in LAYOUTS:
        shown = ", ".join(names[:_SHOWN]) or "none"
        raise ArtifactError(
            f"{where}: is not an SCRFD: it has {len(names)} outputs ({shown} ...), expected "
            "score_8 score_16 score_32 bbox_8 bbox_16 bbox_32 and perhaps kps_8 kps_16 kps_32."
        )
    kinds, levels = LAYOUTS[len(names)]
    strides = [_FIRST_STRIDE << level for level in range(levels)]
    return Naming(
        tuple(f"{kind}_{stride}" for kind in OUTPUT_KINDS[:kinds] for stride in strides),
        "outputs are named by their position: neither names nor shapes tell what they are",
    )


def require_rows(names: Sequence[str], shapes: Sequence[Shape], where: Path) -> None:
    """Raise ArtifactError for maps that nothing tells apart: position must not name them."""
    maps = [
        f"{name} {list(shape)}"
        for name, shape in zip(names, shapes, strict=True)
        if len(shape) not in _ROWS_RANKS
    ]
    if maps and len(maps) == len(names):
        raise ArtifactError(
            f"{where}: is not an SCRFD: its {len(names)} outputs are maps of no known kind "
            f"({maps[0]} ...), expected score_8 score_16 ... as rows of anchors (N, rows, 1 | 4 | "
            "10) or as maps (N, 2 | 8 | 20, H/s, W/s)."
        )


def rows_of_maps(maps: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rows of anchors (N, rows, width) from all maps (N, anchors * width, H/s, W/s) of a model.

    Raises ArtifactError for maps that no SCRFD has.
    """
    anchors = {name.partition("_")[2]: 0 for name in maps}
    for stride in anchors:
        boxes = maps.get(f"bbox_{stride}")
        anchors[stride] = 0 if boxes is None else boxes.shape[1] // BOX_SIDES
    return {
        name: _rows(name, value, anchors[name.partition("_")[2]]) for name, value in maps.items()
    }


def _rows(name: str, value: np.ndarray, anchors: int) -> np.ndarray:
    images, channels = value.shape[:2]
    if not anchors or channels % anchors:
        raise ArtifactError(
            f"{name} is a map of {channels} channels, which is no multiple of the anchors of a "
            "cell, a quarter of the channels of its boxes."
        )
    # Channels come anchor by anchor, as in the rows: (N, y, x, anchor, width).
    return value.transpose(0, 2, 3, 1).reshape(images, -1, channels // anchors)


# ---------------------------------------------------------------- by shape


def _rows_in_maps(shapes: Sequence[Shape], anchors: int) -> list[Shape]:
    """The rows in maps of so many anchors; maps of a size at which that is impossible stay maps."""
    channels: dict[Shape, list[int]] = {}
    for shape in shapes:
        channels.setdefault(shape[2:], []).append(shape[1])
    possible = {
        size
        for size, counts in channels.items()
        if BOX_SIDES * anchors in counts and not any(count % anchors for count in counts)
    }
    return [
        (shape[0], anchors * shape[2] * shape[3], shape[1] // anchors)
        if shape[2:] in possible
        else shape
        for shape in shapes
    ]


def _levels(shapes: Sequence[Shape], rows: Sequence[int]) -> dict[int, list[int]]:
    """Places of outputs by their number of rows, those without boxes left out; most rows first."""
    found = {count: [i for i, n in enumerate(rows) if n == count] for count in set(rows) - {0}}
    return {
        count: found[count]
        for count in sorted(found, reverse=True)
        if len(found[count]) > 1 and BOX_SIDES in [shapes[i][-1] for i in found[count]]
    }


def _strides(levels: dict[int, list[int]], size: tuple[int, int]) -> dict[int, int]:
    """The stride of every level, each twice the one before; empty where rows fit no grid."""
    if not levels:
        return {}
    for anchors in _ANCHORS:
        for first in (_FIRST_STRIDE, *_OTHER_FIRST_STRIDES):
            strides = [first << level for level in range(len(levels))]
            cells = [anchors * -(-size[0] // s) * -(-size[1] // s) for s in strides]
            if cells == list(levels):
                return dict(zip(levels, strides, strict=True))
    return {}


def _kinds(widths: Sequence[int], *, keypoints: bool) -> tuple[list[str | None], bool]:
    """The kinds of one level's outputs by their widths, and whether that is beyond doubt."""
    score, bbox, kps = OUTPUT_KINDS
    count = Counter(widths)
    kinds: list[str | None] = [None] * len(widths)
    sure = count[BOX_SIDES] == 1
    kinds[_box(widths)] = bbox
    free = [i for i, kind in enumerate(kinds) if kind is None]
    if not keypoints or len(free) == 1:
        narrow = min(free, key=lambda i: (widths[i] != 1, i))
        kinds[narrow] = score
        return kinds, sure and (len(free) == 1 or count[1] == 1)
    narrow = next((i for i in free if widths[i] == 1), free[0])
    kinds[narrow] = score
    even = [i for i in free if i != narrow and widths[i] % 2 == 0]
    if even:
        kinds[even[0]] = kps
    return kinds, sure and count[1] == 1 and len(even) == 1


def _box(widths: Sequence[int]) -> int:
    """The place of the boxes: behind the scores, where several outputs have four columns."""
    places = [i for i, width in enumerate(widths) if width == BOX_SIDES]
    return places[0] if len(places) == 1 or places[0] > 0 else places[1]
