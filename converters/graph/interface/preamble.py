"""The operators between a graph's input and the network in it, which prepare its pictures.

Tools put a cast, a transposition, a normalisation or an exchange of channels in front of a network.
The network begins at the first convolution, or at the quantizer before it.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.graph.inference import values_of_outputs
from scrfdconv.converters.graph.model_file import image_input
from scrfdconv.converters.graph.number_types import CONVOLUTIONS, TO_BYTES, Numbers, live_nodes
from scrfdconv.converters.input_form import PLAIN, InputForm, Layout
from scrfdconv.converters.network.architecture import CHANNELS
from scrfdconv.converters.normalization import BYTES, Color, Normalization

if TYPE_CHECKING:
    import onnx

# What changes types, axes, order or scale of a picture, value by value or channel by channel.
_PREPARING = (
    *("Identity", "Cast", "Transpose", "Slice", "Gather", "Split", "Concat"),
    *("Sub", "Add", "Mul", "Div", "BatchNormalization"),
)
_BEGINNING = (*CONVOLUTIONS, *TO_BYTES)  # what reads the network's own picture
_ASKING = ("Shape", "Size")  # reads sizes, not values

_PROBE = (1, CHANNELS, 8, 12)  # batch, channels, height and width where a file leaves them free
_SEED = 0
# A picture must become the network's to this share of its range; halves round by 1 in 2048.
_TOLERANCE = 1e-3
# A mean and a std as small as this are of pixels from 0 to 1, as torchvision's Normalize has them.
_UNIT = 1.0
# Of a mean and of a std that were measured: what float32 resolves in values up to 255.
_DECIMALS, _DIGITS = 4, 6
_INTEGERS = "iu"  # kinds of numpy's types


@dataclass(frozen=True)
class Preamble:
    """The network's own picture in a graph, and the nodes that make it from the graph's input."""

    image: str  # the tensor that the network begins with
    nodes: tuple[onnx.NodeProto, ...] = ()  # in the order of the graph


def preamble_of(model: onnx.ModelProto) -> Preamble:
    """Walk from the input of a detector's graph to where its network begins.

    Raises ArtifactError for a model with other inputs than one image.
    """
    given = image_input(model).name
    prepared, behind = {given}, set[str]()
    makers: dict[str, onnx.NodeProto] = {}
    begins = dict[str, bool]()  # prepared tensor -> whether a convolution reads it
    for node in live_nodes(model.graph):
        early = [name for name in node.input if name in prepared]
        late = any(name in behind for name in node.input)
        if early and not late and node.op_type in _PREPARING:
            prepared.update(node.output)
            makers |= dict.fromkeys(node.output, node)
        elif early or late:
            behind.update(node.output)
            if node.op_type not in _ASKING:
                for name in early:
                    begins[name] = begins.get(name, False) or node.op_type in _BEGINNING
    # A network that reads two pictures, or begins with something else, is no detector's.
    if len(begins) != 1 or not all(begins.values()):
        return Preamble(given)
    (image,) = begins
    return Preamble(image, tuple(_before(image, makers)))


def measured_form(model: onnx.ModelProto) -> InputForm:
    """In which form a graph takes pictures, as its first operators show; see `_measured`."""
    return _measured(model)[0]


def measured_network(model: onnx.ModelProto) -> Normalization | None:
    """How a graph normalises the pixels that it takes, as its first operators show.

    None for a graph that takes normalised pictures. The color is red first; see `measured_form`.
    """
    return _measured(model)[1]


def _measured(model: onnx.ModelProto) -> tuple[InputForm, Normalization | None]:
    """The form of the pictures that a graph takes, and what the graph makes of their pixels.

    These operators run on a picture of noise: what they do is seen, whatever they are. A graph
    that shows a scale takes pixels: from 0 to 255, or from 0 to 1 where its mean and std are that
    small. Which color comes first, no graph says: red, unless the graph exchanges red and blue.

    Raises ArtifactError where they are no scale and offset of each channel.
    """
    start = preamble_of(model)
    given = image_input(model)
    dtype = input_dtype(given)
    if not start.nodes and dtype.kind not in _INTEGERS:
        return PLAIN, None
    for layout in layouts(given):
        form = InputForm(layout=layout)
        free = zip(form.sizes(dims_of(given)), _PROBE, strict=True)
        probe = _noise(tuple(size or other for size, other in free))
        try:
            made = run_preamble(model, start, form.laid_out(probe).astype(dtype))
        except ArtifactError:  # constants that do not fit this layout
            continue
        if made.shape == probe.shape and (found := _fitted(probe, made)):
            form = _form(layout, dtype, *found)
            return form, _normalization(form, found[0], found[1]) if form.pixels else None
    shown = ", ".join(Counter(node.op_type for node in start.nodes)) or "none"
    raise ArtifactError(
        f"{model.graph.name}: the operators before its first convolution ({shown}) are no scale, "
        "offset and order of channels: nothing says which pictures it takes."
    )


def run_preamble(model: onnx.ModelProto, start: Preamble, images: np.ndarray) -> np.ndarray:
    """The network's own picture that a graph makes of ``images``, which it takes as they are."""
    import onnx

    part = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    part.graph.name = model.graph.name
    part.graph.node.extend(Numbers(model).before([start.image]))
    needed = {name for node in part.graph.node for name in node.input}
    part.graph.initializer.extend(t for t in model.graph.initializer if t.name in needed)
    given = image_input(model)
    if not start.nodes:
        return images.astype(np.float32)
    part.graph.input.append(given)
    part.graph.output.append(onnx.ValueInfoProto(name=start.image))
    return values_of_outputs(part, {given.name: images})[start.image].astype(np.float32)


def input_dtype(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    """The declared type of an input."""
    import onnx

    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def layouts(value: onnx.ValueInfoProto) -> list[Layout]:
    """The layouts that the declared dimensions of an input allow."""
    known: tuple[Layout, ...] = ("nchw", "nhwc")
    channels = {one: InputForm(layout=one).sizes(dims_of(value))[1] for one in known}
    declared = [one for one in known if channels[one] == CHANNELS]
    return declared or [one for one in known if channels[one] is None]


def dims_of(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    """The declared dimensions of an input, None for free ones."""
    return tuple(dim.dim_value or None for dim in value.type.tensor_type.shape.dim)


def _noise(shape: tuple[int, ...]) -> np.ndarray:
    """Pixels from 0 to 255, whole ones: (N, 3, H, W) float32; the first two are black and white."""
    pixels = np.random.default_rng(_SEED).integers(0, BYTES, shape).astype(np.float32)
    pixels[:, :, 0, 0], pixels[:, :, 0, 1] = 0, BYTES - 1
    return pixels


def _fitted(pixels: np.ndarray, made: np.ndarray) -> tuple[np.ndarray, np.ndarray, bool] | None:
    """Mean, std, and whether channels are exchanged, so that ``made`` is (x - mean) / std.

    Black and white tell the line of each channel, and all other pixels must lie on the line.
    """
    offset, white = made[0, :, 0, :2].astype(np.float64).T
    scale = (white - offset) / (BYTES - 1)
    for exchanged in (False, True):
        source = pixels[:, ::-1] if exchanged else pixels
        fitted = source * scale[:, None, None] + offset[:, None, None]
        if (scale > 0).all() and np.abs(fitted - made).max() <= _TOLERANCE * np.ptp(made):
            return -offset / scale, 1 / scale, exchanged
    return None


def _form(
    layout: Layout, dtype: np.dtype[Any], mean: np.ndarray, std: np.ndarray, exchanged: bool
) -> InputForm:
    whole = dtype.kind in _INTEGERS
    identical = np.abs(mean).max() < _TOLERANCE and np.abs(std - 1).max() < _TOLERANCE
    if identical and not whole:
        return InputForm(layout=layout, exchanged=exchanged)
    unit = not whole and np.abs(mean).max() <= _UNIT and std.max() <= _UNIT
    divisor = float(BYTES - 1) if unit else 1.0
    color: Color = "bgr" if exchanged else "rgb"
    pixels = Normalization((0.0, 0.0, 0.0), (divisor, divisor, divisor), color)
    return InputForm("uint8" if whole else "float", layout, pixels, exchanged)


def _normalization(form: InputForm, mean: np.ndarray, std: np.ndarray) -> Normalization:
    """Of pixels from 0 to 255, without the last digits, which are those of the fit."""
    assert form.pixels
    divisor = form.pixels.std[0]
    means = [round(float(value) * divisor, _DECIMALS) for value in mean]
    stds = [float(f"{float(value) * divisor:.{_DIGITS}g}") for value in std]
    return Normalization((means[0], means[1], means[2]), (stds[0], stds[1], stds[2]))


def _before(image: str, makers: dict[str, onnx.NodeProto]) -> list[onnx.NodeProto]:
    needed, found = {image}, []
    for node in reversed(list({id(node): node for node in makers.values()}.values())):
        if needed.intersection(node.output):
            needed.update(node.input)
            found.append(node)
    return found[::-1]
