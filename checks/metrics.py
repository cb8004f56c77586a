"""How far two arrays are apart: pure numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PERCENTILE = 99.9  # the bulk of the anchors; the largest error alone may be a single one
SILENT_SQNR = 200.0  # dB for equal arrays: beyond what float32 can resolve (150 dB)


@dataclass(frozen=True)
class Errors:
    """Differences of one output from its reference."""

    max_abs: float
    mean_abs: float
    p999_abs: float  # 99.9th percentile of the absolute difference
    cosine: float  # of the arrays as vectors, 1 is best
    sqnr: float  # signal to quantization noise ratio, dB, higher is better

    def worst(self, other: Errors) -> Errors:
        """The worse of both in every respect."""
        return Errors(
            max(self.max_abs, other.max_abs),
            max(self.mean_abs, other.mean_abs),
            max(self.p999_abs, other.p999_abs),
            min(self.cosine, other.cosine),
            min(self.sqnr, other.sqnr),
        )


def errors(reference: np.ndarray, other: np.ndarray) -> Errors:
    """Compare arrays of one shape with at least one element; both must be finite."""
    assert reference.shape == other.shape, (reference.shape, other.shape)
    assert reference.size, "nothing to compare"
    want, got = reference.astype(np.float64).ravel(), other.astype(np.float64).ravel()
    noise = np.abs(got - want)
    return Errors(
        max_abs=float(noise.max()),
        mean_abs=float(noise.mean()),
        p999_abs=float(np.percentile(noise, PERCENTILE)),
        cosine=_cosine(want, got),
        sqnr=_sqnr(want, noise),
    )


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    norm = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norm == 0:  # a zero vector points nowhere: equal only to another
        return 1.0 if not a.any() and not b.any() else 0.0
    return float(a @ b) / norm


def _sqnr(signal: np.ndarray, noise: np.ndarray) -> float:
    """10 log10 of signal power by noise power, at most ``SILENT_SQNR``."""
    noise_power, power = float(noise @ noise), float(signal @ signal)
    if noise_power == 0:
        return SILENT_SQNR
    if power == 0:
        return -SILENT_SQNR
    return min(SILENT_SQNR, 10 * float(np.log10(power / noise_power)))
