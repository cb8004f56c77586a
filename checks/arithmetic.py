"""How a model behaves in another arithmetic that its runtime may choose on this machine.

A file does not show that its float32 network runs in bfloat16 on processors that have this type. No
limit applies, because the file itself is right. Users are told which arithmetic they get, and how
to choose another one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from scrfdconv.checks.faces.compare import faces_on_input, model_input
from scrfdconv.checks.faces.matching import agreement
from scrfdconv.checks.metrics import errors
from scrfdconv.checks.parity import samples_for
from scrfdconv.converters.runner import Runner

# Smallest share of faces that are kept, and of faces that are not new: the limits of FP16.
KEEPS_FACES = 0.99


def notes_on_twin(got: Runner, photographs: Sequence[Path], size: tuple[int, int]) -> Iterator[str]:
    """Sentences that compare ``got`` with its twin; none where there is only one arithmetic.

    ``photographs`` are read one after the other and scaled to ``size`` (H, W). Without photographs,
    seeded images show how far scores move.
    """
    twin = got.twin()
    if twin is None:
        return
    moved = _largest_difference(got, twin)
    told = (
        f"verified in {got.computes_in}; this machine may compute it in {twin.computes_in}, too "
        f"({got.arithmetic_setting}): scores move by up to {moved:.1e} on seeded images"
    )
    if not photographs:
        yield told
        return
    normalization = got.interface.normalization
    images = (model_input(path, size, normalization) for path in photographs)
    found = agreement((faces_on_input(got, image), faces_on_input(twin, image)) for image in images)
    yield (
        f"{told}, and {found.found} of {found.reference_faces} faces stay on "
        f"{found.images} photographs, with {found.extra} new ones"
    )
    if min(found.recall, found.precision) < KEEPS_FACES:
        yield (
            f"keeps its faces only in {got.computes_in}: set {got.arithmetic_setting} where it is "
            "deployed"
        )


def _largest_difference(got: Runner, twin: Runner) -> float:
    """Largest difference of the scores on the last seeded sample, a dynamic model's smallest."""
    *_, sample = samples_for(got.interface, got.interface)
    want, other = got.run(sample.images), twin.run(sample.images)
    scores = [name for name in want if name.startswith("score")]
    return max(errors(want[name], other[name]).max_abs for name in scores)
