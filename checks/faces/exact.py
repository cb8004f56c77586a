"""Statistics that are exact: parts that were measured apart add up to the same bytes.

Sums of floats depend on their order and grouping. Those here do not, so that neither the number
of processes nor the size of their parts shows in a result.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# Every finite double is a whole multiple of 2**-1074, the smallest one (IEEE 754).
_FINEST = 1074


@dataclass
class ExactStatistics:
    """The mean, least and greatest of any number of floats; NaN without any."""

    count: int = 0
    units: int = 0  # the sum of the finite values, in 2**-1074
    beyond: float = 0.0  # the sum of infinities and NaNs
    _least: float = math.inf
    _greatest: float = -math.inf

    def add(self, values: npt.NDArray[np.floating]) -> None:
        """Take in the values of an array of any shape."""
        for value in values.ravel().tolist():
            if math.isfinite(value):
                numerator, denominator = value.as_integer_ratio()
                self.units += numerator << (_FINEST + 1 - denominator.bit_length())
            else:
                self.beyond += value
        self.count += values.size
        if values.size:
            self._bounds(float(values.min()), float(values.max()))

    def take_in(self, other: ExactStatistics) -> None:
        """Add the values of ``other``."""
        self.count += other.count
        self.units += other.units
        self.beyond += other.beyond
        self._bounds(other._least, other._greatest)

    @property
    def mean(self) -> float:
        """The exact mean, rounded once."""
        if not self.count:
            return math.nan
        return self.units / (self.count << _FINEST) + self.beyond

    @property
    def least(self) -> float:
        """The smallest value; NaN if one of them is NaN."""
        return self._least if self.count else math.nan

    @property
    def greatest(self) -> float:
        """The largest value; NaN if one of them is NaN."""
        return self._greatest if self.count else math.nan

    def _bounds(self, least: float, greatest: float) -> None:
        self._least = float(np.minimum(self._least, least))  # unlike min, keeps NaN
        self._greatest = float(np.maximum(self._greatest, greatest))


def together(parts: Iterable[ExactStatistics]) -> ExactStatistics:
    """The statistics of the values of all ``parts``."""
    total = ExactStatistics()
    for part in parts:
        total.take_in(part)
    return total
