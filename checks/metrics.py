"""How far two arrays are apart, in size and in bias: pure numpy."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

PERCENTILE = 99.9  # the bulk of the anchors; the largest error may be that of a single anchor
SILENT_SQNR = 200.0  # dB for equal arrays: beyond what float32 can resolve (150 dB)
# A slope or an offset is chance up to this many standard errors: few anchors show little.
CHANCE = 2.0
# Sums of squares in float64 round to this share of themselves: a smaller variance counts as zero.
FLAT = 1e-10
# Smaller probabilities count as this one: far out in the tail a logit says more of rounding than of
# a network.
LEAST_PROBABILITY = 1e-4


@dataclass(frozen=True)
class Errors:
    """Differences of one output from its reference."""

    max_abs: float
    mean_abs: float
    p999_abs: float  # 99.9th percentile of the absolute difference
    cosine: float  # of the arrays as vectors, 1 is best
    sqnr: float  # signal to quantization noise ratio, dB, higher is better

    def worst(self, other: Errors) -> Errors:
        """The worse value of both for every measure."""
        return Errors(
            max_abs=max(self.max_abs, other.max_abs),
            mean_abs=max(self.mean_abs, other.mean_abs),
            p999_abs=max(self.p999_abs, other.p999_abs),
            cosine=min(self.cosine, other.cosine),
            sqnr=min(self.sqnr, other.sqnr),
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
        sqnr=sqnr(want, noise),
    )


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    norm = math.sqrt(_dot(a, a)) * math.sqrt(_dot(b, b))
    if norm == 0:  # a zero vector has no direction: equal only to another zero vector
        return 1.0 if not a.any() and not b.any() else 0.0
    return _dot(a, b) / norm


def _dot(a: np.ndarray, b: np.ndarray) -> float:
    """The sum of products, on one thread.

    BLAS shares ten thousand products among all cores, whose waiting for each other takes a third
    of the processor time of a verification.
    """
    return float(np.einsum("i,i", a, b))


def sqnr(signal: np.ndarray, noise: np.ndarray) -> float:
    """10 log10 of signal power by noise power of two flat arrays, at most ``SILENT_SQNR``."""
    noise_power, power = _dot(noise, noise), _dot(signal, signal)
    if noise_power == 0:
        return SILENT_SQNR
    if power == 0:
        return -SILENT_SQNR
    return min(SILENT_SQNR, 10 * float(np.log10(power / noise_power)))


@dataclass(frozen=True)
class Bias:
    """The line ``got = slope * want + offset`` of the worst column, reduced by the share of chance.

    Rounding errors cancel out: both numbers stay near zero however large the errors are. A scaled,
    shifted or exchanged column has a large slope or offset.
    """

    slope: float  # distance from 1
    offset: float  # mean error, at the mean of the reference
    growth: float = 0.0  # how far it is above 1
    skew: float = 0.0  # distance of a column's slope from the median slope of all columns

    def worst(self, other: Bias) -> Bias:
        """The larger value of both for every measure."""
        return Bias(
            max(self.slope, other.slope),
            max(self.offset, other.offset),
            max(self.growth, other.growth),
            max(self.skew, other.skew),
        )


@dataclass
class LineFit:
    """Weighted least squares for every column of one output, over any number of pictures.

    ``add`` costs the memory of one picture; ``bias`` may be asked for at any time.
    """

    width: int
    _weight: float = 0.0
    _squares: float = 0.0  # of the weights
    _sums: np.ndarray = field(init=False)  # (5, width): w x, w y, w x x, w x y, w y y

    def __post_init__(self) -> None:
        self._sums = np.zeros((5, self.width))

    def add(self, want: np.ndarray, got: np.ndarray, weights: np.ndarray) -> None:
        """Add (rows, width) of both models; ``weights`` (rows,) say how much a row counts."""
        x, y, w = (a.astype(np.float64) for a in (want, got, weights))
        self._weight += float(w.sum())
        self._squares += _dot(w, w)
        products = np.stack([x, y, x * x, x * y, y * y])
        self._sums += np.einsum("r,krw->kw", w, products)  # on one thread, as `_dot`

    def bias(self) -> Bias:
        """The worst slope and the worst offset; zero where nothing had any weight."""
        if not self._weight:
            return Bias(0.0, 0.0)
        x, y, xx, xy, yy = self._sums / self._weight
        spread = np.maximum(xx - x * x, 0)
        varied = spread > FLAT * xx
        slope = np.divide(xy - x * y, spread, out=np.ones_like(x), where=varied)
        rest = np.maximum(yy - y * y - slope * slope * spread, 0)
        # The effective number of rows: as many rows of equal weight would say as much.
        rows = self._weight**2 / self._squares
        deviation = np.sqrt(np.divide(rest, spread, out=np.zeros_like(x), where=varied))
        by_chance = CHANCE / np.sqrt(rows)
        uneven = np.abs(slope - np.median(slope[varied])) if varied.any() else np.zeros_like(x)
        return Bias(
            float(np.maximum(np.abs(slope - 1) - by_chance * deviation, 0).max()),
            float(np.maximum(np.abs(y - x) - by_chance * np.sqrt(rest), 0).max()),
            float(np.maximum(slope - 1 - by_chance * deviation, 0).max()),
            float(np.maximum(uneven - by_chance * deviation, 0)[varied].max(initial=0)),
        )


def logits(scores: np.ndarray) -> np.ndarray:
    """The inputs of the sigmoid that gave ``scores``; scores near 0 and 1 are cut off."""
    inside = np.clip(scores.astype(np.float64), LEAST_PROBABILITY, 1 - LEAST_PROBABILITY)
    return np.log(inside / (1 - inside))
