"""A convolution at rest, whatever kind of file its weights were read from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Convolution:
    """Weight (out, in, k, k) and bias (out,) as an inference graph has them."""

    name: str
    weight: np.ndarray
    bias: np.ndarray

    def difference(self, other: Convolution, smallest: float) -> float:
        """Largest relative difference: of a weight to itself, of a bias to the largest bias."""
        weights = np.abs(self.weight - other.weight) / np.maximum(np.abs(self.weight), smallest)
        biases = np.abs(self.bias - other.bias) / (np.abs(self.bias).max() or 1.0)
        return float(max(weights.max(), biases.max()))
