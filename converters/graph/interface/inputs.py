"""What a network is fed with becomes part of its graph: type, layout, channels, normalisation.

The first convolution absorbs what it can. The order of channels: its weights are exchanged. The
factor: weights times it are the same sum. The offset stays an operator: the convolution pads with
zeros, which are the mean; zeros instead of offset pixels are other numbers along every border
(tests/converters/formats/test_inputs.py measures them).
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.graph.edits import free_name, replace_all
from scrfdconv.converters.graph.model_file import image_input
from scrfdconv.converters.input_form import PLAIN, TO_FIRST
from scrfdconv.converters.network.architecture import CHANNELS

if TYPE_CHECKING:
    import onnx

    from scrfdconv.converters.graph.convolution import Convolution
    from scrfdconv.converters.input_form import InputForm
    from scrfdconv.converters.normalization import Normalization

_PREFIX = "input"  # of the names of new nodes and values


def write_input(model: onnx.ModelProto, form: InputForm, network: Normalization) -> None:
    """Let a graph that takes its network's own pictures take them in ``form``.

    Raises ArtifactError for a graph that does not begin with one dense convolution.
    """
    exchange, offset, divisor = _difference(form, network)
    _absorb(model, exchange=exchange, factor=1 / divisor)
    _put_before(model, form, offset)


def take_back(model: onnx.ModelProto, form: InputForm, network: Normalization) -> None:
    """Give the first convolution its weights as trained, where `write_input` wrote ``form``.

    The operators of that form are gone already. Raises ArtifactError as `write_input` does.
    """
    exchange, _, divisor = _difference(form, network)
    _absorb(model, exchange=exchange, factor=divisor[::-1] if exchange else divisor)


def as_trained(convolution: Convolution, form: InputForm, network: Normalization) -> Convolution:
    """A convolution of a graph that takes pictures in ``form``, as the network has it.

    Only the first one differs, which alone has as many input channels as a picture.
    """
    exchange, _, divisor = _difference(form, network)
    if form == PLAIN or convolution.weight.shape[1] != CHANNELS:
        return convolution
    weight = convolution.weight * divisor.astype(np.float32)[:, None, None]
    storage, most = convolution.storage, float(divisor.max())
    return replace(
        convolution,
        weight=weight[:, ::-1] if exchange else weight,
        storage=replace(storage, step=storage.step * most, reach=storage.reach / most, factor=most),
    )


def _difference(form: InputForm, network: Normalization) -> tuple[bool, np.ndarray, np.ndarray]:
    """Whether channels are exchanged; offset and divisor, in the order of what is fed.

    The network wants (x - offset) / divisor, where x is what is fed.
    """
    fed = form.normalization(network)
    exchange = fed.color != network.color
    wanted = network.exchanged() if exchange else network
    offset = np.subtract(wanted.mean, fed.mean) / fed.std
    return exchange, offset, np.divide(wanted.std, fed.std)


def _absorb(model: onnx.ModelProto, *, exchange: bool, factor: np.ndarray) -> None:
    """Exchange the input channels of the first convolution, and multiply their weights."""
    from onnx import numpy_helper

    graph, image = model.graph, image_input(model).name
    if not exchange and (factor == 1).all():
        return
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in [node for node in graph.node if image in node.input and node.op_type != "Shape"]:
        tensor = tensors.get(node.input[1]) if node.op_type == "Conv" else None
        readers = [one for one in graph.node if node.input[1:2] and node.input[1] in one.input]
        if tensor is None or len(readers) > 1 or list(tensor.dims)[1:2] != [CHANNELS]:
            raise ArtifactError(
                f"{graph.name}: begins with {node.op_type} {node.name}, not with a convolution "
                "that could take its pictures in another form; export it from its checkpoint."
            )
        weight = numpy_helper.to_array(tensor)
        ordered = weight[:, ::-1] if exchange else weight
        scaled = (ordered * factor[:, None, None]).astype(weight.dtype)
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(scaled), tensor.name))


def _put_before(model: onnx.ModelProto, form: InputForm, offset: np.ndarray) -> None:
    """Cast, transposition and offset before everything that reads the image, as far as needed."""
    import onnx
    from onnx import helper, numpy_helper

    graph, given = model.graph, image_input(model)
    taken = {name for node in graph.node for name in (*node.input, *node.output, node.name)}
    nodes: list[onnx.NodeProto] = []

    def add(operator: str, *constants: str, **attributes: Any) -> None:
        before = nodes[-1].output[0] if nodes else given.name
        name = free_name(f"{_PREFIX}/{operator}", taken)
        nodes.append(helper.make_node(operator, [before, *constants], [name], name, **attributes))

    if form.type == "uint8":  # the first one: TensorRT takes bytes in casts alone
        add("Cast", to=onnx.TensorProto.FLOAT)
    if form.layout == "nhwc":
        add("Transpose", perm=TO_FIRST)
    if offset.any():
        values = offset.astype(np.float32).reshape(1, CHANNELS, 1, 1)
        graph.initializer.append(numpy_helper.from_array(values, free_name("offset", taken)))
        add("Sub", graph.initializer[-1].name)
    if nodes:
        for node in graph.node:
            own = nodes[-1].output[0]
            node.input[:] = [own if name == given.name else name for name in node.input]
        replace_all(graph.node, [*nodes, *graph.node])
    _declare(given, form)


def _declare(given: onnx.ValueInfoProto, form: InputForm) -> None:
    import onnx

    kind = given.type.tensor_type
    dims = [dim.dim_param or dim.dim_value for dim in kind.shape.dim]
    if form.type == "uint8":
        kind.elem_type = onnx.TensorProto.UINT8
    fresh = onnx.helper.make_tensor_value_info(given.name, kind.elem_type, form.dims(tuple(dims)))
    given.CopyFrom(fresh)
