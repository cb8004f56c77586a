"""FP16: choose the photographs that ranges are measured on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from scrfdconv.checks.faces.compare import model_input
from scrfdconv.converters.graph.kept_float import require_convertible
from scrfdconv.converters.precision.fp16 import Fp16Options
from scrfdconv.converters.precision.fp16.conversion import Fp16Settings
from scrfdconv.recipes.order import DEFAULT_SIZE, Order, Settled

# Ranges stop growing long before: the largest activations of one photograph are within a factor of
# 1.6 of those of forty photographs. Verification uses all photographs.
MOST_MEASURED = 32


def settle_fp16(order: Order) -> Settled:
    """The options, and at most MOST_MEASURED photographs in the size of the model."""
    interface = require_convertible(order.parent.path)
    size = interface.shape or DEFAULT_SIZE

    def photographs() -> Iterator[np.ndarray]:
        for path in _spread(order.images):
            yield model_input(path, size, interface.normalization)[None]

    settings = Fp16Settings(order.target.of(Fp16Options), photographs)
    return Settled(settings=settings, demand=order.demand)


def _spread(paths: Sequence[Path]) -> list[Path]:
    """At most MOST_MEASURED of ``paths``, evenly spread: folders are sorted by kind of picture."""
    step = max(1, -(-len(paths) // MOST_MEASURED))
    return list(paths[::step])
