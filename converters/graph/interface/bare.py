"""A graph that prepares its pictures itself, as the network behind these operators."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from scrfdconv.converters.graph.edits import replace_all
from scrfdconv.converters.graph.interface.forms import form_of, network_of
from scrfdconv.converters.graph.interface.inputs import take_back
from scrfdconv.converters.graph.interface.preamble import (
    dims_of,
    measured_form,
    measured_network,
    preamble_of,
)
from scrfdconv.converters.graph.model_file import image_input, metadata_of
from scrfdconv.converters.input_form import PLAIN
from scrfdconv.converters.metadata import own_metadata
from scrfdconv.converters.network.preprocessing import form_in, stated_in

if TYPE_CHECKING:
    import onnx

    from scrfdconv.converters.normalization import Normalization, NormalizationOptions


def without_preamble(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy that takes its network's own pictures, (N, 3, H, W) float32; weights as trained.

    A model that takes them already is returned as it is. Raises ArtifactError where the operators
    before the first convolution are no scale, offset and order of channels.
    """
    import onnx

    start, form = preamble_of(model), form_of(model)
    stated = form_in(own_metadata(metadata_of(model)))
    if not start.nodes and not stated.pixels:
        return model
    if form == PLAIN and measured_form(model) != PLAIN:  # metadata that another graph had
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph, given = result.graph, image_input(result)
    gone = {tuple(node.output) for node in start.nodes}
    replace_all(graph.node, [node for node in graph.node if tuple(node.output) not in gone])
    sizes = form.sizes(dims_of(given))
    free = ("batch", "channels", "height", "width")
    dims = [size or name for size, name in zip(sizes, free, strict=True)]
    fresh = onnx.helper.make_tensor_value_info(start.image, onnx.TensorProto.FLOAT, dims)
    given.CopyFrom(fresh)
    if form == stated:  # a file of ours: weights absorbed a part
        take_back(result, form, network_of(model))
    return result


def normalization_of(
    model: onnx.ModelProto, said: NormalizationOptions, where: str
) -> Normalization | None:
    """How the pictures of a graph's network are normalised; None where nothing tells it.

    The metadata of our files state it, and the first operators of a foreign graph show it, but for
    the order of channels. ``said`` is what the user says; UsageError where that contradicts.
    """
    stated = stated_in(own_metadata(metadata_of(model)))
    shown = None if stated else measured_network(model)
    if shown is None:
        return said.over(stated, where)
    form_of(model).said(said, where)  # refuses another mean and std
    return replace(shown, color=said.color) if said.color else shown
