"""WIDER FACE validation: average precision of detections on the three subsets.

The protocol is the one of the data set's own ``eval_tools`` (http://shuoyang1213.me/WIDERFACE/),
which the scripts of RetinaFace and SCRFD repeat. The ground truth is read by ``truth.py``,
detections by ``result_files.py``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from scrfdconv.checks.widerface.result_files import Results, require_detections
from scrfdconv.checks.widerface.truth import SUBSETS, GroundTruth
from scrfdconv.converters.errors import InputFileError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Ints = NDArray[np.int64]

IOU_THRESHOLD = 0.5  # the protocol's: a prediction that overlaps a face by this much is a hit
THRESHOLD_COUNT = 1000  # the protocol's: scores 0.999, 0.998 ... 0.000 after normalisation
PIXEL = 1.0  # the protocol counts both border pixels: a box from 3 to 5 is 3 wide
PAIRS_AT_ONCE = 1 << 16  # predictions x faces in one IoU matrix: 512 KiB, which stays in the cache


@dataclass(frozen=True)
class Curve:
    """Precision against recall of one subset: (1000,) arrays, from the highest threshold down."""

    ap: float  # 0..1; NaN where the subset has no faces at all
    faces: int  # of the subset
    found: Ints  # faces with a hit at or above the threshold
    proposals: Ints  # predictions at or above the threshold, without those that hit other faces
    recall: Floats  # found / faces
    precision: Floats  # found / proposals; 0 where there are no proposals yet


@dataclass(frozen=True)
class Evaluation:
    """What ``evaluate_results`` measured: the three curves and what they were measured on."""

    curves: Mapping[str, Curve]  # keys are SUBSETS
    images: int
    predictions: int

    @property
    def ap(self) -> dict[str, float]:
        """Average precision by subset, 0..1."""
        return {subset: curve.ap for subset, curve in self.curves.items()}


def evaluate_results(
    ground_truth: GroundTruth, results: Results, iou: float = IOU_THRESHOLD
) -> Evaluation:
    """Score ``results`` by the WIDER FACE validation protocol.

    Scores are normalised to 0..1 over the whole set. A prediction belongs to the face that it
    overlaps most, if by ``iou`` or more. One that hits a face outside the subset is left out; any
    other is a proposal, and the first to hit a face of the subset finds it. Images without any
    labelled face are left out, images without faces of the subset are not. Precision and recall are
    read at 1000 thresholds, and AP is the area under the precision envelope (VOC 2010 style).

    The order of the detections does not matter: the original tools sort by score first. If all
    scores are equal there is one operating point, at threshold 0. Raises ``InputFileError`` unless
    ``results`` has exactly the images of ``ground_truth``, ``CheckFailed`` for values that are not
    finite.
    """
    _require_same_images(ground_truth, results)
    matches = _match_predictions(ground_truth, results, iou)
    counts = [image.counts for image in ground_truth.images]
    masks = np.concatenate(counts, axis=1) if counts else np.zeros((len(SUBSETS), 0), np.bool_)
    return Evaluation(
        curves={name: _curve(matches, mask) for name, mask in zip(SUBSETS, masks, strict=True)},
        images=len(ground_truth.images),
        predictions=sum(map(len, results.values())),
    )


def _require_same_images(ground_truth: GroundTruth, results: Results) -> None:
    names = ground_truth.names
    events = {name.split("/")[0] for name in names}
    known = set(names)
    for name in results:
        if name in known:
            require_detections(name, results[name])
            continue
        event = name.split("/")[0]
        what = "image" if event in events else "event"
        raise InputFileError(f"Results of {name}: no such {what} in the ground truth; remove it.")
    if missing := [name for name in names if name not in results]:
        raise InputFileError(
            f"Results of {len(missing)} of {len(names)} images are missing, first {missing[0]}; "
            "an image without detections needs a file with the count 0."
        )


@dataclass(frozen=True)
class _Matches:
    """Every prediction of the images that have faces, one after the other."""

    scores: Floats  # (p,) normalised
    faces: Ints  # (p,) the best face, counted through all images; any where not hit
    hit: Bools  # (p,) whether it overlaps that face enough


def _match_predictions(ground_truth: GroundTruth, results: Results, iou: float) -> _Matches:
    """Match every prediction with its face. The subsets differ only in the faces that count."""
    scores, faces, hits = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros(0, np.bool_)]
    offset = 0
    for image in ground_truth.images:
        detections = results[image.name]
        if len(image.boxes) and len(detections):
            best, overlap = _best_faces(detections[:, :4].astype(np.float64), image.boxes)
            scores.append(detections[:, 4])
            faces.append(best + offset)
            hits.append(overlap >= iou)
        offset += len(image.boxes)
    low, high = _score_range(results)
    normalised = (np.concatenate(scores) - low) / ((high - low) or 1.0)
    return _Matches(normalised, np.concatenate(faces), np.concatenate(hits))


def _score_range(results: Results) -> tuple[float, float]:
    """Lowest and highest score of all images, with or without faces."""
    scores = [detections[:, 4] for detections in results.values() if len(detections)]
    if not scores:
        return 0.0, 0.0
    return float(min(s.min() for s in scores)), float(max(s.max() for s in scores))


def _best_faces(predictions: Floats, faces: Floats) -> tuple[Ints, Floats]:
    """Index and IoU of the face that each prediction overlaps most, the first one of equals."""
    best = np.empty(len(predictions), np.int64)
    overlap = np.empty(len(predictions))
    step = max(1, PAIRS_AT_ONCE // len(faces))
    for start in range(0, len(predictions), step):
        part = slice(start, start + step)
        matrix = _iou(predictions[part], faces)
        best[part] = matrix.argmax(axis=1)
        overlap[part] = matrix.max(axis=1)
    return best, overlap


def _iou(predictions: Floats, faces: Floats) -> Floats:
    """IoU of (n, 4) with (m, 4) boxes x, y, w, h, border pixels included: (n, m)."""
    # The sums are formed in the order of the original tools: an overlap of exactly one half is
    # common between whole-number boxes, and another rounding would turn it into a miss.
    x1, y1, x2, y2 = _corners(predictions[:, None])
    fx1, fy1, fx2, fy2 = _corners(faces)
    width = np.minimum(x2, fx2) - np.maximum(x1, fx1) + PIXEL
    height = np.minimum(y2, fy2) - np.maximum(y1, fy1) + PIXEL
    common = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    areas = (x2 - x1 + PIXEL) * (y2 - y1 + PIXEL)
    union = areas + (fx2 - fx1 + PIXEL) * (fy2 - fy1 + PIXEL) - common
    # A box of negative size has no common area, and then possibly a union of 0.
    return cast(Floats, np.divide(common, union, out=common, where=common > 0))


def _corners(boxes: Floats) -> tuple[Floats, Floats, Floats, Floats]:
    x, y, w, h = (boxes[..., i] for i in range(4))
    return x, y, x + w, y + h


def _curve(matches: _Matches, counts: Bools) -> Curve:
    """Draw the curve of one subset; ``counts`` marks the faces that belong to the subset."""
    # In descending order of the scores a face is found by the best of its predictions, and a count
    # "up to the last prediction at or above t" is a count of scores >= t. No order is needed then.
    counting = np.zeros(len(matches.scores), np.bool_)
    counting[matches.hit] = counts[matches.faces[matches.hit]]
    best = np.full(len(counts), -np.inf)
    np.maximum.at(best, matches.faces[counting], matches.scores[counting])
    found = _count_at_thresholds(best[np.isfinite(best)])
    proposals = _count_at_thresholds(matches.scores[counting | ~matches.hit])
    faces = int(counts.sum())
    recall = found / faces if faces else np.full(THRESHOLD_COUNT, np.nan)
    precision = np.divide(found, proposals, out=np.zeros(THRESHOLD_COUNT), where=proposals > 0)
    return Curve(
        ap=average_precision(recall, precision),
        faces=faces,
        found=found,
        proposals=proposals,
        recall=recall,
        precision=precision,
    )


def _count_at_thresholds(scores: Floats) -> Ints:
    """How many ``scores`` reach each threshold, from the highest threshold down."""
    # Formed as in the protocol: np.linspace would round some thresholds the other way.
    thresholds = 1 - (np.arange(THRESHOLD_COUNT) + 1) / THRESHOLD_COUNT
    below = np.searchsorted(np.sort(scores), thresholds, side="left")
    return len(scores) - below


def average_precision(recall: Floats, precision: Floats) -> float:
    """Area under the precision envelope, for recalls in ascending order: 0..1.

    The envelope is, at each recall, the best precision at that recall or a higher one.
    """
    steps = np.diff(recall, prepend=0.0)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(steps * envelope))
