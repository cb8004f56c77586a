"""Are two opened models the same function? Runs both on the same images and compares outputs.

No guessing: outputs match by name, shape and order; NaN fails, a constant output fails, and so
does a comparison in which nothing was compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scrfdconv.checks.metrics import Bias, Errors, LineFit, errors, logits
from scrfdconv.checks.results import CheckResult
from scrfdconv.checks.stimuli import STIMULI, mosaic, stimuli
from scrfdconv.checks.tolerances import bias_limits_for, limits_for
from scrfdconv.converters.errors import ArtifactError, MissingError
from scrfdconv.converters.network.architecture import TRACE_CELLS
from scrfdconv.converters.normalization import Normalization
from scrfdconv.converters.runner import Interface, Outputs, Runner, order_faults
from scrfdconv.converters.system.machine import available_memory

CHECK = "parity"

# (batch, height, width) that dynamic models are compared at: upstream's size, a batch of
# portrait pictures, and a batch of the smallest landscape ones, where a baked size would show.
DYNAMIC_SHAPES = ((1, 640, 640), (2, 320, 256), (3, 64, 96))
# GroupNorm of one cell subtracts the cell from itself: only rounding or a constant remains.
LEAST_CELLS = TRACE_CELLS

# From this size on, a batch of one shows all kinds of pictures in the quarters of one image. A run
# for each kind is too slow: four runs of 34G at 640x640 in two runtimes take as long as the whole
# conversion.
COSTLY_PIXELS = 512 * 512

_ROWS_RANK = 3  # (batch, anchors, columns)
_WORST = "of the worst column, beyond chance; an anchor counts as much as its score"
# Factors on the contrast of pictures, to activate channels that ordinary pictures do not.
STRONG = (-1.0, 2.0, -2.0)

# Both models and their buffers, against the largest layer alone; measured 4 to 6 at 640x640.
MEMORY_FACTOR = 6


@dataclass(frozen=True)
class Sample:
    """Images (N, 3, H, W) for both models, and how a report calls them."""

    name: str
    images: np.ndarray
    path: Path | None = None  # of a photograph


Observe = Callable[[Sample, Outputs, Outputs], None]  # what the reference and the artifact gave


def compare(
    reference: Runner,
    artifact: Runner,
    samples: Iterable[Sample],
    *,
    precision: str | Mapping[str, str] = "fp32",
    loosen: float = 1.0,
    observe: Observe | None = None,
) -> Iterator[CheckResult]:
    """Yield every comparison of ``artifact`` with ``reference``, failed ones included.

    ``precision`` selects the limits: one precision for all outputs, or one for each output.
    """
    yield from _compare_interfaces(reference.interface, artifact.interface)
    names = [n for n in reference.interface.outputs if n in artifact.interface.outputs]
    outputs = {name: _OutputComparison(name) for name in names}
    compared = 0
    for sample in samples:
        try:
            want, got = reference.run(sample.images), artifact.run(sample.images)
        except ArtifactError as error:
            yield _fault("runs", sample.name, str(error))
            continue
        if observe:
            observe(sample, want, got)
        for output in outputs.values():
            output.add(sample, want, got)
        compared += 1
    detail = "" if compared else "the models share no input shape, or failed on all of them"
    yield CheckResult(
        check=CHECK,
        subject="samples",
        metric="compared",
        measured=compared,
        limit=1,
        at_least=True,
        detail=detail,
    )
    for output in outputs.values():
        judged = precision if isinstance(precision, str) else precision[output.name]
        yield from output.results(judged, loosen)


def samples_for(reference: Interface, artifact: Interface) -> Iterator[Sample]:
    """Seeded images at shapes that both models take; every batch slot has its own content."""
    prepared = preparation(reference, artifact)
    for sample in _unit_samples(reference, artifact):
        yield replace(sample, images=prepared(sample.images))


def common_normalization(reference: Interface, artifact: Interface) -> Normalization:
    """How pictures for both models are prepared: as the reference says, else as the artifact."""
    return reference.stated or artifact.normalization


def agree_on_pictures(want: Runner, got: Runner) -> None:
    """Let files that take pixels, and say nothing of their network, get the other one's pictures.

    Every normalisation is right for them: its pictures are turned back into pixels.
    """
    common = common_normalization(want.interface, got.interface)
    for runner in (want, got):
        if runner.interface.form.pixels and runner.interface.stated is None:
            runner.interface = replace(runner.interface, stated=common)


def preparation(reference: Interface, artifact: Interface) -> Callable[[np.ndarray], np.ndarray]:
    """What makes pictures for both models of seeded ones in -1 to 1.

    Where one of them takes bytes, both get pictures of whole bytes.
    """
    normalization = common_normalization(reference, artifact)
    if "uint8" not in (reference.form.type, artifact.form.type):
        return normalization.of_unit
    return lambda images: normalization.whole_bytes(normalization.of_unit(images))


def _unit_samples(reference: Interface, artifact: Interface) -> Iterator[Sample]:
    channels = reference.channels
    for batch, height, width in common_shapes(reference, artifact):
        size = f"{batch}x{channels}x{height}x{width}"
        if batch > 1:
            yield Sample(f"mixed {size}", stimuli(batch, height, width, 0, channels))
        elif height * width >= COSTLY_PIXELS:
            yield Sample(f"mosaic {size}", mosaic(height, width, 0, channels))
        else:  # every kind of picture in turn
            for seed, kind in enumerate(STIMULI):
                yield Sample(f"{kind} {size}", stimuli(1, height, width, seed, channels))


def strong_samples(reference: Interface, artifact: Interface) -> Iterator[Sample]:
    """Pictures of more contrast than any real one, one colour after the other, and inverted.

    A convolution's differences show where its channels are large.
    """
    shapes = common_shapes(reference, artifact)
    if not shapes:
        return
    batch, height, width = min(shapes, key=math.prod)
    channels = reference.channels
    fed = preparation(reference, artifact)
    for seed, factor in enumerate(STRONG):
        images = factor * stimuli(batch, height, width, seed + len(STIMULI), channels)
        yield Sample(f"times {factor:g}", fed(images))
    for channel in range(channels):
        images = stimuli(batch, height, width, channel, channels)
        images[:, [c for c in range(channels) if c != channel]] = -1
        yield Sample(f"colour {channel} alone", fed(images))


def common_shapes(a: Interface, b: Interface) -> list[tuple[int, int, int]]:
    """Shapes (N, H, W) that both interfaces accept; none if they are fixed to different ones."""
    multiple = max(a.size_multiple, b.size_multiple)
    shapes = []
    for batch, height, width in a.measured_at or b.measured_at or DYNAMIC_SHAPES:
        shape = (
            a.batch or b.batch or batch,
            a.height or b.height or _whole(height, multiple, LEAST_CELLS[0]),
            a.width or b.width or _whole(width, multiple, LEAST_CELLS[1]),
        )
        if a.accepts(*shape) and b.accepts(*shape) and shape not in shapes:
            shapes.append(shape)
    return shapes


def require_memory(live_bytes_per_pixel: float, shapes: Iterable[tuple[int, int, int]]) -> None:
    """Raise MissingError if a comparison at ``shapes`` needs more memory than there is."""
    free = available_memory()
    for batch, height, width in shapes:
        need = MEMORY_FACTOR * live_bytes_per_pixel * batch * height * width
        if need > free:
            raise MissingError(
                f"Verification at {batch}x3x{height}x{width} needs about {need / 2**30:.0f} GiB of "
                f"memory, {free / 2**30:.0f} GiB are free here: choose a smaller shape or a larger "
                "machine, or pass --no-verify and verify elsewhere."
            )


def _whole(size: int, multiple: int, least: int) -> int:
    """``size`` rounded up to whole cells of the coarsest stride, ``least`` cells or more."""
    return max(-(-size // multiple), least) * multiple


def _compare_interfaces(reference: Interface, artifact: Interface) -> Iterator[CheckResult]:
    faults = [f"missing {name}" for name in reference.outputs if name not in artifact.outputs]
    faults += [f"extra {name}" for name in artifact.outputs if name not in reference.outputs]
    faults += [f"extra {name}" for name in artifact.extras if name not in reference.extras]
    if not faults:
        faults = order_faults(reference.outputs, artifact.outputs)
    yield CheckResult(
        check=CHECK,
        subject="interface",
        metric="faults",
        measured=len(faults),
        limit=0,
        detail="; ".join(faults),
    )


def _fault(metric: str, subject: str, detail: str) -> CheckResult:
    return CheckResult(
        check=CHECK, subject=subject, metric=metric, measured=1, limit=0, detail=detail
    )


class _OutputComparison:
    """Collects the differences of one output over all samples; the worst ones count."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.worst: Errors | None = None
        # By height and width: errors at one size must not drown among the other sizes.
        self.fits: dict[tuple[int, ...], LineFit] = {}
        self.where = ""  # sample and slot of the largest error
        self.faults: list[CheckResult] = []

    def add(self, sample: Sample, want: Outputs, got: Outputs) -> None:
        a, b = want[self.name], got[self.name]
        fault = self._fault_of(a, b)
        if fault:
            metric, detail = fault
            self.faults.append(_fault(metric, self.name, f"{detail} on {sample.name}"))
            return
        self._fit(sample.images.shape[2:], want, b)
        # Each slot on its own: rows that ended up in the wrong image must not average out.
        for slot, (x, y) in enumerate(zip(a, b, strict=True)):
            found = errors(x, y)
            if self.worst is None or found.max_abs > self.worst.max_abs:
                self.where = f"largest on {sample.name}" + (f", slot {slot}" if len(a) > 1 else "")
            self.worst = found if self.worst is None else self.worst.worst(found)

    def _fit(self, size: tuple[int, ...], want: Outputs, got: np.ndarray) -> None:
        """Add one sample to the bias; an anchor counts as much as its score."""
        kind, _, stride = self.name.partition("_")
        if got.ndim != _ROWS_RANK:
            return
        rows = [array.reshape(-1, array.shape[-1]) for array in (want[self.name], got)]
        scores = want.get(f"score_{stride}", np.ones((*got.shape[:2], 1)))
        weights = np.clip(scores.max(axis=-1).ravel(), 0, 1)
        if len(weights) == len(rows[0]):
            fit = self.fits.setdefault(size, LineFit(got.shape[-1]))
            want_rows, got_rows = map(logits, rows) if kind == "score" else rows
            fit.add(want_rows, got_rows, weights)

    def _fault_of(self, a: np.ndarray, b: np.ndarray) -> tuple[str, str] | None:
        if a.shape != b.shape:
            return "shape", f"{list(b.shape)} instead of {list(a.shape)}"
        if not a.size:
            return "shape", "empty"
        if not np.isfinite(b).all():
            return "finite", f"{int((~np.isfinite(b)).sum())} values are NaN or infinite"
        if not np.isfinite(a).all():
            return "finite", "the reference itself has NaN or infinite values"
        if b.size > 1 and np.ptp(b) == 0:  # a single value is always constant
            return "alive", f"every value is {b.flat[0]:g}"
        return None

    def results(self, precision: str, loosen: float) -> Iterator[CheckResult]:
        yield from self.faults
        if self.worst is None:
            if not self.faults:
                yield _fault("compared", self.name, "nothing was compared")
            return
        limits, worst = limits_for(precision, self.name, loosen), self.worst
        for metric in ("max_abs", "mean_abs", "p999_abs", "cosine", "sqnr"):
            if np.isinf(getattr(limits, metric)):  # no such limit for outputs of unknown units
                continue
            at_least = metric in ("cosine", "sqnr")
            yield CheckResult(
                check=CHECK,
                subject=self.name,
                metric=metric,
                measured=getattr(worst, metric),
                limit=getattr(limits, metric),
                at_least=at_least,
                detail=self.where,
            )
        yield from self._biases(precision, loosen)

    def _biases(self, precision: str, loosen: float) -> Iterator[CheckResult]:
        limits = bias_limits_for(precision, self.name, loosen)
        if limits is None or not self.fits:
            return
        worst = Bias(0.0, 0.0)
        for fit in self.fits.values():
            worst = worst.worst(fit.bias())
        for metric in ("slope", "offset", "growth", "skew"):
            if np.isfinite(limit := getattr(limits, metric)):
                yield CheckResult(
                    check=CHECK,
                    subject=self.name,
                    metric=metric,
                    measured=getattr(worst, metric),
                    limit=limit,
                    detail=_WORST,
                )
