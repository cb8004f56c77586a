"""Faults as they go wrong in practice, planted into an ONNX model of any precision.

`plant` returns a changed copy. A fault is a name and an edit; `FAULTS` is the table of those that
every verification must catch, `weights_noisy` and the other makers give more. Faults of outputs
sit between the model's own last nodes and its outputs, in the type of the outputs, so that they
need to know nothing of what is inside.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

STRIDES = (8, 16, 32)
KINDS = ("score", "bbox", "kps")
WIDTHS = {"bbox": 4, "kps": 10}
FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)
X_AND_Y = tuple((x, x + 1) for x in range(0, 10, 2))  # columns of the five points
HIDDEN = ".before_the_fault"


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong, and where: ``touches`` are the outputs that show it."""

    name: str
    edit: Callable[[onnx.ModelProto], None]  # changes the model in place
    touches: tuple[str, ...] = ()  # score_8 ...; none: every output

    def __str__(self) -> str:
        """The name, for pytest."""
        return self.name


def plant(model: onnx.ModelProto, fault: Fault) -> onnx.ModelProto:
    """A copy of ``model`` with ``fault`` in it; AssertionError where the fault changes nothing."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    fault.edit(copy)
    assert copy.SerializeToString() != model.SerializeToString(), f"{fault}: planted nothing"
    return copy


def caught(reference, path) -> bool:
    """True if the file at ``path`` is refused, or is not ``reference`` by verification."""
    from scrfdconv.checks.verification import verify
    from scrfdconv.converters.errors import InputFileError

    try:
        return not verify(reference, path).passed
    except InputFileError:
        return True


def fits(fault: Fault, model: onnx.ModelProto) -> bool:
    """True if ``model`` has the outputs that ``fault`` touches: some models have no keypoints."""
    return set(fault.touches) <= set(output_names(model))


def output_names(model: onnx.ModelProto) -> list[str]:
    """``score_8 ...`` for every output, by its own name or by its position."""
    own = [value.name for value in model.graph.output]
    if all(re.fullmatch(r"(score|bbox|kps)_\d+", name) for name in own):
        return own
    return [f"{kind}_{stride}" for kind in KINDS for stride in STRIDES][: len(own)]


# ---------------------------------------------------------------- behind the outputs


class Behind:
    """Nodes between the model's last node and the output that is called ``canonical``."""

    def __init__(self, model: onnx.ModelProto, canonical: str) -> None:
        place = output_names(model).index(canonical)
        value = model.graph.output[place]
        self.name, self.kind = value.name, value.type.tensor_type.elem_type
        self.source = value.name + HIDDEN
        self._graph, self._count = model.graph, 0
        while any(self.source in node.output for node in model.graph.node):
            self.source += HIDDEN  # a second fault, behind the first one
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [self.source if name == self.name else name for name in names]
        # a model that declares too much of a shape would refuse nothing, and warn of everything
        value.type.tensor_type.ClearField("shape")

    def constant(self, values: object, kind: int | None = None) -> str:
        """An initializer in the output's own type, or in another one."""
        dtype = helper.tensor_dtype_to_np_dtype(kind or self.kind)
        name = self._free()
        self._graph.initializer.append(numpy_helper.from_array(np.array(values, dtype), name))
        return name

    def node(self, operator: str, *inputs: str, **attributes: object) -> str:
        """The name of what a new node gives."""
        name = self._free()
        self._graph.node.append(helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def end(self, last: str) -> None:
        """``last`` is the output from now on."""
        self._graph.node.append(helper.make_node("Identity", [last], [self.name]))

    def _free(self) -> str:
        self._count += 1
        return f"{self.source}.{self._count}"


def linear(canonical: str, matrix: object, offset: object = 0.0) -> Callable:
    """Rows of the output times ``matrix`` (width, width), plus ``offset`` (width) or a number."""

    def edit(model: onnx.ModelProto) -> None:
        at = Behind(model, canonical)
        turned = at.node("MatMul", at.source, at.constant(matrix))
        at.end(at.node("Add", turned, at.constant(offset)))

    return edit


def scaled(canonical: str, factors: object) -> Callable:
    """Each column times its factor, or all of them times one."""

    def edit(model: onnx.ModelProto) -> None:
        at = Behind(model, canonical)
        at.end(at.node("Mul", at.source, at.constant(factors)))

    return edit


def shifted(canonical: str, offsets: object) -> Callable:
    """Each column plus its offset, or all of them plus one."""

    def edit(model: onnx.ModelProto) -> None:
        at = Behind(model, canonical)
        at.end(at.node("Add", at.source, at.constant(offsets)))

    return edit


def powered(canonical: str, exponent: float) -> Callable:
    """Scores to a power: they keep their order and move all the same."""

    def edit(model: onnx.ModelProto) -> None:
        at = Behind(model, canonical)
        at.end(at.node("Pow", at.source, at.constant(exponent)))

    return edit


def biased(canonical: str, logits: float) -> Callable:
    """Scores with ``logits`` added before the sigmoid: s e^b / (1 - s + s e^b)."""

    def edit(model: onnx.ModelProto) -> None:
        at = Behind(model, canonical)
        odds = at.node("Mul", at.source, at.constant(np.exp(logits)))
        rest = at.node("Sub", at.constant(1.0), at.source)
        at.end(at.node("Div", odds, at.node("Add", rest, odds)))

    return edit


def cut_off(canonical: str, highest: float) -> Callable:
    """Values above ``highest`` come as ``highest``, as a range that was calibrated too small."""

    def edit(model: onnx.ModelProto) -> None:
        at = Behind(model, canonical)
        at.end(at.node("Min", at.source, at.constant(highest)))

    return edit


def anchors_exchanged(canonical: str) -> Callable:
    """The two anchors of every cell in the other order."""

    def edit(model: onnx.ModelProto) -> None:
        at = Behind(model, canonical)
        width = WIDTHS.get(canonical.partition("_")[0], 1)
        cells = at.node("Reshape", at.source, at.constant([-1, 2, width], TensorProto.INT64))
        turned = at.node("Gather", cells, at.constant([1, 0], TensorProto.INT64), axis=1)
        at.end(at.node("Reshape", turned, at.node("Shape", at.source)))

    return edit


def rows_moved(canonical: str) -> Callable:
    """Every row in the place of the one before it: the grid is off by one anchor."""

    def edit(model: onnx.ModelProto) -> None:
        at = Behind(model, canonical)
        width = WIDTHS.get(canonical.partition("_")[0], 1)
        rows = at.node("Reshape", at.source, at.constant([-1, width], TensorProto.INT64))
        numbers = [at.constant([v], TensorProto.INT64) for v in (1, 2**31 - 1, 0, 1)]
        rest = at.node("Slice", rows, numbers[0], numbers[1], numbers[2])
        first = at.node("Slice", rows, numbers[2], numbers[3], numbers[2])
        at.end(
            at.node("Reshape", at.node("Concat", rest, first, axis=0), at.node("Shape", at.source))
        )

    return edit


# ---------------------------------------------------------------- before the first layer


def input_channels(order: list[int]) -> Callable:
    """The picture's channels in another order: BGR for RGB."""

    def edit(model: onnx.ModelProto) -> None:
        image = _image(model)
        index = numpy_helper.from_array(np.array(order, np.int64), "fault.channels")
        model.graph.initializer.append(index)
        turned = helper.make_node("Gather", [image.name, index.name], ["fault.image"], axis=1)
        _read_instead(model, image.name, turned)

    return edit


def input_scaled(factor: float) -> Callable:
    """Another normalisation: the picture times ``factor``."""

    def edit(model: onnx.ModelProto) -> None:
        image = _image(model)
        dtype = helper.tensor_dtype_to_np_dtype(image.type.tensor_type.elem_type)
        value = numpy_helper.from_array(np.array(factor, dtype), "fault.factor")
        model.graph.initializer.append(value)
        _read_instead(
            model, image.name, helper.make_node("Mul", [image.name, value.name], ["fault.image"])
        )

    return edit


def _image(model: onnx.ModelProto) -> onnx.ValueInfoProto:
    constants = {tensor.name for tensor in model.graph.initializer}
    return next(value for value in model.graph.input if value.name not in constants)


def _read_instead(model: onnx.ModelProto, name: str, maker: onnx.NodeProto) -> None:
    """Let every node read what ``maker`` gives in place of ``name``."""
    for node in model.graph.node:
        node.input[:] = [maker.output[0] if source == name else source for source in node.input]
    model.graph.node.insert(0, maker)


# ---------------------------------------------------------------- in the weights, in the words


def weights_noisy(share: float, seed: int = 0, only: Callable[[int], bool] = bool) -> Fault:
    """Every weight of every convolution times 1 + noise of that deviation.

    INT8 weights are rounded again, which leaves the small ones as they are.
    """

    def edit(model: onnx.ModelProto) -> None:
        draw = np.random.default_rng(seed)
        for tensor in _weights(model):
            values = numpy_helper.to_array(tensor)
            noisy = values * (1 + share * draw.standard_normal(values.shape))
            if values.dtype == np.int8:
                noisy = np.clip(np.round(noisy), -128, 127)
            tensor.CopyFrom(numpy_helper.from_array(noisy.astype(values.dtype), tensor.name))

    return Fault(f"{share:.1%} noise on every weight", edit)


def weight_tensors(model: onnx.ModelProto) -> list[str]:
    """Names of the initializers that are weights of convolutions, also behind a Dequantize."""
    return [tensor.name for tensor in _weights(model)]


def _weights(model: onnx.ModelProto) -> list[onnx.TensorProto]:
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    found = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "ConvInteger", "QLinearConv"):
            continue
        name = node.input[3 if node.op_type == "QLinearConv" else 1]
        while name not in tensors and name in makers:
            name = makers[name].input[0]
        found.append(tensors[name])
    return found


def one_weight_changed(place: int, factor: float) -> Fault:
    """The middle weight by size of one convolution times ``factor``; float models only."""

    def edit(model: onnx.ModelProto) -> None:
        tensor = _weights(model)[place]
        values = numpy_helper.to_array(tensor).copy()
        flat = values.reshape(-1)
        flat[np.argsort(np.abs(flat))[flat.size // 2]] *= values.dtype.type(factor)
        tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))

    return Fault(f"one weight of convolution {place} times {factor:g}", edit)


def dead_dequantize() -> Fault:
    """A DequantizeLinear that nothing reads: it makes no INT8 model of a float one."""

    def edit(model: onnx.ModelProto) -> None:
        for name, value in (("q", np.array([1], np.int8)), ("s", np.array(0.1, np.float32))):
            model.graph.initializer.append(numpy_helper.from_array(value, f"dead.{name}"))
        model.graph.node.append(
            helper.make_node("DequantizeLinear", ["dead.q", "dead.s"], ["dead.value"], "dead")
        )

    return Fault("a dead DequantizeLinear", edit)


def dead_cast() -> Fault:
    """A Cast to FP16 that nothing reads: it makes no FP16 model of a float one."""

    def edit(model: onnx.ModelProto) -> None:
        image = _image(model).name
        model.graph.node.append(
            helper.make_node("Cast", [image], ["dead.half"], "dead", to=TensorProto.FLOAT16)
        )

    return Fault("a dead Cast to FP16", edit)


def claimed(precision: str) -> Fault:
    """A metadata line that says another precision."""

    def edit(model: onnx.ModelProto) -> None:
        metadata = {p.key: p.value for p in model.metadata_props}
        del model.metadata_props[:]
        helper.set_model_props(model, {**metadata, "scrfdconv.precision": precision})

    return Fault(f"metadata that say {precision}", edit)


def together(name: str, *faults: Fault) -> Fault:
    """Several faults as one."""

    def edit(model: onnx.ModelProto) -> None:
        for fault in faults:
            fault.edit(model)

    return Fault(name, edit, tuple(sorted({t for fault in faults for t in fault.touches})))


# ---------------------------------------------------------------- the table


def _columns(width: int, places: tuple[int, ...], value: float, rest: float) -> list[float]:
    return [value if column in places else rest for column in range(width)]


def _exchanged(width: int, *pairs: tuple[int, int]) -> np.ndarray:
    matrix = np.eye(width)
    for a, b in pairs:
        matrix[[a, b]] = matrix[[b, a]]
    return matrix


def at_stride(stride: int) -> list[Fault]:
    """The faults of outputs that one stride can have alone."""
    score, bbox, kps = (f"{kind}_{stride}" for kind in KINDS)
    rows = [
        ("scores to the power 1.3", score, powered(score, 1.3)),
        ("scores cut by 30 %", score, scaled(score, 0.7)),
        ("score bias -0.5", score, biased(score, -0.5)),
        ("score bias +0.5", score, biased(score, 0.5)),
        ("scores cut off at 0.4", score, cut_off(score, 0.4)),
        ("anchors of the scores exchanged", score, anchors_exchanged(score)),
        ("scores one anchor off", score, rows_moved(score)),
        ("boxes 10 % too large", bbox, scaled(bbox, 1.1)),
        ("boxes 10 % too small", bbox, scaled(bbox, 0.9)),
        ("left sides 10 % too far", bbox, scaled(bbox, _columns(4, (0,), 1.1, 1.0))),
        ("boxes half a stride to the right", bbox, shifted(bbox, [-0.5, 0, 0.5, 0])),
        ("left and right exchanged", bbox, linear(bbox, _exchanged(4, (0, 2)))),
        ("width and height exchanged", bbox, linear(bbox, _exchanged(4, (0, 1), (2, 3)))),
        ("anchors of the boxes exchanged", bbox, anchors_exchanged(bbox)),
        ("keypoints 10 % too far", kps, scaled(kps, 1.1)),
        ("one keypoint 10 % too far", kps, scaled(kps, _columns(10, (4, 5), 1.1, 1.0))),
        ("keypoints half a stride too low", kps, shifted(kps, [0, 0.5] * 5)),
        ("eyes exchanged", kps, linear(kps, _exchanged(10, (0, 2), (1, 3)))),
        ("mouth corners exchanged", kps, linear(kps, _exchanged(10, (6, 8), (7, 9)))),
        ("x and y exchanged", kps, linear(kps, _exchanged(10, *X_AND_Y))),
    ]
    return [Fault(f"{what} at stride {stride}", edit, (name,)) for what, name, edit in rows]


def _everywhere(what: str) -> Fault:
    parts = [f for stride in STRIDES for f in at_stride(stride) if f.name.startswith(f"{what} at")]
    return together(what, *parts)


# What one stride alone can have, and the same in all of them.
OF_ONE_STRIDE = tuple(fault for stride in STRIDES for fault in at_stride(stride))
OF_ALL_STRIDES = tuple(
    _everywhere(fault.name.removesuffix(f" at stride {STRIDES[0]}")) for fault in at_stride(8)
)
OF_THE_INPUT = (
    Fault("BGR for RGB", input_channels([2, 1, 0])),
    Fault("pictures 10 % too bright", input_scaled(1.1)),
    Fault("pictures of -127.5 to 127.5", input_scaled(128.0)),
)
# A cut-off does nothing where no score is that high: untrained models have none.
OF_ANY_MODEL = tuple(
    fault for fault in (*OF_ALL_STRIDES, *OF_THE_INPUT) if "cut off" not in fault.name
)
FAULTS = (*OF_ONE_STRIDE, *OF_ALL_STRIDES, *OF_THE_INPUT)
