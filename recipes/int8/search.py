"""The accuracy budget of INT8: how many faces a quantized model may lose, and how it is kept.

Judged on pictures that were held back from calibration. Where the budget does not hold, the most
sensitive convolutions go back to float one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from scrfdconv.checks.faces.compare import faces_on_canvas
from scrfdconv.checks.faces.decode import Faces
from scrfdconv.checks.faces.images import UInt8
from scrfdconv.checks.faces.limits import LIMITS, faces_allowed
from scrfdconv.checks.faces.matching import Agreement, agreement
from scrfdconv.checks.results import CheckResult
from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.graph.model_file import serialised
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.precision.int8.conversion import (
    Int8Settings,
    before_rounding,
    float_rows,
    int8_from_float,
)
from scrfdconv.converters.precision.int8.sensitivity import layer_sqnr
from scrfdconv.converters.runner import Runner
from scrfdconv.converters.system.scratch import scratch_folder
from scrfdconv.recipes.faces.pictures import batches, views

CHECK = "budget"
SENSITIVITY_IMAGES = 4  # the order of the layers' SQNR hardly changes with more
Progress = Callable[[int, int], None]
Open = Callable[[Path], Runner]


@dataclass(frozen=True)
class Judge:
    """Reference faces on the pictures to judge by, each picture in all its `views`."""

    canvases: tuple[UInt8, ...]  # all views
    reference: tuple[Faces, ...]
    budget: float  # share of the faces that may be lost, and of the found faces that may be new
    opened: Open = OnnxRunner  # a quantized ONNX, in the runtime that it is made for

    @classmethod
    def of(
        cls,
        reference: OnnxRunner,
        pictures: Sequence[UInt8],
        budget: float,
        opened: Open = OnnxRunner,
    ) -> Judge:
        """Let the reference find its faces."""
        seen = tuple(view for picture in pictures for view in views(picture))
        return cls(seen, tuple(faces_on_canvas(reference, v) for v in seen), budget, opened)

    def judge(self, content: bytes) -> Agreement:
        """Compare a model, given as the bytes of its file, with the reference.

        A face that crossed the threshold by no more than 8 bits explain is neither lost nor new:
        putting layers back to float for such a face would chase chance.
        """
        with scratch_folder() as folder:
            path = Path(folder, "int8.onnx")
            path.write_bytes(content)
            runner = self.opened(path)
            found = [faces_on_canvas(runner, view) for view in self.canvases]
        pairs = zip(self.reference, found, strict=True)
        return agreement(pairs, margin=LIMITS["int8"].margin)

    def allowed(self, found: Agreement) -> int:
        """Number of faces that may be lost, and of faces that may be new."""
        return faces_allowed(self.budget, found.reference_faces)

    def holds(self, found: Agreement) -> bool:
        """True if the budget is kept; False if the reference finds no face."""
        if not found.reference_faces:
            return False
        lost = found.reference_faces - found.found
        return max(lost, found.extra) <= self.allowed(found)


@dataclass(frozen=True)
class Round:
    """One candidate and how it was judged."""

    put_back: str  # the convolution that went back to float last; "" for the first round
    sqnr: float  # SQNR of that layer, dB
    found: Agreement

    def to_dict(self) -> dict[str, Any]:
        """For ``--json`` and plans."""
        return {
            "put_back": self.put_back,
            "sqnr": round(self.sqnr, 2) if self.put_back else None,
            "faces": self.found.reference_faces,
            "lost": self.found.reference_faces - self.found.found,
            "extra": self.found.extra,
            "fell": self.found.fell,
            "rose": self.found.rose,
            "mean_iou": round(self.found.mean_iou, 5),
        }


@dataclass(frozen=True)
class Search:
    """All candidates tried until the budget held or the rounds were used up."""

    options: Int8Settings
    rounds: tuple[Round, ...]
    holds: bool
    allowed: int

    def results(self) -> list[CheckResult]:
        """Faces lost and faces added on the judged pictures, with the limit."""
        last = self.rounds[-1].found
        detail = last.undefined or (
            f"{last.reference_faces} faces in {last.images} views of the judged pictures, "
            f"{last.crossings}, mean IoU {last.mean_iou:.4f}, after {len(self.rounds)} rounds"
        )
        lost = last.reference_faces - last.found
        return [
            CheckResult(
                check=CHECK,
                subject="faces",
                metric=metric,
                measured=value,
                limit=self.allowed,
                detail=detail,
            )
            for metric, value in (("lost", lost), ("extra", last.extra))
        ]


def search(
    parent: Artifact,
    candidates: Sequence[Int8Settings],
    judge: Judge,
    pictures: Sequence[UInt8],
    max_rounds: int,
    progress: Progress = lambda done, total: None,
) -> Search:
    """Take the best candidate, then put layers back to float until ``judge`` accepts it.

    ``pictures`` are calibration pictures, to measure the layers' sensitivity on.
    """
    judged = [
        (options, judge.judge(serialised(int8_from_float(parent, options))))
        for options in candidates
    ]
    options, found = max(judged, key=lambda pair: _quality(pair[1]))
    rounds = [Round("", np.inf, found)]
    waiting: list[tuple[str, float]] = []
    while not judge.holds(found) and len(rounds) <= max_rounds:
        progress(len(rounds), max_rounds)
        if len(rounds) == 1:
            waiting = _sensitive(parent, options, pictures)
        if not waiting:
            break
        name, sqnr = waiting.pop(0)
        options = replace(options, sensitive=(*options.sensitive, name))
        found = judge.judge(serialised(int8_from_float(parent, options)))
        rounds.append(Round(name, sqnr, found))
    return Search(options, tuple(rounds), judge.holds(found), judge.allowed(found))


def _quality(found: Agreement) -> tuple[float, float]:
    """Fewest faces lost or added first, then the nearest boxes."""
    if not found.reference_faces:
        return (0.0, 0.0)
    return (-float(found.reference_faces - found.found + found.extra), found.mean_iou)


def _sensitive(
    parent: Artifact, options: Int8Settings, pictures: Sequence[UInt8]
) -> list[tuple[str, float]]:
    """Quantized convolutions with their SQNR, the most sensitive ones first."""
    int8 = int8_from_float(parent, options)
    interface = OnnxRunner(parent.path).interface
    model = before_rounding(float_rows(parent), interface.outputs, options)
    images = batches(pictures[:SENSITIVITY_IMAGES], interface)
    return list(layer_sqnr(model, int8, images).items())
