"""A convolution at rest, whatever kind of file its weights were read from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

_POOL = 2  # side of the pool that INT8 graphs fold into a 1x1 convolution


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How a weight is stored; in 8 bits with the steps of weight and bias by output channel."""

    precision: str = ""  # "": the file has one precision for all
    step: np.ndarray | float = 0.0  # (out, 1, 1, 1)
    bias_step: np.ndarray | float = 0.0  # (out,)
    reach: float = 0.0  # the largest value of the input, where the input is bytes, too
    factor: float = 1.0  # by which the file's own weights were multiplied since they were read


@dataclass(frozen=True)
class Convolution:
    """Weight (out, in, k, k) and bias (out,) as an inference graph has them."""

    name: str
    weight: np.ndarray
    bias: np.ndarray
    storage: Storage = Storage()

    @property
    def precision(self) -> str:
        """The coarsest numbers that the weight has passed through."""
        return self.storage.precision

    def stored_in(self, precision: str) -> Convolution:
        """The same convolution, stored in ``precision``."""
        return replace(self, storage=replace(self.storage, precision=precision))

    def part(self, rows: slice, columns: slice = slice(None)) -> Convolution:
        """Some output channels, and some input channels."""
        s = self.storage
        step, bias_step = (
            v[rows] if isinstance(v, np.ndarray) and v.ndim else v for v in (s.step, s.bias_step)
        )
        return Convolution(
            self.name,
            self.weight[rows, columns],
            self.bias[rows],
            replace(s, step=step, bias_step=bias_step),
        )

    def forms(self) -> Iterator[Convolution]:
        """The convolution as it is, without channels of zeros at its end, without a pool in it."""
        outputs = _last_used(self.weight.any(axis=(1, 2, 3)) | (self.bias != 0))
        inputs = _last_used(self.weight.any(axis=(0, 2, 3)))
        cuts = [(len(self.weight), self.weight.shape[1])]
        cuts += [(outputs, cuts[0][1]), (cuts[0][0], inputs), (outputs, inputs)]
        for rows, columns in dict.fromkeys(cuts):
            one = self.part(slice(0, rows), slice(0, columns))
            yield one
            if one._holds_a_pool():
                yield one._without_pool()

    def _holds_a_pool(self) -> bool:
        """True if a 2x2 kernel has four equal weights: an average pool before a 1x1 convolution."""
        same = self.weight.shape[2:] == (_POOL, _POOL)
        return same and bool((self.weight == self.weight[:, :, :1, :1]).all())

    def _without_pool(self) -> Convolution:
        step = self.storage.step * _POOL**2
        weight = self.weight.sum(axis=(2, 3), keepdims=True)
        return Convolution(self.name, weight, self.bias, replace(self.storage, step=step))


def _last_used(used: Any) -> int:
    """Number of channels up to the last one that is used; at least one."""
    return int(np.flatnonzero(used)[-1]) + 1 if used.any() else 1
