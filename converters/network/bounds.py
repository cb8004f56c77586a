"""How large an SCRFD can be: every number of an architecture, before anything is built from it.

The numbers come from files. A config of one line may ask for 10^9 blocks, which would fill the
memory long before the missing weights are noticed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scrfdconv.converters.network.architecture import Architecture

# Largest value of each field: several times that of the largest known network (34G), or of what
# trainers of face detectors have published. Lists are bounded value by value.
LARGEST = {
    "stem_channels": 1024,  # 34G: 56
    "stage_blocks": 64,  # 34G: 17
    "stage_channels": 2048,  # 34G: 184
    "neck_channels": 1024,  # 34G: 128
    "head_channels": 1024,  # 34G: 256
    "head_convs": 16,  # 10G: 3
    "head_groups": 1024,  # no more than channels
    "keypoints": 512,  # 5; dense face meshes have 478
    "strides": 256,  # 32, 128 with two more levels
    "anchors": 32,  # 2
    "classes": 1000,  # 1
    "box_bins": 64,  # 17 in GFL, whose reg_max is 16
}
MOST_VALUES = 8  # of a list; there are four stages, and at most six strides
LONGEST_NAME = 200  # characters; it becomes a part of file names
MOST_PARAMETERS = 200_000_000  # 34G has 9.8 million; 800 MB of float32


def broken_bound(architecture: Architecture) -> str:
    """What an architecture exceeds, as the end of a sentence; "" if it keeps all bounds."""
    return next(_faults(architecture), "")


def _faults(architecture: Architecture) -> Iterator[str]:
    name: Any = architecture.name
    if not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME or not name.isprintable():
        yield f"its name must be a text of 1 to {LONGEST_NAME} printable characters"
        return
    for flag in ("head_shared", "head_separable", "box_scales", "shared_tower"):
        if not isinstance(getattr(architecture, flag), bool):
            yield f"{flag} must be true or false"
    for field, largest in LARGEST.items():
        value: Any = getattr(architecture, field)
        values = value if isinstance(value, tuple) else (value,)
        if not 0 < len(values) <= MOST_VALUES:
            yield f"{field} has {len(values)} values, 1 to {MOST_VALUES} are possible"
        for number in values:
            if type(number) is not int:
                yield f"{field} must be whole numbers"
            elif not 0 <= number <= largest:
                yield f"{field} must be at most {largest}, as in a face detector"
    if parameters(architecture) > MOST_PARAMETERS:
        yield f"it would have more than {MOST_PARAMETERS // 10**6} million weights"


def parameters(architecture: Architecture) -> int:
    """An upper bound of the number of weights, from the widths alone."""
    a = architecture
    wide = 4 if a.block == "bottleneck" else 1
    stages = sum(
        blocks * (9 * c * c + (wide * c) ** 2 + 2 * c * wide * c)
        for blocks, c in zip(a.stage_blocks, a.stage_channels, strict=False)
    )
    neck = 9 * a.neck_channels**2 * 4 * len(a.strides)
    towers = sum(
        2 * 9 * convs * max(c, a.neck_channels) * c
        for convs, c in zip(a.head_convs, a.head_channels, strict=False)
    )
    rows = a.anchors * (a.classes + 4 * max(a.box_bins, 1) + 2 * a.keypoints)
    return stages + neck + towers + 9 * rows * sum(a.head_channels)
