"""How much error each quantized convolution adds, as SQNR, measured one layer at a time.

Every convolution gets a twin beside it in the float model, with input and weights rounded as in
the INT8 model. So one run measures all layers, each without the noise of the layers before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from scrfdconv.converters.graph.interface.forms import outputs_of

if TYPE_CHECKING:
    import onnx

SILENT_SQNR = 200.0  # dB; of a layer without noise
_ROUNDING = ("QuantizeLinear", "DequantizeLinear")
_TWIN = "twin."


def layer_sqnr(
    model: onnx.ModelProto,
    int8: onnx.ModelProto,
    images: Callable[[], Iterable[np.ndarray]],
) -> dict[str, float]:
    """SQNR in dB of each convolution that ``int8``, made from ``model``, quantizes; worst first."""
    probed, names = _with_twins(model, int8)
    powers = np.zeros(2 * len(names))
    for values in outputs_of(probed, images):
        powers += np.array(values, np.float64).ravel()
    noise, signal = powers.reshape(len(names), 2).T
    ratio = np.divide(signal, noise, out=np.full(len(names), np.inf), where=noise > 0)
    levels = np.minimum(10 * np.log10(np.maximum(ratio, 1e-20)), SILENT_SQNR)
    return {names[i]: float(levels[i]) for i in np.argsort(levels, kind="stable")}


def _with_twins(model: onnx.ModelProto, int8: onnx.ModelProto) -> tuple[onnx.ModelProto, list[str]]:
    """The float model with two outputs for each layer: the power of its noise and its signal."""
    import onnx
    from onnx import helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    del graph.output[:], graph.value_info[:]
    rounded = _Rounded(int8.graph)
    names = [n.name for n in model.graph.node if n.op_type == "Conv" and rounded.has(n.name)]
    for node in [node for node in model.graph.node if node.name in names]:
        graph.node.extend(rounded.twin(node))
        noise = f"{_TWIN}{node.name}.noise"
        twin = f"{_TWIN}{node.name}"
        graph.node.append(helper.make_node("Sub", [node.output[0], twin], [noise]))
        for tensor in (noise, node.output[0]):
            power = f"{noise}.of.{tensor}"
            graph.node.append(helper.make_node("ReduceSumSquare", [tensor], [power], keepdims=0))
            value = helper.make_tensor_value_info(power, onnx.TensorProto.FLOAT, [])
            graph.output.append(value)
    graph.initializer.extend(rounded.constants)
    return result, names


class _Rounded:
    """The Q/DQ chains before the convolutions of an INT8 graph, to be copied beside others."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._convolutions = {node.name: node for node in graph.node if node.op_type == "Conv"}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._copied: set[str] = set()
        self.constants: list[onnx.TensorProto] = []

    def has(self, convolution: str) -> bool:
        """True if its input and its weights are rounded."""
        node = self._convolutions.get(convolution)
        makers = [self._makers.get(name) for name in node.input[:2]] if node is not None else [None]
        return all(maker is not None and maker.op_type in _ROUNDING for maker in makers)

    def twin(self, node: onnx.NodeProto) -> Iterator[onnx.NodeProto]:
        """Nodes that compute ``node`` with rounded input and weights, and its own bias."""
        import onnx

        inputs = []
        for name in self._convolutions[node.name].input[:2]:
            yield from self._chain(name)
            inputs.append(self._name(name))
        twin = onnx.NodeProto()
        twin.CopyFrom(node)
        twin.name = f"{_TWIN}{node.name}"
        twin.input[:2] = inputs
        twin.output[:] = [twin.name]
        yield twin

    def _chain(self, name: str) -> Iterator[onnx.NodeProto]:
        """Copies of the Q/DQ nodes that make ``name``, each once, first ones first."""
        import onnx

        node = self._makers.get(name)
        if node is None or node.op_type not in _ROUNDING or name in self._copied:
            return
        yield from self._chain(node.input[0])
        self._copied.add(name)
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{_TWIN}{node.name}"
        copy.input[:] = [self._name(source) for source in node.input]
        copy.output[:] = [self._name(name)]
        yield copy

    def _name(self, name: str) -> str:
        """Rounded values and their constants get names of their own; float values keep theirs."""
        import onnx

        node = self._makers.get(name)
        if name in self._tensors and name not in self._copied:
            self._copied.add(name)
            tensor = onnx.TensorProto()
            tensor.CopyFrom(self._tensors[name])
            tensor.name = _TWIN + name
            self.constants.append(tensor)
        is_ours = name in self._tensors or (node is not None and node.op_type in _ROUNDING)
        return _TWIN + name if is_ours else name
