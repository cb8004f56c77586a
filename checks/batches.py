"""Does a batch give the same outputs as its images one by one?

A file whose first axis was only renamed to a batch runs, but returns the rows of its images
interleaved. A comparison with a reference that has the same fault would not show the fault, so
every model is checked on its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from scrfdconv.checks.parity import common_shapes
from scrfdconv.checks.results import CheckResult
from scrfdconv.checks.stimuli import stimuli
from scrfdconv.checks.tolerances import limits_for
from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.runner import Runner

CHECK = "batch"
_SEED = 1


def batch_results(runner: Runner, loosen: float = 1.0) -> Iterator[CheckResult]:
    """Yield how many outputs in the slots of one batch differ from runs of single images.

    Yields nothing for a model that takes one image at a time.
    """
    interface = runner.interface
    shapes = [shape for shape in common_shapes(interface, interface) if shape[0] > 1]
    if not shapes:
        return
    batch, height, width = min(shapes, key=lambda shape: shape[0] * shape[1] * shape[2])
    images = stimuli(batch, height, width, _SEED, interface.channels)
    images = interface.normalization.of_unit(images)
    try:
        faults = list(_faults(runner, images, loosen))
    except ArtifactError as error:
        faults = [str(error)]
    detail = f"{len(images)} images of {height}x{width} in one run and one by one"
    detail = "; ".join([*faults[:3], detail]) if faults else detail
    yield CheckResult(
        check=CHECK, subject="slots", metric="faults", measured=len(faults), limit=0, detail=detail
    )


def _faults(runner: Runner, images: np.ndarray, loosen: float) -> Iterator[str]:
    together = runner.run(images)
    for slot in range(len(images)):
        alone = runner.run(_alone(runner, images, slot))
        for name, values in together.items():
            limit = limits_for(runner.precision_of(name), name, loosen).max_abs
            if values[slot].shape != alone[name][0].shape:
                yield f"{name}: {list(values[slot].shape)} in slot {slot}, alone another shape"
            elif not np.abs(values[slot] - alone[name][0]).max() <= limit:  # NaN is a fault, too
                away = np.abs(values[slot] - alone[name][0]).max()
                yield f"{name} of slot {slot} is {away:.2g} from that of its image alone"


def _alone(runner: Runner, images: np.ndarray, slot: int) -> np.ndarray:
    """Run one image alone; a model with a fixed batch gets the image in every slot."""
    one = images[slot : slot + 1]
    free = runner.interface.accepts(1, *images.shape[2:])
    return one if free else np.repeat(one, len(images), axis=0)
