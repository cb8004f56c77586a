"""What FP16 cannot hold: weights and activations beyond its range, or too small to keep digits.

FP16 ends at 65504, has 11 significant bits down to 6.1e-5 and loses one with every halving below,
until nothing is left under 6e-8. Overflow is decided by size alone. Small values are common and
mostly harmless (channels that training switched off), so small values are rounded in a trial, and
count only if an output moves.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from scrfdconv.converters.graph.edits import float_tensors, replace_all
from scrfdconv.converters.graph.inference import Images
from scrfdconv.converters.graph.interface.forms import outputs_of
from scrfdconv.converters.graph.kept_float import KeptFloat
from scrfdconv.converters.precision.fp16.half import wants_half

if TYPE_CHECKING:
    import onnx


LARGEST = 65504.0
# Other images reach further than the ones that were measured: the largest activation of three
# trained models on 40 photographs was 1.2 to 2.1 times that on the built-in pictures, that of
# single small tensors up to 20 times. All are below 600, so a wide margin costs nothing.
HEADROOM = 4.0
# Rounding of normal numbers moves a channel's weights by 2**-11.8 of their norm. Four times that
# is where subnormal weights begin to show.
LOST_WEIGHTS = 2.0**-9
# A tensor whose largest value is this small has most values among the subnormals, below 6.1e-5.
SMALL_ACTIVATIONS = 2.0**-10
# Share of an output's norm: a tenth of what all roundings of an FP16 model together move outputs
# by (1e-3 to 4e-2). No switched-off channel of a trained model was found to reach it.
MOVED_OUTPUT = 1e-4


@dataclass(frozen=True)
class _Suspect:
    """Values that FP16 would round badly: one weight, with its rounded values, or activations."""

    kept: KeptFloat
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    activations: frozenset[str] = frozenset()


def out_of_range(
    model: onnx.ModelProto, keep: Collection[str], images: Images
) -> Iterator[KeptFloat]:
    """Yield the nodes of a prepared model that FP16 does not suit, besides those in ``keep``."""
    weights = _float_weights(model, keep)
    beyond = [k for name, w in weights.items() for k in _weight_beyond(model, name, w, keep)]
    yield from beyond
    largest = _largest_activations(model, keep, images)
    for name, value in largest.items():
        if not value * HEADROOM <= LARGEST:
            yield KeptFloat(_beyond("activations", value), _around(model, name))
    covered = {node for kept in beyond for node in kept.nodes}
    suspects = [
        *_suspect_weights(model, weights, {*keep, *covered}),
        *_suspect_activations(model, largest),
    ]
    for suspect in _that_matter(model, suspects, images):
        yield suspect.kept


def _beyond(what: str, value: float) -> str:
    return f"{what} reach {value:.3g}; FP16 ends at {LARGEST:.0f}"


# ---------------------------------------------------------------- weights


def _float_weights(model: onnx.ModelProto, keep: Collection[str]) -> dict[str, np.ndarray]:
    """The weights that would become FP16."""
    from onnx import TensorProto, numpy_helper

    read = {
        name
        for node in model.graph.node
        for slot, name in enumerate(node.input)
        if wants_half(node, slot, keep)
    }
    return {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and tensor.name in read
    }


def _weight_beyond(
    model: onnx.ModelProto, name: str, weight: np.ndarray, keep: Collection[str]
) -> Iterator[KeptFloat]:
    largest = float(np.abs(weight).max(initial=0))
    if not largest <= LARGEST:
        readers = tuple(node for node in _readers(model, name) if node not in keep)
        yield KeptFloat(_beyond("weights", largest), readers)


def _suspect_weights(
    model: onnx.ModelProto, weights: dict[str, np.ndarray], covered: Collection[str]
) -> Iterator[_Suspect]:
    for name, weight in weights.items():
        readers = tuple(node for node in _readers(model, name) if node not in covered)
        if not readers or not np.abs(weight).max(initial=0) <= LARGEST:
            continue
        lost = _losses(weight)
        if lost.max(initial=0) > LOST_WEIGHTS:
            share = lost.max()
            reason = f"weights lose {share:.2g} of a channel's norm among FP16's subnormals"
            yield _Suspect(KeptFloat(reason, readers), weights={name: _without(weight, lost)})


def _losses(weight: np.ndarray) -> np.ndarray:
    """The relative rounding error of every channel (the first axis; a vector is one channel)."""
    rows = _channels(weight).astype(np.float64)
    error = np.linalg.norm(rows - rows.astype(np.float16), axis=1)
    norm = np.linalg.norm(rows, axis=1)
    losses: np.ndarray = np.divide(error, norm, out=np.zeros_like(error), where=norm > 0)
    return losses


def _without(weight: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """``weight`` with only its badly rounded channels rounded: the rest must not hide them."""
    rows = _channels(weight)
    halves = rows.astype(np.float16).astype(np.float32)
    return np.where(losses[:, None] > LOST_WEIGHTS, halves, rows).reshape(weight.shape)


def _channels(weight: np.ndarray) -> np.ndarray:
    return weight.reshape(len(weight) if weight.ndim > 1 else 1, -1)


def _readers(model: onnx.ModelProto, name: str) -> list[str]:
    return [node.name for node in model.graph.node if name in node.input]


# ---------------------------------------------------------------- activations


def _largest_activations(
    model: onnx.ModelProto, keep: Collection[str], images: Images
) -> dict[str, float]:
    """The largest magnitude of every value that would be FP16, over ``images``."""
    import onnx

    floats = float_tensors(model)
    names = [
        name
        for node in model.graph.node
        if node.name not in keep
        for name in node.output
        if name in floats
    ]
    probe = _copy(model)
    del probe.graph.output[:]
    for name in reversed(names):  # backwards, for the reason in int8/calibration.py
        probe.graph.node.extend(
            [
                onnx.helper.make_node("Abs", [name], [f"{name}.absolute"]),
                onnx.helper.make_node(
                    "ReduceMax", [f"{name}.absolute"], [f"{name}.largest"], keepdims=0
                ),
            ]
        )
    for name in names:
        value = onnx.helper.make_tensor_value_info(f"{name}.largest", onnx.TensorProto.FLOAT, [])
        probe.graph.output.append(value)
    found = np.zeros(len(names))
    for values in outputs_of(probe, images):
        found = np.maximum(found, np.array(values, np.float64))  # NaN stays and counts as beyond
    return dict(zip(names, found.tolist(), strict=True))


def _suspect_activations(model: onnx.ModelProto, largest: dict[str, float]) -> Iterator[_Suspect]:
    for name, value in largest.items():
        if 0 < value < SMALL_ACTIVATIONS:
            reason = f"activations reach no more than {value:.2g}; FP16 keeps few of their digits"
            yield _Suspect(KeptFloat(reason, _around(model, name)), activations=frozenset({name}))


def _around(model: onnx.ModelProto, name: str) -> tuple[str, ...]:
    """The node that makes a value and all that read it: one of them in FP16 would round it."""
    return tuple(n.name for n in model.graph.node if name in n.output or name in n.input)


# ---------------------------------------------------------------- trial by rounding


def _that_matter(
    model: onnx.ModelProto, suspects: list[_Suspect], images: Images
) -> list[_Suspect]:
    """The suspects whose rounding moves an output; all are tried at once first."""
    if not suspects or not _moves(model, suspects, images):
        return []
    each = [suspect for suspect in suspects if _moves(model, [suspect], images)]
    return each or suspects  # they matter only together


def _moves(model: onnx.ModelProto, suspects: list[_Suspect], images: Images) -> bool:
    weights = {name: array for suspect in suspects for name, array in suspect.weights.items()}
    activations = {name for suspect in suspects for name in suspect.activations}
    trial = rounded(model, weights, activations)
    pairs = zip(outputs_of(model, images), outputs_of(trial, images), strict=True)
    return any(
        not _distance(a, b) <= MOVED_OUTPUT
        for want, got in pairs
        for a, b in zip(want, got, strict=True)
    )


def _distance(want: np.ndarray, got: np.ndarray) -> float:
    norm = float(np.linalg.norm(want.astype(np.float64)))
    return float(np.linalg.norm(got.astype(np.float64) - want)) / norm if norm else 0.0


def rounded(
    model: onnx.ModelProto, weights: Mapping[str, np.ndarray], activations: Collection[str]
) -> onnx.ModelProto:
    """A float32 model with these weights, whose ``activations`` are stored as FP16 in between.

    ONNX Runtime's CPU provider computes whole FP16 regions in float32; this is how to see on a
    CPU what FP16 hardware does.
    """
    from onnx import numpy_helper

    result = _copy(model)
    graph = result.graph
    for tensor in graph.initializer:
        if tensor.name in weights:
            tensor.CopyFrom(numpy_helper.from_array(weights[tensor.name], tensor.name))
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes.append(node)
        for i, name in enumerate(node.output):
            if name in activations:
                node.output[i] = f"{name}.exact"
                nodes += _through_half(f"{name}.exact", name)
    replace_all(graph.node, nodes)
    return result


def _through_half(source: str, target: str) -> list[onnx.NodeProto]:
    from onnx import TensorProto, helper

    return [
        helper.make_node("Cast", [source], [f"{target}.half"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", [f"{target}.half"], [target], to=TensorProto.FLOAT),
    ]


def _copy(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    return result
