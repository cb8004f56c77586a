"""What a build shows of its measurements."""

from __future__ import annotations

import numpy as np

from scrfdconv.checks.parity import Sample
from scrfdconv.checks.tolerances import limits_for
from scrfdconv.recipes.build.observer import Observer


def test_a_histogram_shows_the_limit_that_was_loosened():
    observer, images = Observer(), np.zeros((1, 3, 32, 32), np.float32)
    outputs = {"score_8": np.zeros((1, 32, 1), np.float32)}
    observer(Sample("noise", images), outputs, {"score_8": outputs["score_8"] + 1e-6})

    (strict,) = observer.histograms("fp32")
    (loose,) = observer.histograms("fp32", 10)

    assert strict.limit == limits_for("fp32", "score_8").max_abs
    assert loose.limit == 10 * strict.limit
    assert sum(loose.counts) == 32
