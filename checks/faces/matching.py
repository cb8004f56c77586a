"""How well an artifact keeps the faces that its reference finds, in the unit of faces.

`agreement` sums up over pictures; `match` pairs the faces of one picture. Intersection over
union is that of continuous coordinates here, without the +1 of the deployed suppression: this
measures how near two boxes are, and an extra pixel would flatter small ones.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from scrfdconv.checks.faces.decode import DEPLOYMENT_THRESHOLD, Faces
from scrfdconv.checks.faces.exact import ExactStatistics, together
from scrfdconv.converters.errors import CheckFailed

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Index = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]
UInt8 = npt.NDArray[np.uint8]

# The same face, as WIDER FACE and VOC judge it.
MATCH_IOU = 0.5
# COCO's average: 0.5, 0.55, ... 0.95. Rounded, because 0.5 + 3 * 0.05 is not 0.65.
AP_IOUS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))


@dataclass(frozen=True)
class Matches:
    """Which faces of two lists are the same ones; row i of all three arrays is one pair."""

    reference: Index  # (m,) indices into the reference's faces
    other: Index  # (m,) indices into the other's faces
    ious: Float64  # (m,) descending


@dataclass(frozen=True)
class Marks:
    """How the faces of one stride, or all of them, were kept.

    A value without measurements is NaN, which fails every limit: all values if the reference has no
    face, the values about pairs if no face was found.
    """

    reference_faces: int  # at the deployment threshold
    found: int  # reference faces paired with an artifact's face; agreement() explains the threshold
    fell: int  # found faces that are below the threshold in the artifact
    extra: int  # the artifact's faces at the threshold without a pair
    rose: int  # the artifact's faces at the threshold whose reference face is below it
    recall: float  # found / reference_faces
    precision: float  # share of the artifact's faces (also fallen ones) that are not extra
    mean_iou: float  # of the pairs
    worst_iou: float
    score_difference: float  # largest of the pairs
    mean_score_difference: float
    keypoint_error: float  # mean distance over pairs and points, as a share of sqrt(w * h)
    worst_keypoint_error: float
    point_errors: tuple[float, ...]  # the mean of each point; see `keypoint_names`

    @property
    def crossings(self) -> str:
        """The faces that changed sides of the threshold, as a part of a sentence."""
        return f"{self.fell} fell below the threshold and {self.rose} rose above it"


@dataclass(frozen=True)
class Agreement(Marks):
    """What an artifact keeps of its reference's faces, over all pictures."""

    images: int
    ap50: float  # average precision at IoU 0.5; see agreement()
    ap: float  # mean average precision over IoU 0.5, 0.55 ... 0.95
    by_stride: Mapping[int, Marks]  # stride of the reference's face; for extra faces, their own

    def require_defined(self) -> None:
        """Raise CheckFailed where there are no faces to judge by."""
        if self.undefined:
            raise CheckFailed(f"{self.undefined[0].upper()}{self.undefined[1:]}.")

    @property
    def undefined(self) -> str | None:
        """Say why nothing can be judged; None if there are faces to judge by."""
        if self.reference_faces:
            return None
        return (
            f"the reference finds no face in {self.images} pictures, so nothing was compared; "
            "give pictures with faces"
        )


def agreement(
    pairs: Iterable[tuple[Faces, Faces]],
    *,
    threshold: float = DEPLOYMENT_THRESHOLD,
    iou: float = MATCH_IOU,
    margin: float = 0.0,
) -> Agreement:
    """Compare (reference, artifact) faces of the same pictures, one pair for each picture.

    Decode both with a low threshold (`decode.LOW_THRESHOLD`). Both are cut at ``threshold``, the
    threshold of deployment, for everything but the average precision. A face whose pair in the
    other model is below the threshold by no more than ``margin`` is neither lost nor extra: it
    crossed the threshold, and is counted as one that fell or rose.

    Average precision: the truth is the reference's faces at ``threshold``, the predictions
    are all of the artifact's, ranked by score over all pictures (equal scores in the order
    given). At each IoU, a prediction takes the nearest truth of its picture that no better one
    took, and is a false positive without one. The area below the precision envelope is exact
    (VOC's all-point rule), ``ap`` is COCO's mean over ten IoUs. The faces that the reference
    itself finds below the threshold are no truth, but they rank last: a perfect artifact has 1.

    Raises `CheckFailed` if only one side has keypoints.
    """
    tally = Tally(threshold, margin, iou)
    for reference, other in pairs:
        tally.add(reference, other)
    return tally.agreement()


def match(reference: Faces, other: Faces, iou: float = MATCH_IOU) -> Matches:
    """Pair the faces of two lists one to one, the pair with the highest IoU first.

    Pairs below ``iou`` do not count, nor do those of two classes. Of equal pairs the first in the
    lists wins.
    """
    overlaps = _overlaps(reference, other)
    rows, columns = np.nonzero(overlaps >= iou)
    pairs: list[tuple[int, int]] = []
    seen_rows: set[int] = set()
    seen_columns: set[int] = set()
    for at in np.argsort(-overlaps[rows, columns], kind="stable"):
        row, column = int(rows[at]), int(columns[at])
        if row not in seen_rows and column not in seen_columns:
            seen_rows.add(row)
            seen_columns.add(column)
            pairs.append((row, column))
    first, second = np.array(pairs, np.intp).reshape(-1, 2).T
    return Matches(first, second, overlaps[first, second])


def _overlaps(a: Faces, b: Faces) -> Float64:
    """`box_ious`, with 0 for faces of two classes."""
    overlaps = box_ious(a.boxes, b.boxes)
    if a.labels is None or b.labels is None:
        return overlaps
    return np.where(a.labels[:, None] == b.labels[None], overlaps, 0.0)


def box_ious(a: Float32, b: Float32) -> Float64:
    """Return the (n, m) intersections over union of two lists of boxes; 0 without an area."""
    left, right = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    spans = np.minimum(left[..., 2:], right[..., 2:]) - np.maximum(left[..., :2], right[..., :2])
    shared = np.maximum(spans, 0).prod(axis=-1)
    union = _areas(left) + _areas(right) - shared
    ious: Float64 = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return ious


def _areas(boxes: Float64) -> Float64:
    areas: Float64 = np.maximum(boxes[..., 2:] - boxes[..., :2], 0).prod(axis=-1)
    return areas


@dataclass
class FaceCounts:
    """Counts and statistics of the faces of one stride, over any number of pictures."""

    reference: int = 0
    own: int = 0  # the artifact's faces at the threshold
    fell: int = 0
    extra: int = 0
    rose: int = 0
    ious: ExactStatistics = field(default_factory=ExactStatistics)
    differences: ExactStatistics = field(default_factory=ExactStatistics)  # of the scores
    points: list[ExactStatistics] = field(default_factory=list)  # errors of each keypoint

    def take_in(self, other: FaceCounts) -> None:
        """Add the faces of ``other``."""
        self.reference += other.reference
        self.own += other.own
        self.fell += other.fell
        self.extra += other.extra
        self.rose += other.rose
        self.ious.take_in(other.ious)
        self.differences.take_in(other.differences)
        for mine, theirs in zip(self.points_of(len(other.points)), other.points, strict=True):
            mine.take_in(theirs)

    def points_of(self, count: int) -> list[ExactStatistics]:
        """The statistics of ``count`` keypoints; none for faces without any."""
        self.points += [ExactStatistics() for _ in range(count - len(self.points))]
        return self.points[:count]

    def marks(self) -> Marks:
        """What the counts say."""
        found, detected = self.ious.count, self.own + self.fell
        errors = together(self.points)
        return Marks(
            reference_faces=self.reference,
            found=found,
            fell=self.fell,
            extra=self.extra,
            rose=self.rose,
            recall=found / self.reference if self.reference else math.nan,
            precision=1 - self.extra / detected if detected and self.reference else math.nan,
            mean_iou=self.ious.mean,
            worst_iou=self.ious.least,
            score_difference=self.differences.greatest,
            mean_score_difference=self.differences.mean,
            keypoint_error=errors.mean,
            worst_keypoint_error=errors.greatest,
            point_errors=tuple(point.mean for point in self.points) if errors.count else (),
        )


@dataclass
class Tally:
    """What is known of the faces of some pictures, without the pictures; see `agreement`.

    Tallies of parts add up to the tally of the whole, bit by bit: all sums are exact, and
    predictions are ranked over all pictures at the end.
    """

    threshold: float
    margin: float
    iou: float
    images: int = 0
    by_stride: dict[int, FaceCounts] = field(default_factory=dict)
    scores: list[Float32] = field(default_factory=list)  # of all predictions
    hits: list[UInt8] = field(default_factory=list)  # (predictions, bits of AP_IOUS)

    def add(self, reference: Faces, predicted: Faces) -> None:
        """Take in one picture."""
        self.images += 1
        lowest = self.threshold - self.margin
        self._count(reference.above(lowest), predicted.above(lowest))
        truth = reference.above(self.threshold)
        ranked = predicted.take(np.argsort(-predicted.scores, kind="stable"))
        self.scores.append(ranked.scores)
        self.hits.append(np.packbits(_hits(_overlaps(ranked, truth)), axis=1))

    def take_in(self, later: Tally) -> None:
        """Add the tally of the pictures that follow; of equal scores, the first rank first."""
        self.images += later.images
        for stride, counts in later.by_stride.items():
            self._of(stride).take_in(counts)
        if later.images:  # one array for all: a million pictures fit into memory
            self.scores.append(np.concatenate(later.scores))
            self.hits.append(np.concatenate(later.hits))

    def agreement(self) -> Agreement:
        """The agreement over all pictures so far."""
        total = FaceCounts()
        for counts in self.by_stride.values():
            total.take_in(counts)
        by_iou = self._average_precisions(total.reference)
        return Agreement(
            **vars(total.marks()),
            images=self.images,
            ap50=by_iou[0],
            ap=float(np.mean(by_iou)),
            by_stride={
                stride: counts.marks()
                for stride, counts in sorted(self.by_stride.items())
                if counts.reference
            },
        )

    def _of(self, stride: int) -> FaceCounts:
        return self.by_stride.setdefault(stride, FaceCounts())

    def _count(self, reference: Faces, other: Faces) -> None:
        """Pair the faces of one picture, both down to the threshold less the margin."""
        matches = match(reference, other, self.iou)
        sure, own = reference.scores >= self.threshold, other.scores >= self.threshold
        matched, unsure = np.zeros(len(other), np.bool_), np.zeros(len(other), np.bool_)
        matched[matches.other] = True
        unsure[matches.other] = ~sure[matches.reference]
        pairs = sure[matches.reference]
        first, second = matches.reference[pairs], matches.other[pairs]
        here, there = reference.take(first), other.take(second)
        differences = np.abs(here.scores.astype(np.float64) - there.scores)
        errors = _keypoint_errors(here, there)
        for stride in np.union1d(_strides(reference)[sure], _strides(other)[own]).tolist():
            counts, pair = self._of(stride), _strides(here) == stride
            mine = own & (_strides(other) == stride)
            counts.reference += int((sure & (_strides(reference) == stride)).sum())
            counts.own += int(mine.sum())
            counts.fell += int((~own[second][pair]).sum())
            counts.extra += int((mine & ~matched).sum())
            counts.rose += int((mine & unsure).sum())
            counts.ious.add(matches.ious[pairs][pair])
            counts.differences.add(differences[pair])
            for point, values in zip(
                counts.points_of(errors.shape[1]), errors[pair].T, strict=True
            ):
                point.add(values)

    def _average_precisions(self, faces: int) -> list[float]:
        if not faces:
            return [math.nan] * len(AP_IOUS)
        order = np.argsort(-np.concatenate(self.scores), kind="stable")
        packed = np.concatenate(self.hits)[order]
        return [_average_precision(_bit(packed, place), faces) for place in range(len(AP_IOUS))]


def _bit(packed: UInt8, place: int) -> Mask:
    """Column ``place`` of the mask whose rows `numpy.packbits` packed."""
    byte, bit = divmod(place, 8)
    return np.asarray(packed[:, byte] & (0x80 >> bit), np.bool_)


def _strides(faces: Faces) -> Index:
    """The stride of each face; 0 for all faces where strides are unknown."""
    return np.zeros(len(faces), np.intp) if faces.strides is None else faces.strides


def _keypoint_errors(reference: Faces, other: Faces) -> Float64:
    """Return each keypoint's distance as a share of its face's size, sqrt(width * height).

    (faces, points); no points for models without keypoints.
    """
    if (reference.keypoints is None) != (other.keypoints is None):
        raise CheckFailed(
            "only one side has keypoints, so these are not the same model; "
            "compare with the model that the artifact was made from."
        )
    if reference.keypoints is None or other.keypoints is None:
        return np.empty((len(reference), 0))
    moved = (other.keypoints - reference.keypoints).astype(np.float64)
    sizes = np.sqrt(_areas(reference.boxes.astype(np.float64)))
    return np.asarray(np.hypot(moved[..., 0], moved[..., 1]) / sizes[:, None])


def _hits(overlaps: Float64) -> Mask:
    """Decide which predictions of one picture, best first, hit a truth at each IoU."""
    limits = np.array(AP_IOUS)
    hits = np.zeros((len(overlaps), len(limits)), np.bool_)
    if not overlaps.size:
        return hits
    free = np.ones((len(limits), overlaps.shape[1]), np.bool_)
    every = np.arange(len(limits))
    # One step decides for all IoUs at once, and most predictions are near no truth at all.
    for row in np.flatnonzero(overlaps.max(axis=1) >= limits.min()):
        nearest = np.where(free, overlaps[row], -1.0).argmax(axis=1)
        hits[row] = free[every, nearest] & (overlaps[row, nearest] >= limits)
        free[every[hits[row]], nearest[hits[row]]] = False
    return hits


def _average_precision(hits: Mask, truths: int) -> float:
    """Return the area below the precision envelope of predictions that are ranked by score."""
    found = np.cumsum(hits)
    precision = found / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    # Recall rises by 1 / truths at every hit and stands still elsewhere.
    return float(envelope[hits].sum() / truths)
