"""How far the faces of an artifact may be from those of its reference: one row per precision.

Measured on 40 photographs with three trained models at 640x640 and 320x320, about 300 to 400 faces
each: FP16 (also with everything in FP16) and INT8 (calibrated on 24 photographs, and on eight
portraits), each stride on its own. The worst values:

                       FP16     INT8
  mean IoU             0.998    0.979
  worst IoU            0.974    0.773   another anchor of the same face won
  mean error of a      0.0004   0.015   as a share of the face's size
  keypoint, worst one  0.0041   0.086
  score, mean          0.0007   0.010
  score, worst         0.0085   0.087   near the threshold, where the margin counts

No face was lost or new beyond the margin. Boxes that are 10 % too large have a mean IoU of 0.83.
Small errors that all go in one direction are found earlier, by ``tolerances.BIASES``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from scrfdconv.checks.faces.decode import keypoint_names
from scrfdconv.checks.faces.matching import Agreement, Marks
from scrfdconv.checks.results import CheckResult

CHECK = "faces"

# Share of the reference's faces that must be found, and of the artifact's faces that must be the
# reference's; faces that crossed the threshold within the margin count as found. INT8 loses no
# face with care, and lost 3 % in the worst case without care. Of two boxes that overlap just enough
# to suppress each other, rounding may keep the other one. The budget of `int8` is stricter.
KEPT = {"fp32": 0.999, "tf32": 0.99, "fp16": 0.99, "int8": 0.95}
# With few faces, a single one is a larger share than the limit allows, but rounding on purpose may
# always lose one face to such a suppression. So one lost face passes. With fewer than ten faces
# this exception would excuse too much.
REDUCED, FEWEST_TO_SPARE = ("fp16", "int8"), 10


@dataclass(frozen=True)
class FaceLimits:
    """Limits on ``matching.Marks``."""

    margin: float  # of scores: a face that moved by less over the threshold is neither lost nor new
    mean_iou: float
    worst_iou: float
    point: float  # mean error of the worst of the points, share of the face's size
    worst_point: float
    score: float  # mean difference
    worst_score: float


# One and a half times the measured errors, or more. Limits on worst values catch only coarse
# faults, because another anchor may win by rounding; limits on means catch the fine ones.
_REDUCED = FaceLimits(0.02, 0.995, 0.7, 0.003, 0.1, 0.005, 0.03)
LIMITS = {
    # Rounding of float32: tensors agree to 4e-4 strides, so only ties may be decided differently.
    "fp32": FaceLimits(0.001, 0.999, 0.9, 0.001, 0.05, 0.0005, 0.001),
    "tf32": _REDUCED,  # in simulation, TF32 has the same errors as FP16
    "fp16": _REDUCED,
    "int8": FaceLimits(0.1, 0.95, 0.6, 0.025, 0.25, 0.03, 0.15),
}


def faces_limit(precision: str, faces: int) -> float:
    """The smallest recall and precision of an artifact whose reference has so many ``faces``."""
    limit = KEPT[precision]
    spared = precision in REDUCED and faces >= FEWEST_TO_SPARE
    return min(limit, 1 - 1 / faces) if spared else limit


def faces_allowed(budget: float, faces: int) -> int:
    """Number of faces that may be lost, and that may be new, for a share of so many ``faces``.

    At least one: below a hundred faces, one face is more than 1 %. And of two boxes that
    overlap just enough to suppress each other, rounding may keep either.
    """
    return max(1, int(budget * faces)) if budget else 0


def results_of(found: Agreement, precision: str) -> Iterator[CheckResult]:
    """The agreement as results: for all faces, and for the faces of each stride."""
    if found.undefined:
        for metric in ("recall", "precision"):
            value, limit = getattr(found, metric), KEPT[precision]
            yield CheckResult(
                check=CHECK,
                subject=CHECK,
                metric=metric,
                measured=value,
                limit=limit,
                at_least=True,
                detail=found.undefined,
            )
        return
    detail = (
        f"{found.reference_faces} faces on {found.images} images, {found.extra} extra, "
        f"{found.crossings}; AP50 {found.ap50:.4f}"
    )
    yield from _results(CHECK, found, precision, detail)
    for stride, marks in found.by_stride.items():
        detail = f"{marks.reference_faces} faces of stride {stride}, {marks.crossings}"
        yield from _results(f"{CHECK}_{stride}", marks, precision, detail)


def _results(subject: str, marks: Marks, precision: str, detail: str) -> Iterator[CheckResult]:
    limits = LIMITS[precision]
    kept = faces_limit(precision, marks.reference_faces)

    def result(metric: str, value: float, limit: float, *, at_least: bool) -> CheckResult:
        return CheckResult(
            check=CHECK,
            subject=subject,
            metric=metric,
            measured=value,
            limit=limit,
            at_least=at_least,
            detail=detail,
        )

    yield result("recall", marks.recall, kept, at_least=True)
    # A stride without any face in the artifact has no precision; its recall says everything.
    if subject == CHECK or not math.isnan(marks.precision):
        yield result("precision", marks.precision, kept, at_least=True)
    if not marks.found:
        return
    iou = of_few(limits.mean_iou, limits.worst_iou, marks.found)
    yield result("mean_iou", marks.mean_iou, iou, at_least=True)
    yield result("worst_iou", marks.worst_iou, limits.worst_iou, at_least=True)
    score = of_few(limits.score, limits.worst_score, marks.found)
    yield result("mean_score", marks.mean_score_difference, score, at_least=False)
    yield result("worst_score", marks.score_difference, limits.worst_score, at_least=False)
    point = of_few(limits.point, limits.worst_point, marks.found)
    names = keypoint_names(len(marks.point_errors))
    for name, error in zip(names, marks.point_errors, strict=True):
        yield result(name, error, point, at_least=False)
    if marks.point_errors:
        worst = marks.worst_keypoint_error
        yield result("worst_keypoint", worst, limits.worst_point, at_least=False)


def of_few(mean: float, worst: float, count: int) -> float:
    """The limit on the mean of ``count`` values, one of which may be at the worst limit."""
    return (mean * (count - 1) + worst) / count
