"""Do two models find the same faces? The unit in which users judge a detector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from scrfdconv.checks.faces.decode import DEPLOYMENT_THRESHOLD, LOW_THRESHOLD, Faces, decode
from scrfdconv.checks.faces.images import UInt8, network_input, normalise, read_image
from scrfdconv.checks.faces.limits import CHECK, LIMITS, results_of
from scrfdconv.checks.faces.matching import MATCH_IOU, Tally
from scrfdconv.checks.results import CheckResult
from scrfdconv.converters.errors import CheckFailed
from scrfdconv.converters.normalization import Normalization
from scrfdconv.converters.runner import Outputs, Runner


class FacesComparison:
    """Compares the faces of two models picture by picture, from outputs computed before."""

    def __init__(self, precision: str) -> None:
        self._precision = precision
        self._tally = Tally(DEPLOYMENT_THRESHOLD, LIMITS[precision].margin, MATCH_IOU)
        self._faults: list[CheckResult] = []

    def add(self, name: str, size: tuple[int, int], want: Outputs, got: Outputs) -> None:
        """Take in the outputs on one photograph of ``size`` (H, W); the first slot counts."""
        try:
            pair = [_first_slot(outputs, size) for outputs in (want, got)]
            self._tally.add(*pair)
        except CheckFailed as error:
            detail = f"{name}: {error}"
            self._faults.append(
                CheckResult(
                    check=CHECK, subject=CHECK, metric="decoded", measured=1, limit=0, detail=detail
                )
            )

    def results(self) -> Iterator[CheckResult]:
        """The measurements; a reference without faces fails, because nothing was compared.

        Without pictures there are no results at all.
        """
        yield from self._faults
        if self._tally.images:
            yield from results_of(self._tally.agreement(), self._precision)


def _first_slot(outputs: Outputs, size: tuple[int, int]) -> Faces:
    first = {name: value[:1] for name, value in outputs.items()}
    return decode(first, size, threshold=LOW_THRESHOLD)[0]


def faces_on_input(runner: Runner, image: np.ndarray) -> Faces:
    """Faces on one input (3, H, W), before the deployment threshold.

    A model with a fixed batch gets the image in every slot, and the first one counts.
    """
    batch = np.repeat(image[None], runner.interface.batch or 1, axis=0)
    return decode(runner.run(batch), image.shape[1:], threshold=LOW_THRESHOLD)[0]


def faces_on_canvas(runner: Runner, canvas: UInt8) -> Faces:
    """Faces on one letterboxed picture (H, W, 3), BGR; see `faces_on_input`."""
    return faces_on_input(runner, normalise(canvas, runner.interface.normalization)[0])


def model_input(path: Path, size: tuple[int, int], normalization: Normalization) -> np.ndarray:
    """The photograph at ``path`` as deployment feeds it: (3, H, W) float32."""
    planes, _ = network_input([read_image(path)], size, normalization)
    return np.asarray(planes[0])
