"""INT8 graphs: what of an SCRFD is quantized, and the call of ONNX Runtime's quantizer.

What the library cannot know is decided here, measured on trained models at 640x640:

1. The convolutions of the scores stay float. Their ranges are what a poor calibration set gets
   wrong: where it has no face of a size, the scores of that stride are cut off. Eight portraits
   left 3 % of the faces, and 96 % with these convolutions in float.
2. Everything behind the last convolution of a head stays float: there, 8 bits gain nothing.
3. GroupNorm stays float: an InstanceNormalization with scale and shift in every export.
4. Whatever lies between convolutions is quantized with them (additions, pools, upsampling):
   every float node in between costs a pair of conversions.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from scrfdconv.converters.architecture import OUTPUT_KINDS
from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.float16 import float_tensors, prepared
from scrfdconv.converters.formats.onnx import opset_of
from scrfdconv.converters.precision import nodes_asked_for

if TYPE_CHECKING:
    import onnx

Target = Literal["cpu", "tensorrt"]
Ranges = Mapping[str, tuple[float, float]]

OPERATORS = ("Conv", "Relu", "Add", "MaxPool", "AveragePool", "Resize")
# Before 13, QuantizeLinear has no axis, so no scale for each channel of a weight.
SMALLEST_OPSET = 13
ASKED_FOR = "asked for (--keep-float)"
SCORE_REASON = "score convolution: a poor calibration set would cut its scores off"
BEHIND_REASON = "behind the last convolution of a head"
AFFINE_REASON = "scale or shift of a normalisation"
_RESIZE_INPUTS = 4  # X, roi, scales, sizes
# TensorRT fuses what follows a convolution up to the next one's input, and takes Q/DQ pairs at
# the inputs of convolutions only: symmetric, with biases in float.
_TENSORRT: dict[str, Any] = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "AddQDQPairToWeight": True,
    "DedicatedQDQPair": True,
    "QuantizeBias": False,  # undocumented; without it biases become INT32 with a dequantizer
    "OpTypesToExcludeOutputQuantization": ["Conv"],
}


@dataclass(frozen=True)
class Kept:
    """Nodes that stay float, and why."""

    reason: str
    nodes: tuple[str, ...]


# ---------------------------------------------------------------- before


def quantizable(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with named nodes, constants as initializers, and Q/DQ per channel in its opset.

    Raises ArtifactError where ONNX's version converter cannot raise the opset.
    """
    result = prepared(model)
    if opset_of(result) < SMALLEST_OPSET:
        result = _raised(result)
    for node in result.graph.node:
        if node.op_type == "Resize" and len(node.input) == _RESIZE_INPUTS:
            # With sizes given, older exports leave empty tensors here, which ONNX Runtime refuses
            # from opset 13 on and TensorRT always.
            node.input[1] = node.input[2] = ""
    return prepared(result)


def _raised(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx

    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    for output in bare.graph.output:  # released models declare the shapes of another size
        output.type.tensor_type.ClearField("shape")
    del bare.graph.value_info[:]
    try:
        raised = onnx.version_converter.convert_version(bare, SMALLEST_OPSET)
    except RuntimeError as error:
        first = str(error).strip().partition("\n")[0]
        raise ArtifactError(
            f"{model.graph.name}: opset {opset_of(model)} cannot be raised to {SMALLEST_OPSET}, "
            f"which INT8 needs ({first}); export the model anew from its checkpoint."
        ) from error
    del raised.graph.output[:], raised.metadata_props[:]
    raised.graph.output.extend(model.graph.output)
    raised.metadata_props.extend(model.metadata_props)
    return prepared(raised)


# ---------------------------------------------------------------- what stays float


def kept_nodes(
    model: onnx.ModelProto, outputs: Sequence[str], keep_float: Sequence[str] = ()
) -> list[Kept]:
    """What stays float in a quantizable model; ``outputs`` are its canonical names, in order.

    Raises UsageError for a name in ``keep_float`` that is neither node nor operator.
    """
    heads = _Heads(model)
    scores = {
        name
        for canonical, value in zip(outputs, model.graph.output, strict=True)
        if canonical.startswith(OUTPUT_KINDS[0])
        for name in heads.convolutions[value.name]
    }
    found = [
        Kept(ASKED_FOR, tuple(nodes_asked_for(model, keep_float))),
        Kept(SCORE_REASON, tuple(sorted(scores))),
        Kept(BEHIND_REASON, tuple(sorted(heads.behind))),
        Kept(AFFINE_REASON, tuple(_affine(model))),
    ]
    return [kept for kept in found if kept.nodes]


class _Heads:
    """The last convolutions before each output, and the nodes between them and the output."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self._makers = {name: node for node in model.graph.node for name in node.output}
        self._floats = float_tensors(model)
        self.behind: set[str] = set()
        self.convolutions = {v.name: set(self._before(v.name)) for v in model.graph.output}

    def _before(self, name: str) -> Iterator[str]:
        node = self._makers.get(name)
        if node is None:
            return
        if node.op_type == "Conv":
            yield node.name
            return
        self.behind.add(node.name)
        for source in node.input:
            if source in self._floats:
                yield from self._before(source)


def _affine(model: onnx.ModelProto) -> Iterator[str]:
    """Additions of a constant; those between two activations are residuals and upsampling."""
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Add" and any(name in constants for name in node.input):
            yield node.name


# ---------------------------------------------------------------- quantizing


def measured_tensors(model: onnx.ModelProto) -> list[str]:
    """The activations (N, C, H, W) whose ranges quantization may need, the image first."""
    from scrfdconv.converters.formats.onnx import image_input

    image = image_input(model).name
    return [image, *(n.output[0] for n in model.graph.node if n.op_type in OPERATORS)]


def quantized(
    model: onnx.ModelProto,
    ranges: Ranges,
    keep: Collection[str],
    target: Target,
    *,
    reduce_range: bool = False,
) -> onnx.ModelProto:
    """``model`` (quantizable) with Q/DQ pairs around everything but the nodes in ``keep``.

    Names, order and declared shapes of inputs and outputs stay, and so does the metadata.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantType
    from onnxruntime.quantization.calibrate import TensorsData
    from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

    typed = _typed(model)
    limits = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    quantizer = QDQQuantizer(
        typed,
        True,  # a scale for each output channel of a weight
        reduce_range,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if target == "tensorrt" else QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
        nodes_to_quantize=[],
        nodes_to_exclude=sorted({*keep, *_pointless(model, keep)}),
        op_types_to_quantize=["Conv"] if target == "tensorrt" else list(OPERATORS),
        extra_options=_TENSORRT if target == "tensorrt" else {},
    )
    with _quiet():
        quantizer.quantize_model()
    quantizer.model.topological_sort()  # its new nodes come last
    result: onnx.ModelProto = quantizer.model.model
    del result.graph.output[:], result.graph.value_info[:]
    result.graph.output.extend(model.graph.output)
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    return result


def _pointless(model: onnx.ModelProto, keep: Collection[str]) -> set[str]:
    """Additions, pools and the like behind which no convolution is quantized: only rounding."""
    read: set[str] = set()  # by something that is quantized
    found = set()
    for node in reversed(model.graph.node):
        if node.op_type not in OPERATORS or node.name in keep:
            continue
        if node.op_type == "Conv" or read.intersection(node.output):
            read.update(node.input)
        else:
            found.add(node.name)
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the library's advice to pre-process models, which every export here is already."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def _typed(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which the type of every activation is known: the quantizer skips the others."""
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(model)
    del result.graph.value_info[:]
    for output in result.graph.output:
        output.type.tensor_type.ClearField("shape")
    return onnx.shape_inference.infer_shapes(result)
