"""The form in which an ONNX graph takes its pictures, and runs on the network's own pictures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.graph.inference import Images, runs_of
from scrfdconv.converters.graph.interface.preamble import (
    dims_of,
    input_dtype,
    layouts,
    measured_form,
    preamble_of,
    run_preamble,
)
from scrfdconv.converters.graph.model_file import image_input, metadata_of
from scrfdconv.converters.input_form import PLAIN, InputForm
from scrfdconv.converters.metadata import own_metadata
from scrfdconv.converters.network.architecture import CHANNELS
from scrfdconv.converters.network.preprocessing import METADATA, form_in, stated_in
from scrfdconv.converters.normalization import STANDARD, Normalization

if TYPE_CHECKING:
    import onnx


def form_of(model: onnx.ModelProto) -> InputForm:
    """As our metadata say, or else as the first operators of the graph show.

    Metadata are believed as far as the declared input allows: programs obey them, so a graph that
    does something else must fail its verification. Raises ArtifactError where nothing says which
    pictures the graph takes.
    """
    own, given = own_metadata(metadata_of(model)), image_input(model)
    form, whole = form_in(own), input_dtype(given) == np.uint8
    if METADATA not in own:
        return measured_form(model)
    if form.layout in layouts(given) and whole == (form.type == "uint8"):
        return form
    if form != PLAIN:
        raise ArtifactError(
            f"{model.graph.name}: its metadata say {form.type} {form.layout.upper()}, and its "
            "input is another one; convert it again."
        )
    return measured_form(model)  # another tool edited a file of ours, and copied its metadata


def network_of(model: onnx.ModelProto) -> Normalization:
    """How the network's own pictures are normalised, as our metadata say, else as usual."""
    return stated_in(own_metadata(metadata_of(model))) or STANDARD


def outputs_of(model: onnx.ModelProto, images: Images) -> Iterator[list[Any]]:
    """The outputs of a model in memory for each of ``images``, which are the network's own."""
    form, network = form_of(model), network_of(model)
    yield from runs_of(model, lambda: (form.fed(batch, network) for batch in images()))


def image_range(model: onnx.ModelProto, network: Normalization) -> tuple[float, float]:
    """The values that bound every picture where the network begins: `Normalization.range` mostly.

    A graph with operators before its network may begin with pixels that are not divided yet.
    """
    start, (low, high) = preamble_of(model), network.range
    if not start.nodes:
        return low, high
    form = form_of(model)
    free = (1, CHANNELS, 1, 1)
    dims = form.sizes(dims_of(image_input(model)))
    sizes = tuple(size or other for size, other in zip(dims, free, strict=True))
    ends = (np.full(sizes, value, np.float32) for value in (low, high))
    made = [run_preamble(model, start, form.fed(end, network)) for end in ends]
    return float(min(end.min() for end in made)), float(max(end.max() for end in made))
