"""Do the calibration pictures show what the detector will meet? Checked before ranges are used."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from scrfdconv.checks.faces.decode import DEPLOYMENT_THRESHOLD, Faces, decode
from scrfdconv.converters.precision.int8.calibration import Extremes, widest
from scrfdconv.converters.runner import Outputs

# Below this, one picture decides about the ranges of many tensors.
FEWEST_IMAGES = 8
# A portrait: one face with at least this share of the canvas' shorter side. 4 of 24 varied
# photographs are portraits; a set of portraits only shows no small faces and little background.
PORTRAIT_SHARE = 0.25
# The last quarter of 24 varied photographs widened the ranges by 1.3 % on average, the last two of
# eight portraits by 4 to 9 %.
LARGEST_GROWTH = 0.03
LAST_PART = 4  # the last quarter

_SIZES = {0: "small", -1: "large"}  # faces of the finest and of the coarsest stride


@dataclass(frozen=True)
class FacesSeen:
    """The faces that the reference finds on one calibration picture."""

    by_stride: dict[int, int]
    largest: float  # share of the canvas' shorter side; 0 without a face

    @property
    def faces(self) -> int:
        """Number of all faces."""
        return sum(self.by_stride.values())


@dataclass(frozen=True)
class Coverage:
    """What a calibration set shows, and what it lacks."""

    images: int
    faces: int
    by_stride: dict[int, int]
    growth: float  # mean growth of the ranges by the last quarter of the pictures; 0 to 1
    warnings: tuple[str, ...] = field(default=())

    def sentence(self) -> str:
        """``24 pictures, 294 faces (stride 8: 210, 16: 60, 32: 24), ranges grew 1.3 % ...``."""
        strides = ", ".join(f"{stride}: {count}" for stride, count in self.by_stride.items())
        return (
            f"{self.images} pictures, {self.faces} faces (stride {strides}); the last quarter "
            f"widened the ranges by {self.growth:.1%}"
        )

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "images": self.images,
            "faces": self.faces,
            "faces_by_stride": {str(k): v for k, v in self.by_stride.items()},
            "range_growth": self.growth,
            "warnings": list(self.warnings),
        }


def seen(outputs: Outputs, size: tuple[int, int]) -> FacesSeen:
    """Count the faces of one picture by the stride that found them."""
    (faces,) = decode(outputs, size)
    strides = sorted({int(name.rpartition("_")[2]) for name in outputs})
    counts = {stride: _found_at(faces, outputs[f"score_{stride}"]) for stride in strides}
    sides = (faces.boxes[:, 2:] - faces.boxes[:, :2]).max(axis=1, initial=0)
    return FacesSeen(counts, float(sides.max(initial=0)) / min(size))


def _found_at(faces: Faces, scores: np.ndarray) -> int:
    """Suppression keeps scores as they are, so a face's score tells its stride."""
    candidates = scores[scores >= DEPLOYMENT_THRESHOLD].astype(np.float32)
    return int(np.isin(faces.scores, candidates).sum())


def coverage(
    pictures: Sequence[FacesSeen], parts: Sequence[Extremes], *, trained: bool
) -> Coverage:
    """Sum up and judge; an untrained reference finds no faces that could be judged."""
    strides = {stride: 0 for picture in pictures for stride in picture.by_stride}
    for picture in pictures:
        for stride, count in picture.by_stride.items():
            strides[stride] += count * trained
    found = Coverage(
        len(pictures), sum(strides.values()), strides, growth(parts) if len(parts) > 1 else 1.0
    )
    told = [*_size_warnings(found)]
    if trained:
        told += _face_warnings(found, pictures)
    return Coverage(
        images=found.images,
        faces=found.faces,
        by_stride=strides,
        growth=found.growth,
        warnings=tuple(told),
    )


def growth(parts: Sequence[Extremes]) -> float:
    """How much the last quarter of the pictures widens the ranges, on average over tensors."""
    last = max(1, len(parts) // LAST_PART)
    before, after = _widths(parts[:-last]), _widths(parts)
    shares = [1 - before[name] / after[name] for name in after if after[name] > 0]
    return float(np.mean(shares)) if shares else 0.0


def _widths(parts: Iterable[Extremes]) -> dict[str, float]:
    all_of = widest(parts)
    return {name: high - all_of.low[name] for name, high in all_of.high.items()}


def _size_warnings(found: Coverage) -> Iterable[str]:
    if found.images < FEWEST_IMAGES:
        yield (
            f"only {found.images} calibration pictures: give at least {FEWEST_IMAGES}, better 24 "
            "or more, of what the detector will meet"
        )
    if found.growth > LARGEST_GROWTH and found.images > 1:
        yield (
            f"the ranges still grow with every picture ({found.growth:.1%} by the last quarter): "
            "give more pictures, and more different ones"
        )


def _face_warnings(found: Coverage, pictures: Sequence[FacesSeen]) -> Iterable[str]:
    if not found.faces:
        yield "no calibration picture has a face: give photographs with faces of all sizes"
        return
    if all(p.faces <= 1 and (not p.faces or p.largest >= PORTRAIT_SHARE) for p in pictures):
        yield (
            "the calibration pictures are portraits or crops of one large face each: give whole "
            "photographs, with groups, small faces and background"
        )
    for stride, count in found.by_stride.items():
        if not count:
            yield (
                f"no face in the calibration pictures is found at stride {stride} "
                f"({_wanted(stride, found.by_stride)}): give photographs with such faces"
            )


def _wanted(stride: int, strides: Iterable[int]) -> str:
    """Upstream's anchors at stride s are 2 s and 4 s wide."""
    known = sorted(strides)
    low = "up to" if stride == known[0] else f"{2 * stride} to"
    return f"{low} {8 * stride} pixels wide at the calibration size"
