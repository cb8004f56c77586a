"""Where does a model begin to differ from its reference?

The convolutions of both graphs are aligned, by weights and by the shape of what they give. Then the
artifact runs in pieces: every layer reads the values of the reference instead of those of the
artifact's own layers before. So each error is the layer's own, and errors do not add up: a layer is
at fault if its own error is more than the rounding of its numbers, or if its weights are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from scrfdconv.checks.bisection.alignment import Pair, aligned
from scrfdconv.checks.bisection.fault_kinds import kind_of_fault
from scrfdconv.checks.metrics import Bias, LineFit, sqnr
from scrfdconv.checks.parity import common_shapes, preparation
from scrfdconv.checks.stimuli import stimuli
from scrfdconv.checks.weights import difference_at_rest, limit_at_rest
from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.graph.number_types import TO_BYTES, coarsest
from scrfdconv.converters.layers import Layers

SEEDED = 2  # seeded pictures: drawn faces, and noise
CHANNEL_AXIS = 1
# Share of the reference's convolutions that must be found: joined heads leave 0.9 of them, other
# networks of the family have 0.1 to 0.4 of the same shapes.
LIKE = 0.5
MULTIPLE = 1e-3  # share of the weights that a multiple may leave over, by rounding to halves
VARIED = 0.1  # share of the largest standard deviation of a channel


@dataclass(frozen=True)
class OwnLimits:
    """What one layer may do by rounding alone."""

    sqnr: float  # dB, at least
    slope: float  # distance from 1, at most


# Measured with right models of scrfd_500m_kps, released weights, each layer fed from the reference:
# fp32 138 dB (a released file against our export), fp16 62 dB and slope 1.3e-3, int8 28 dB and
# slope 0.017. A fault of 1 % is 40 dB: in INT8 the weights at rest show it.
OWN_LIMITS = {
    "fp32": OwnLimits(sqnr=90, slope=1e-3),
    "fp16": OwnLimits(sqnr=50, slope=1e-2),
    "int8": OwnLimits(sqnr=20, slope=0.05),
}


@dataclass(frozen=True, kw_only=True)
class LayerError:
    """What one layer adds to the error, given the values of the reference."""

    layer: str
    against: str  # the layers of the reference
    precision: str
    sqnr: float  # dB, of the layer alone
    slope: float  # distance from 1 of the worst channel, reduced by the share of chance
    offset: float  # of the worst channel, relative to the layer's root mean square
    at_rest: float | None  # distance of the weights; None for an output
    whole: float  # dB, of the same value in a whole run of the artifact
    fault: str = ""  # what kind of fault it is; "" for rounding

    def line(self) -> str:
        """The fault in one sentence."""
        named = "" if self.against == self.layer else f" (of the reference: {self.against})"
        return f"{self.layer}{named}: {self.fault}; {self.sqnr:.1f} dB of its own"


@dataclass(frozen=True)
class Bisection:
    """All aligned layers in the order of the reference, and what was not aligned."""

    layers: tuple[LayerError, ...]
    unaligned: tuple[str, ...] = ()  # convolutions of one side only

    @property
    def faulty(self) -> tuple[LayerError, ...]:
        """The layers whose own error is more than rounding, the first one first."""
        return tuple(layer for layer in self.layers if layer.fault)

    @property
    def sensitive(self) -> tuple[LayerError, ...]:
        """The layers that compute in 8 bits, those that lose most first.

        Each is measured alone, as the search of ``int8`` does before it puts layers back to float.
        """
        rounded = (layer for layer in self.layers if layer.precision == "int8")
        return tuple(sorted(rounded, key=lambda layer: layer.sqnr))

    def line(self) -> str:
        """The answer in one line."""
        if self.faulty:
            return f"begins at {self.faulty[0].line()}"
        if self.unaligned or not self.layers:
            left = f"; not aligned: {', '.join(self.unaligned[:3])}" if self.unaligned else ""
            return f"no aligned layer differs{left}"
        least = min(self.layers, key=lambda layer: layer.sqnr)
        return (
            f"no single layer differs by more than rounding; the largest error is that of "
            f"{least.layer}, {least.sqnr:.1f} dB"
        )


def bisect(want: Layers, got: Layers, photographs: Sequence[np.ndarray] = ()) -> Bisection:
    """Compare an artifact with its reference layer by layer.

    ``photographs`` are (3, H, W) as the models take them, besides the seeded pictures. Raises
    ArtifactError where no size fits both, or where few layers can be aligned.
    """
    images = _pictures(want, got, photographs)
    wanted, gotten = _values(want, images), _values(got, images)
    pairs = aligned(want.all, got.all, wanted, gotten)
    given = {
        pair.got.name: _as_given(pair, wanted, gotten) for pair in pairs if pair.got.convolution
    }
    convolutions = sum(layer.convolution is not None for layer in want.all)
    if len(given) < LIKE * convolutions:
        raise ArtifactError(
            f"{got.path}: {len(given)} of {convolutions} convolutions of the reference have a "
            "counterpart: this is another network, or its layers are arranged in another way."
        )
    run = _Comparison(want, got, images, wanted, gotten, _in_order(pairs, want), given)
    done = {layer.name for pair in pairs for layer in (pair.got, *pair.wants)}
    left = [layer.name for layers in (got, want) for layer in layers.all if layer.name not in done]
    return Bisection(run.errors_but_undone(), tuple(dict.fromkeys(left)))


def size_of(want: Layers, got: Layers) -> tuple[int, int]:
    """The smallest (H, W) that both take; raises ArtifactError if there is none."""
    shapes = common_shapes(want.runner.interface, got.runner.interface)
    if not shapes:
        raise ArtifactError(
            f"{got.path}: has another fixed size than the reference: nothing is compared."
        )
    return min((height, width) for _, height, width in shapes)


def _pictures(want: Layers, got: Layers, photographs: Sequence[np.ndarray]) -> np.ndarray:
    height, width = size_of(want, got)
    prepared = preparation(want.runner.interface, got.runner.interface)
    seeded = [prepared(stimuli(1, height, width, seed))[0] for seed in range(SEEDED)]
    return np.stack([*seeded, *photographs]).astype(np.float32)


def _values(layers: Layers, images: np.ndarray) -> dict[str, np.ndarray]:
    """One picture after the other: files may be fixed to one."""
    return _joined(layers.values(image[None]) for image in images)


def _joined(runs: Iterator[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    found = list(runs)
    return {name: np.concatenate([run[name] for run in found]) for name in found[0]}


def _as_given(
    pair: Pair, wanted: Mapping[str, np.ndarray], gotten: Mapping[str, np.ndarray]
) -> np.ndarray:
    """The reference's value in the type and with the channels of the artifact's."""
    own = gotten[pair.got.name]
    value = np.zeros(own.shape, own.dtype)
    value[:, : pair.channels] = pair.value(wanted)
    return value


def _in_order(pairs: Sequence[Pair], want: Layers) -> list[Pair]:
    place = {layer.name: index for index, layer in enumerate(want.all)}
    return sorted(pairs, key=lambda pair: place[pair.wants[0].name])


# ---------------------------------------------------------------- one layer


@dataclass(frozen=True)
class _Comparison:
    """Both models with what their layers gave for the pictures, and which layer is which.

    Some exports multiply boxes by a learned factor, others fold the factor into the convolution
    before: the convolution is a multiple of the reference's, and what reads the convolution undoes
    the factor. ``factors`` says by which number a layer is larger than the reference's.
    """

    want: Layers
    got: Layers
    images: np.ndarray
    wanted: Mapping[str, np.ndarray]
    gotten: Mapping[str, np.ndarray]
    pairs: Sequence[Pair]
    given: Mapping[str, np.ndarray]

    def errors(self, factors: Mapping[str, float]) -> tuple[LayerError, ...]:
        """The error of every aligned layer, each fed from the reference."""
        given = {n: v * v.dtype.type(factors.get(n, 1)) for n, v in self.given.items()}
        own = _joined(
            self.got.values_from(
                self.images[at : at + 1], {n: v[at : at + 1] for n, v in given.items()}
            )
            for at in range(len(self.images))
        )
        return tuple(
            self._judged(pair, own, factors.get(pair.got.name, 1.0)) for pair in self.pairs
        )

    def errors_but_undone(self) -> tuple[LayerError, ...]:
        """The errors where no factor counts that the layers behind undo."""
        errors = self.errors({})
        faulty = {error.layer for error in errors if error.fault}
        factors = {
            pair.got.name: factor
            for pair in self.pairs
            if pair.got.name in faulty and (factor := _multiple(pair)) != 1
        }
        undone = {n: f for n, f in factors.items() if self._is_undone(n, f, len(faulty))}
        return self.errors(undone) if undone else errors

    def _is_undone(self, name: str, factor: float, faulty: int) -> bool:
        """True if with this factor more layers than the one itself are right."""
        return sum(bool(error.fault) for error in self.errors({name: factor})) < faulty - 1

    def _judged(self, pair: Pair, own: Mapping[str, np.ndarray], factor: float) -> LayerError:
        name = pair.got.name
        alone = own[name][:, : pair.channels]
        x, y = _columns(pair.value(self.wanted) * factor, pair), _columns(alone, pair)
        before = self.want.operators(pair.wants[0].name, self.wanted)
        operators = self.got.operators(name, self.given), before
        bias = _bias(x, y)
        error = LayerError(
            layer=name,
            against=" + ".join(layer.name for layer in pair.wants),
            precision=_numbers(pair, operators[0], alone),
            sqnr=_sqnr(x, y),
            slope=bias.slope,
            offset=bias.offset / (float(np.sqrt(np.square(x).mean())) or 1.0),
            at_rest=_at_rest(pair, factor),
            whole=_sqnr(x, _columns(self.gotten[name][:, : pair.channels], pair)),
        )
        if _within(error, pair.stored_in):
            return error
        return replace(error, fault=kind_of_fault(pair, x, y, operators, error.at_rest))


def _multiple(pair: Pair) -> float:
    """The factor by which a convolution is larger than the reference's; 1 if it is no multiple."""
    reference = pair.wants[0].convolution
    if pair.form is None or reference is None:
        return 1.0
    a, b = reference.weight.astype(np.float64), pair.form.weight.astype(np.float64)
    factor = float((a * b).sum() / ((a * a).sum() or 1.0))
    left = np.linalg.norm(b - factor * a) / (np.linalg.norm(b) or 1.0)
    return factor if left < MULTIPLE and abs(factor - 1) > MULTIPLE else 1.0


def _numbers(pair: Pair, operators: Mapping[str, int], value: np.ndarray) -> str:
    """The coarsest numbers between the layers before and the value of this layer."""
    found = [pair.stored_in]
    if any(operators[name] for name in TO_BYTES):
        found.append("int8")
    if value.dtype == np.float16 or operators["Cast"]:
        found.append("fp16")
    return coarsest(found)


def _within(error: LayerError, stored_in: str) -> bool:
    """True if the error is rounding."""
    limits = OWN_LIMITS[error.precision]
    rest = error.at_rest is None or error.at_rest <= limit_at_rest(stored_in)
    return rest and error.sqnr >= limits.sqnr and error.slope <= limits.slope


def _at_rest(pair: Pair, factor: float) -> float | None:
    """The distance of the weights from ``factor`` times the reference's; None for an output."""
    reference = pair.wants[0].convolution
    if reference is None:
        return None
    if pair.form is None:
        return pair.at_rest
    scaled = replace(reference, weight=reference.weight * factor, bias=reference.bias * factor)
    return difference_at_rest(pair.form, scaled)


def _columns(value: np.ndarray, pair: Pair) -> np.ndarray:
    """(positions, channels): every position of every picture is one row."""
    if pair.got.convolution is None:  # an output: (N, rows, width)
        return value.reshape(-1, value.shape[-1]).astype(np.float64)
    return np.moveaxis(value, CHANNEL_AXIS, -1).reshape(-1, value.shape[1]).astype(np.float64)


def _sqnr(want: np.ndarray, got: np.ndarray) -> float:
    if not np.isfinite(got).all():
        return -np.inf
    return sqnr(want.ravel(), (got - want).ravel())


def _bias(want: np.ndarray, got: np.ndarray) -> Bias:
    """The line through the channels that vary: rounding alone tilts one that hardly does."""
    spread = want.std(axis=0)
    varied = spread >= VARIED * spread.max()
    fit = LineFit(int(varied.sum()))
    fit.add(want[:, varied], got[:, varied], np.ones(len(want)))
    return fit.bias()
