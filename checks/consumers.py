"""Do programs of others read a file as we do? Their ways of reading, and what comes of them.

The pure rules of the consumers, imitated on what the file itself returns: nothing here knows names
or metadata of ours. A difference means that the consumer decodes something else than was verified.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product

import numpy as np

from scrfdconv.checks.results import CheckResult
from scrfdconv.checks.stimuli import stimuli
from scrfdconv.converters.network.architecture import BOX_SIDES, OUTPUT_KINDS
from scrfdconv.converters.runner import Interface, Outputs, Runner
from scrfdconv.converters.signature import Signature, Tensor

CHECK = "consumer"
ANCHORS = 2  # of a cell, in insightface for three strides and in nihui's demos
POINTS = 5  # that both read
# insightface (model_zoo/scrfd.py, retinaface.py): strides by the number of outputs.
POSITIONS = {6: (8, 16, 32), 9: (8, 16, 32), 10: (8, 16, 32, 64, 128), 15: (8, 16, 32, 64, 128)}
_SEED = 0
_CELLS = ((2, 3), (4, 3))  # sizes to read at, in units of the size multiple; none is square
_SIZES = 2  # a size that was baked into a file shows at the second one


def pictures(interface: Interface, most_images: int = 2) -> Iterator[np.ndarray]:
    """Seeded images (N, 3, H, W) that a model takes: one and several, of two sizes if free."""
    unit = interface.size_multiple
    free = [(h * unit, w * unit) for h, w in _CELLS]
    stated = sorted({(h, w) for _, h, w in interface.measured_at}, key=math.prod)
    sizes = [interface.shape] if interface.shape else (stated or free)[:_SIZES]
    batches = [interface.batch] if interface.batch else sorted({1, most_images})
    for images, (height, width) in product(batches, sizes):
        if interface.accepts(images, height, width):
            drawn = stimuli(images, height, width, _SEED, interface.channels)
            yield interface.normalization.of_unit(drawn)


# ---------------------------------------------------------------- servers


def declared_results(signature: Signature, runner: Runner) -> Iterator[CheckResult]:
    """Is what comes out what the file declares? Servers refuse outputs of other shapes.

    One result for each declared output. With a free batch, the first side must be the number of
    images.
    """
    faults: dict[str, list[str]] = {tensor.name: [] for tensor in signature.outputs}
    runs = 0
    for images in pictures(runner.interface):
        values = list(runner.own_outputs(images).values())
        runs += 1
        for tensor, value in zip(signature.outputs, values, strict=True):
            if not _fits(tensor, value.shape, len(images) if signature.free_batch else None):
                sides = "x".join(map(str, value.shape))
                faults[tensor.name].append(f"gives {sides} for {len(images)} images")
    yield _at_least_one("runs", runs)
    for tensor in signature.outputs:
        wrong = faults[tensor.name]
        yield CheckResult(
            CHECK, str(tensor), "wrong shapes", len(wrong), 0, detail="; ".join(wrong)
        )


def _fits(tensor: Tensor, shape: tuple[int, ...], images: int | None) -> bool:
    if len(shape) != len(tensor.dims) or (images is not None and shape[0] != images):
        return False
    return all(want in (None, have) for want, have in zip(tensor.dims, shape, strict=True))


# ---------------------------------------------------------------- programs with a decoder


def read_by_position(values: Sequence[np.ndarray], *, batched: bool) -> Outputs:
    """Rows of one image as insightface takes them: by position only.

    ``batched``: the first output has three axes, and the first image is taken; otherwise values
    are taken as they are. Raises KeyError for a number of outputs that the package does not know.
    """
    strides = POSITIONS[len(values)]
    names = [f"{kind}_{stride}" for kind in OUTPUT_KINDS for stride in strides]
    return {name: v[0] if batched else v for name, v in zip(names, values, strict=False)}


def read_by_channel(maps: Mapping[str, np.ndarray]) -> Outputs:
    """Rows of one image as nihui's demos take them from maps (channels, H/s, W/s).

    Anchor q of a cell has the channel q of the scores, 4q to 4q + 3 of the boxes and 10q to 10q + 9
    of the keypoints.
    """
    widths = dict(zip(OUTPUT_KINDS, (1, BOX_SIDES, 2 * POINTS), strict=True))
    rows = {}
    for name, values in maps.items():
        width = widths[name.partition("_")[0]]
        anchors = [values[q * width : (q + 1) * width] for q in range(ANCHORS)]
        cells = np.stack(anchors).transpose(2, 3, 0, 1)  # y, x, anchor, value
        rows[name] = cells.reshape(-1, width)
    return rows


def reading_results(runner: Runner, read: Callable[[Outputs], Outputs]) -> Iterator[CheckResult]:
    """Compare what ``read`` makes of a file's own outputs, image by image, with our reading.

    Both look at the same numbers, so that any difference is one of place: the limit is 0.
    """
    worst = dict.fromkeys(runner.interface.outputs, 0.0)
    runs = 0
    for images in pictures(runner.interface, most_images=1):
        ours, theirs = runner.run(images), read(runner.own_outputs(images))
        runs += 1
        for name in worst:
            worst[name] = max(worst[name], _distance(ours[name][0], theirs.get(name)))
    yield _at_least_one("runs", runs)
    for name, distance in worst.items():
        yield CheckResult(CHECK, name, "read elsewhere", distance, 0)


def _distance(ours: np.ndarray, theirs: np.ndarray | None) -> float:
    if theirs is None or theirs.shape != ours.shape:
        return float("inf")
    return float(np.abs(ours - theirs).max())


def _at_least_one(metric: str, runs: int) -> CheckResult:
    return CheckResult(CHECK, "samples", metric, runs, 1, at_least=True)
