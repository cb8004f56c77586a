"""Which layer of an artifact is which layer of the reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from scrfdconv.checks.weights import matches_of
from scrfdconv.converters.graph.convolution import Convolution
from scrfdconv.converters.layers import Layer

IMPOSSIBLE = 1e6  # cost of a pair whose shapes differ
# Weights decide; the place in the graph only between layers of the same weights, as shared heads
# have, or of weights that are like none.
PLACE = 0.01


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A layer of the artifact, and the layers of the reference that it is: several joined ones."""

    got: Layer
    wants: tuple[Layer, ...]
    channels: int  # how many channels of the artifact's value are compared: the rest is filling
    form: Convolution | None = None  # the artifact's convolution, cut to the reference's shape
    at_rest: float | None = None  # the distance of the weights, where several are joined

    def value(self, wanted: Mapping[str, np.ndarray]) -> np.ndarray:
        """What the artifact's layer should give."""
        value = np.concatenate([wanted[layer.name] for layer in self.wants], axis=1)
        return np.maximum(value, 0) if self.got.activated else value

    @property
    def stored_in(self) -> str:
        """The numbers of the weights; fp32 for an output."""
        return (self.got.convolution.precision if self.got.convolution else "") or "fp32"


def aligned(
    want: Sequence[Layer],
    got: Sequence[Layer],
    wanted: Mapping[str, np.ndarray],
    gotten: Mapping[str, np.ndarray],
) -> list[Pair]:
    """Pairs of layers, each layer in at most one; what is like no other layer is in none."""
    expected = [layer for layer in want if layer.convolution]
    own = [layer for layer in got if layer.convolution]
    pairs = list(_one_to_one(expected, own, wanted, gotten))
    done = {layer.name for pair in pairs for layer in pair.wants}
    left = [layer for layer in expected if layer.name not in done]
    aligned_already = {pair.got.name for pair in pairs}
    for layer in own:
        if layer.name not in aligned_already and (pair := _several(layer, left, wanted, gotten)):
            pairs.append(pair)
            left = [one for one in left if one.name not in {w.name for w in pair.wants}]
    outputs = {layer.name: layer for layer in got if not layer.convolution}
    for layer in want:
        mine = outputs.get(layer.name)
        if mine and not layer.convolution and _same_shape(layer, mine, wanted, gotten):
            width = wanted[layer.name].shape[1]
            pairs.append(Pair(got=mine, wants=(layer,), channels=width))
    return pairs


def _same_shape(
    want: Layer, got: Layer, wanted: Mapping[str, np.ndarray], gotten: Mapping[str, np.ndarray]
) -> bool:
    return wanted[want.name].shape == gotten[got.name].shape


def _one_to_one(
    want: Sequence[Layer],
    got: Sequence[Layer],
    wanted: Mapping[str, np.ndarray],
    gotten: Mapping[str, np.ndarray],
) -> Iterator[Pair]:
    """The assignment with the least distance between weights in all."""
    from scipy.optimize import linear_sum_assignment

    costs = np.full((len(got), len(want)), IMPOSSIBLE)
    forms: dict[tuple[int, int], Convolution] = {}
    for i, mine in enumerate(got):
        for j, other in enumerate(want):
            if not _fit(gotten[mine.name], wanted[other.name]):
                continue
            for form in _forms(mine, other):
                cost = _distance(form, other) + PLACE * abs(i / len(got) - j / len(want))
                if cost < costs[i, j]:
                    costs[i, j], forms[i, j] = cost, form
    for i, j in zip(*linear_sum_assignment(costs), strict=True):
        if costs[i, j] < IMPOSSIBLE:
            form = forms[i, j]
            yield Pair(got=got[i], wants=(want[j],), channels=len(form.weight), form=form)


def _fit(mine: np.ndarray, other: np.ndarray) -> bool:
    """True if both are maps of one size, mine with as many channels or more."""
    sizes = mine.shape[0] == other.shape[0] and mine.shape[2:] == other.shape[2:]
    return sizes and mine.shape[1] >= other.shape[1]


def _forms(mine: Layer, other: Layer) -> Iterator[Convolution]:
    assert mine.convolution and other.convolution
    for form in mine.convolution.forms():
        if form.weight.shape == other.convolution.weight.shape:
            yield form


def _distance(form: Convolution, other: Layer) -> float:
    """0 for the same weights, 1 for those that are as far away as zeros, or farther."""
    assert other.convolution
    own = other.convolution.weight
    length = float(np.linalg.norm(own)) or 1.0
    return min(1.0, float(np.linalg.norm(form.weight - own)) / length)


def _several(
    layer: Layer,
    left: Sequence[Layer],
    wanted: Mapping[str, np.ndarray],
    gotten: Mapping[str, np.ndarray],
) -> Pair | None:
    """Joined convolutions, as graphs for byte kernels have them; None where none fit."""
    near = [one for one in left if _fit(gotten[layer.name], wanted[one.name])]
    assert layer.convolution
    matches = matches_of(layer.convolution, [one.convolution for one in near if one.convolution])
    by_name = {one.convolution.name: one for one in near if one.convolution}
    names = [match.name for match in matches]
    if not names or len(set(names)) < len(names):
        return None
    wants = tuple(by_name[name] for name in names)
    channels = sum(wanted[one.name].shape[1] for one in wants)
    worst = max(match.difference for match in matches)
    return Pair(got=layer, wants=wants, channels=channels, at_rest=worst)
