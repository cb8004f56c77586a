"""Are the faces that a graph decodes itself those of our decoder, on the same rows?

The graph's rows and faces come from one run, so that only the decoding is compared. Both decoders
compute overlaps in float32, in another order: where two boxes overlap by just about the limit of
suppression, either answer is right, and such faces are counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from scrfdconv.checks.faces.compare import model_input
from scrfdconv.checks.faces.decode import PIXEL_OFFSET, Faces, decode
from scrfdconv.checks.parity import Sample, common_shapes, samples_for
from scrfdconv.checks.results import CheckResult
from scrfdconv.converters.graph.interface.kinds import FaceRules
from scrfdconv.converters.runner import Outputs, Runner

CHECK = "faces in the graph"
# Pixels; float32 places a box of a picture of 2000 pixels to 1e-4.
POSITION_LIMIT = 0.05
SCORE_LIMIT = 1e-6  # scores are copied, not computed
# Two boxes whose overlap is this near to the limit of suppression may or may not be one face.
UNDECIDED = 0.01
# Candidates of a seeded picture: enough that suppression works, few enough to be quick.
_CANDIDATES = 60
_result = partial(CheckResult, CHECK)


def in_graph_results(runner: Runner, photographs: tuple[Path, ...]) -> Iterator[CheckResult]:
    """Compare the faces of a file with `decode`, on seeded pictures and on photographs.

    Seeded pictures get a threshold at which there are faces; photographs that of the file. Yields
    nothing for a file that does not end with faces.
    """
    if not runner.face_names:
        return
    rules, found = FaceRules.of(runner.metadata), _Comparison()
    for sample in samples_for(runner.interface, runner.interface):
        threshold = _threshold_for(runner.run(sample.images))
        found.add(runner, sample.images, rules, threshold)
    for sample in _photographs(runner, photographs):
        found.add(runner, sample.images, rules, None)
    yield from found.results()


def _photographs(runner: Runner, paths: tuple[Path, ...]) -> Iterator[Sample]:
    interface = runner.interface
    _, height, width = common_shapes(interface, interface)[0]
    for path in paths:
        image = model_input(path, (height, width), interface.normalization)
        yield Sample(path.name, np.repeat(image[None], interface.batch or 1, axis=0), path)


def _threshold_for(rows: Outputs) -> float:
    """A score between those of two anchors, with some candidates above."""
    scores = [v.max(axis=-1).ravel() for k, v in rows.items() if k.startswith("score")]
    ordered = np.unique(np.concatenate(scores))[::-1]
    last = min(_CANDIDATES, len(ordered) - 1)
    return float(ordered[last - 1 : last + 1].mean())


@dataclass
class _Comparison:
    """The worst differences over all pictures."""

    faces: int = 0
    undecided: int = 0
    faults: list[str] = field(default_factory=list)
    positions: float = 0.0
    scores: float = 0.0

    def add(
        self, runner: Runner, images: np.ndarray, rules: FaceRules, threshold: float | None
    ) -> None:
        """Take in one run."""
        got, rows = runner.faces_and_rows(images, threshold)
        size = (images.shape[2], images.shape[3])
        used = rules.threshold if threshold is None else threshold
        wanted = decode(rows, size, threshold=used, nms_iou=rules.nms_iou)
        for slot, want in enumerate(wanted):
            self._add_image(got, slot, want, rules)

    def _add_image(self, got: Outputs, slot: int, want: Faces, rules: FaceRules) -> None:
        count = int(got["count"][slot])
        best = want.take(np.arange(min(len(want), rules.max_faces)))
        self.faces += len(best)
        boxes = got["boxes"][slot]
        self._require_empty(got, slot, count)
        labels = np.zeros(len(best), np.intp) if best.labels is None else best.labels
        same_class = labels[:, None] == got["labels"][slot][None, :count]
        pairs = _pairs(best.boxes, boxes[:count], same_class)
        alone = [*np.setdiff1d(np.arange(len(best)), pairs[:, 0])]
        extra = [*np.setdiff1d(np.arange(count), pairs[:, 1])]
        near = np.concatenate((want.boxes, boxes[:count]))
        for box in (*best.boxes[alone], *boxes[extra]):
            if _is_undecided(box, near, rules.nms_iou):
                self.undecided += 1
            else:
                self.faults.append(f"{box.round(1).tolist()} is a face on one side only")
        self._measure(got, slot, best, pairs)

    def _require_empty(self, got: Outputs, slot: int, count: int) -> None:
        for name, value in got.items():
            if name != "count" and np.any(value[slot, count:]):
                self.faults.append(f"{name} has values behind the {count} faces")

    def _measure(self, got: Outputs, slot: int, want: Faces, pairs: np.ndarray) -> None:
        if not len(pairs):
            return
        ours, theirs = pairs.T
        self._position(want.boxes[ours], got["boxes"][slot][theirs])
        if want.keypoints is not None:
            self._position(want.keypoints[ours], got["keypoints"][slot][theirs])
        away = np.abs(want.scores[ours] - got["scores"][slot][theirs]).max()
        self.scores = max(self.scores, float(away))

    def _position(self, want: np.ndarray, got: np.ndarray) -> None:
        self.positions = max(self.positions, float(np.abs(want - got).max()))

    def results(self) -> Iterator[CheckResult]:
        """Faces that were compared, those on one side only, and the largest differences."""
        told = f"{self.faces} faces, {self.undecided} undecided by suppression"
        detail = "; ".join([*self.faults[:3], told])
        yield _result("faces", "compared", self.faces, 1, at_least=True)
        yield _result("faces", "faults", len(self.faults), 0, detail=detail)
        yield _result("positions", "max_abs", self.positions, POSITION_LIMIT, detail="in pixels")
        yield _result("scores", "max_abs", self.scores, SCORE_LIMIT)


def _pairs(want: np.ndarray, got: np.ndarray, same_class: np.ndarray) -> np.ndarray:
    """Indices (n, 2) of boxes of one class that are each other's nearest, within the limit.

    Faces that have a class of their own on one side pair with none.
    """
    if not len(want) or not len(got):
        return np.zeros((0, 2), np.intp)
    away = np.where(same_class, np.abs(want[:, None] - got[None]).max(axis=-1), np.inf)
    nearest = away.argmin(axis=1)
    mutual = away.argmin(axis=0)[nearest] == np.arange(len(want))
    chosen = np.flatnonzero(mutual & (away[np.arange(len(want)), nearest] <= POSITION_LIMIT))
    return np.stack((chosen, nearest[chosen]), axis=1)


def _is_undecided(box: np.ndarray, others: np.ndarray, limit: float) -> bool:
    """True if a box overlaps another by just about the limit of suppression."""
    low, high = np.maximum(others[:, :2], box[:2]), np.minimum(others[:, 2:], box[2:])
    shared = np.maximum(high - low + PIXEL_OFFSET, 0).prod(axis=1)
    areas = (others[:, 2:] - others[:, :2] + PIXEL_OFFSET).prod(axis=1)
    own = (box[2:] - box[:2] + PIXEL_OFFSET).prod()
    overlap = shared / np.maximum(areas + own - shared, np.finfo(np.float32).tiny)
    return bool(np.any(np.abs(overlap - limit) < UNDECIDED))
