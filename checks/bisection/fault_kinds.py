"""What kind of fault is it that one layer has?"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from scrfdconv.checks.weights import difference_at_rest, limit_at_rest
from scrfdconv.converters.graph.convolution import Convolution

if TYPE_CHECKING:
    from scrfdconv.checks.bisection.alignment import Pair

# A relation explains a difference if what the relation leaves over is this share of the difference.
EXPLAINED = 0.1
# Shares of a channel's own size: a cut-off value is equal, and a channel is another one.
EQUAL = 1e-3
FEW = 0.5  # share of the weights: a change of fewer is a change of single ones
# What the operators between two convolutions are for.
_PARTS = {
    "norm": ("InstanceNormalization", "GroupNormalization", "ReduceMean", "BatchNormalization"),
    "resize mode": ("Resize", "Upsample"),
    "pooling": ("MaxPool", "AveragePool", "GlobalAveragePool"),
}
_CONVERSIONS = ("Cast", "QuantizeLinear", "DequantizeLinear", "Identity", "Constant")


def kind_of_fault(
    pair: Pair,
    want: np.ndarray,
    got: np.ndarray,
    operators: tuple[Counter[str], Counter[str]],
    at_rest: float | None,
) -> str:
    """The fault in a few words, from weights, values (positions, channels) and operators.

    ``operators`` are those between the layer and the layers before, of the artifact and of the
    reference; ``at_rest`` is the distance of the weights.
    """
    own = pair.wants[0].convolution
    if at_rest is not None and own is not None and at_rest > limit_at_rest(pair.stored_in):
        return _of_weights(pair.form, own) if pair.form else "weights differ"
    if not np.isfinite(got).all():
        return "values that are no finite numbers"
    return _of_values(want, got) or _of_operators(*operators) or "noise, more than rounding"


# ---------------------------------------------------------------- weights


def _of_weights(form: Convolution, own: Convolution) -> str:
    a, b = own.weight.astype(np.float64), form.weight.astype(np.float64)
    slope = float((a * b).sum() / ((a * a).sum() or 1.0))
    with_own_bias = replace(form, bias=own.bias)
    if difference_at_rest(with_own_bias, own) <= limit_at_rest(form.precision):
        return "its bias differs"
    away = np.abs(a - b) > EQUAL * np.abs(a)
    if _explains(a, b, slope * a):
        return f"scale: its weights are {slope:.3g} times those of the reference"
    if _same_in_another_order(a, b):
        return "channel order: its weights are those of the reference in another order"
    if away.mean() < FEW:
        return f"weights differ: {int(away.sum())} of {away.size}"
    return "weights differ"


def _same_in_another_order(a: np.ndarray, b: np.ndarray) -> bool:
    """True if the rows of ``b``, or the columns, are those of ``a`` in another order."""
    for axis in (0, 1):
        x = np.moveaxis(a, axis, 0).reshape(a.shape[axis], -1)
        y = np.moveaxis(b, axis, 0).reshape(b.shape[axis], -1)
        apart = np.linalg.norm(x[:, None] - y[None], axis=2)
        nearest = apart.argmin(axis=1)
        close = apart.min(axis=1) <= EXPLAINED * np.linalg.norm(x, axis=1)
        if close.all() and (nearest != np.arange(len(x))).any():
            return True
    return False


# ---------------------------------------------------------------- values


def _of_values(want: np.ndarray, got: np.ndarray) -> str:
    if order := _order(want, got):
        return f"channel order: {order}"
    low, high = got.min(), got.max()
    if (low > want.min() or high < want.max()) and _explains(want, got, want.clip(low, high)):
        return f"saturation: values end at {low:.3g} and {high:.3g}"
    x, y = want.mean(), got.mean()
    spread = float(np.square(want - x).sum()) or 1.0
    slope = float(((want - x) * (got - y)).sum()) / spread
    if _explains(want, got, slope * (want - x) + y):
        offset = float(y - slope * x)
        if abs(slope - 1) > EQUAL:
            return f"scale: values are {slope:.3g} times those of the reference"
        return f"offset: values are {offset:+.3g}"
    return ""


def _order(want: np.ndarray, got: np.ndarray) -> str:
    """Which channels changed places; "" if none did."""
    apart = np.square(want[:, :, None] - got[:, None, :]).mean(axis=0)  # (want, got)
    size = np.square(want).mean(axis=0)
    source = apart.argmin(axis=0)
    moved = source != np.arange(len(source))
    if not moved.any() or len(set(source)) < len(source):
        return ""
    if (apart[source, np.arange(len(source))] > EXPLAINED * size[source]).any():
        return ""
    first = int(np.flatnonzero(moved)[0])
    return f"channel {first} is channel {source[first]} of the reference"


def _explains(want: np.ndarray, got: np.ndarray, told: np.ndarray) -> bool:
    """True if ``told`` leaves little of the difference between ``want`` and ``got``."""
    before = float(np.square(got - want).sum())
    return before > 0 and float(np.square(got - told).sum()) <= EXPLAINED**2 * before


def _of_operators(got: Counter[str], want: Counter[str]) -> str:
    """What the artifact does otherwise between two convolutions."""
    for what, names in _PARTS.items():
        if any(got[name] or want[name] for name in names):
            return f"{what}: {_listed(got)} in place of {_listed(want)}"
    if +(got - want) or +(want - got):
        return f"other operators: {_listed(got)} in place of {_listed(want)}"
    return ""


def _listed(operators: Counter[str]) -> str:
    shown = [name for name in operators if name not in (*_CONVERSIONS, "Conv", "Shape", "Slice")]
    return ", ".join(sorted(shown)) or "nothing"
