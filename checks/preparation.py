"""Does an INT8 model get its pictures as the reference does? Noise of 8 bits hides a wrong one.

The reference also runs on pictures that were prepared wrongly. How much of the change that this
makes is in the model's error? Nothing for a right model, however large its noise is, because noise
takes no side; all of it for a model that gets such pictures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from scrfdconv.checks.results import CheckResult
from scrfdconv.converters.runner import Outputs, Runner

CHECK = "preparation"
# At 1/2, the model is as near to the reference on wrong pictures as to the one on right pictures.
# Measured on two trained models in INT8 with weights of 7 bits at 320x320: 0.01 and 0.08 (colours),
# 0.18 and 0.21 (contrast); with the fault planted 0.95 and 0.96, 1.18 and 0.80.
LIMIT = 0.5
CONTRAST = np.float32(1.1)


def _exchanged(images: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(images[:, ::-1])


def _stronger(images: np.ndarray) -> np.ndarray:
    return images * CONTRAST


WRONG: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "red and blue exchanged": _exchanged,
    "contrast 10 % too high": _stronger,
}


class PreparationComparison:
    """Measures the error of a model against what wrong pictures would change, over all samples."""

    def __init__(self, reference: Runner) -> None:
        self._reference = reference
        # By kind of fault and output: error along the change, and the change squared.
        self._sums: dict[tuple[str, str], np.ndarray] = {}

    def add(self, images: np.ndarray, want: Outputs, got: Outputs) -> None:
        """Take in the outputs on one sample (N, C, H, W); runs the reference on wrong ones."""
        for name, wrongly in WRONG.items():
            changed = self._reference.run(wrongly(images))
            for output, value in want.items():
                if output in got and got[output].shape == value.shape:
                    change = (changed[output] - value).astype(np.float64).ravel()
                    error = (got[output] - value).astype(np.float64).ravel()
                    sums = np.array([error @ change, change @ change])
                    self._sums[name, output] = self._sums.get((name, output), 0) + sums

    def results(self, loosen: float) -> Iterator[CheckResult]:
        """One result for each wrong preparation: the median over outputs, so that none decides."""
        for name in WRONG:
            sums = [s for (kind, _), s in self._sums.items() if kind == name]
            shares = [along / squared for along, squared in sums if squared]
            if shares:
                yield CheckResult(
                    check=CHECK,
                    subject=name,
                    metric="share",
                    measured=float(np.median(shares)),
                    limit=min(LIMIT * loosen, 1.0),
                    detail="of the change that such pictures would make, in the model's error",
                )
