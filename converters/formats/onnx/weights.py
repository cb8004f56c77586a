"""The convolutions of an ONNX graph with the weights that they really use, and their storage.

Weights may come from constants, nodes, casts or bytes. ONNX Runtime computes every value that does
not depend on the image, as it does before a run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scrfdconv.converters.errors import ArtifactError, reason_of
from scrfdconv.converters.graph.convolution import Convolution, Storage
from scrfdconv.converters.graph.inference import SILENT
from scrfdconv.converters.graph.number_types import Numbers, weight_name

if TYPE_CHECKING:
    import onnx

_FOUR_AXES = 4
# Inputs of QLinearConv: x, w, each with scale and zero point; scale and zero point of y; bias.
_QLINEAR_IMAGE, _QLINEAR_WEIGHT, _QLINEAR_BIAS = slice(1, 3), (3, 4, 5), slice(8, 9)
_ZERO_POINT = 2  # input of DequantizeLinear


def convolutions_of_onnx(path: Path) -> Iterator[Convolution]:
    """Every convolution of an ONNX file that an output needs, in any precision."""
    yield from convolutions_of_model(folded_graph(path))


def folded_graph(path: Path) -> onnx.ModelProto:
    """The graph of a file, with BatchNorms folded: foreign exports may leave them."""
    from scrfdconv.converters.graph.model_file import load_onnx
    from scrfdconv.converters.graph.passes import simplify

    model = load_onnx(path)
    operators = {node.op_type for node in model.graph.node}
    if "BatchNormalization" in operators and not operators & {"DequantizeLinear", "QLinearConv"}:
        return simplify(model)
    return model


def convolutions_of_model(model: onnx.ModelProto) -> Iterator[Convolution]:
    """Every convolution that an output of a graph needs, in the order of the graph."""
    reader = _Reader(model)
    for node in reader.convolutions:
        convolution = reader.read(node)
        if convolution is not None:
            yield convolution


class _Reader:
    """Reads the weights of one graph."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._numbers = Numbers(model)
        self.convolutions = [
            n for n in self._numbers.live if n.op_type in ("Conv", "FusedConv", "QLinearConv")
        ]
        self._values = values_of(model, self._numbers, set(self._wanted()))

    def _wanted(self) -> Iterator[str]:
        for node in self.convolutions:
            yield from node.input
            for name in node.input[:3]:
                maker = self._numbers.maker(name)
                if maker is not None and maker.op_type == "DequantizeLinear":
                    yield from maker.input

    def read(self, node: onnx.NodeProto) -> Convolution | None:
        """The convolution of ``node``; None where its weight depends on the image."""
        name = node.name or node.output[0]
        if node.op_type == "QLinearConv":
            return self._read_qlinear(name, node)
        if weight_name(node) not in self._values:
            return None
        weight = self._values[weight_name(node)]
        if weight.ndim != _FOUR_AXES:
            return None
        bias = self._values.get("".join(node.input[2:3]), np.zeros(len(weight)))
        storage = Storage(precision=self._numbers.of_weight(weight_name(node)))
        if storage.precision == "int8":
            storage = self._storage(node, len(weight))
        return Convolution(name, weight.astype(np.float32), bias.astype(np.float64), storage)

    def _storage(self, node: onnx.NodeProto, channels: int) -> Storage:
        step = self._step(weight_name(node), channels)
        bias_step = self._step("".join(node.input[2:3]), channels)
        source = self._numbers.maker(node.input[0])
        reach = 0.0
        if source is not None and source.op_type == "DequantizeLinear":
            reach = self._reach(*source.input[1 : _ZERO_POINT + 1])
        return Storage(
            precision="int8", step=step.reshape(-1, 1, 1, 1), bias_step=bias_step, reach=reach
        )

    def _step(self, name: str, channels: int) -> np.ndarray:
        """The scale behind a dequantized constant, one for each channel; 0 for a float one."""
        maker = self._numbers.maker(name)
        if maker is None or maker.op_type != "DequantizeLinear":
            return np.zeros(channels)
        scale = self._values[maker.input[1]].astype(np.float64).reshape(-1)
        return (
            np.resize(scale, channels)
            if scale.size in (1, channels)
            else np.full(channels, scale.max())
        )

    def _reach(self, scale: str, zero_point: str = "") -> float:
        """The largest absolute value of bytes with that scale and zero point."""
        zero = self._values.get(zero_point, np.zeros((), np.uint8))
        if zero.dtype.kind not in "iu" or scale not in self._values:
            return 0.0
        limits = np.iinfo(zero.dtype)
        steps = max(limits.max - int(zero.max()), int(zero.min()) - limits.min)
        return float(self._values[scale].max()) * steps

    def _read_qlinear(self, name: str, node: onnx.NodeProto) -> Convolution | None:
        weight, scale, zero = (self._values.get(node.input[i]) for i in _QLINEAR_WEIGHT)
        image_scale = self._values.get(node.input[1])
        if weight is None or scale is None or zero is None or image_scale is None:
            return None
        step = np.resize(scale.astype(np.float64).reshape(-1), len(weight)).reshape(-1, 1, 1, 1)
        offset = np.resize(zero.astype(np.float64).reshape(-1), len(weight)).reshape(-1, 1, 1, 1)
        bias_step = step.reshape(-1) * float(image_scale.max())
        bias = self._values.get("".join(node.input[_QLINEAR_BIAS]), np.zeros(len(weight)))
        storage = Storage(
            precision="int8",
            step=step,
            bias_step=bias_step,
            reach=self._reach(*node.input[_QLINEAR_IMAGE]),
        )
        return Convolution(name, (weight - offset) * step, bias * bias_step, storage)


def values_of(model: onnx.ModelProto, numbers: Numbers, wanted: set[str]) -> dict[str, np.ndarray]:
    """The values of ``wanted`` that do not depend on the image.

    Raises ArtifactError where ONNX Runtime cannot compute them.
    """
    from onnx import numpy_helper

    tensors = {t.name: t for t in model.graph.initializer}
    found = {n: numpy_helper.to_array(tensors[n]) for n in wanted if n in tensors}
    computed = sorted(n for n in wanted - found.keys() if n and numbers.is_constant(n))
    if computed:
        found |= dict(zip(computed, _computed(model, numbers, computed), strict=True))
    return found


def _computed(model: onnx.ModelProto, numbers: Numbers, names: list[str]) -> list[np.ndarray]:
    import onnx
    import onnxruntime

    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = "constants"
    part.graph.node.extend(numbers.before(names))
    needed = {name for node in part.graph.node for name in node.input}
    part.graph.initializer.extend(t for t in model.graph.initializer if t.name in needed)
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    options.intra_op_num_threads = 1
    try:
        session: Any = onnxruntime.InferenceSession(
            part.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        return list(session.run(names, {}))
    except Exception as error:  # onnxruntime's exceptions have no common public base
        raise ArtifactError(
            f"{model.graph.name}: its weights cannot be read: {reason_of(error)}."
        ) from error
