"""INT8 graphs: models made fit for Q/DQ pairs, and the call of ONNX Runtime's quantizer.

Whatever lies between quantized convolutions is quantized with them (additions, pools, upsampling):
every float node in between costs a pair of conversions. `precision.int8.float_nodes` decides what
stays float all the same.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from scrfdconv.converters.errors import ArtifactError, InputFileError
from scrfdconv.converters.graph.edits import prepared
from scrfdconv.converters.graph.model_file import opset_of
from scrfdconv.converters.precision.int8 import TRAITS, Arrangement
from scrfdconv.converters.precision.int8.float_nodes import OPERATORS

if TYPE_CHECKING:
    import onnx

Ranges = Mapping[str, tuple[float, float]]

# Before 13, QuantizeLinear has no axis, so no scale for each channel of a weight.
SMALLEST_OPSET = 13
_DATA_INPUTS = {"Add": 2}  # inputs that are activations; others have one
_RESIZE_INPUTS = 4  # X, roi, scales, sizes
# TensorRT fuses what follows a convolution up to the next one's input, and takes Q/DQ pairs at
# the inputs of convolutions only: symmetric, with biases in float.
_SYMMETRIC: dict[str, Any] = {
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "AddQDQPairToWeight": True,
    "DedicatedQDQPair": True,
    "QuantizeBias": False,  # undocumented; without it biases become INT32 with a dequantizer
    "OpTypesToExcludeOutputQuantization": ["Conv"],
}


# ---------------------------------------------------------------- before


def quantizable(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy with named nodes, constants as initializers, and Q/DQ per channel in its opset.

    Raises ArtifactError where ONNX's version converter cannot raise the opset.
    """
    result = prepared(model)
    if opset_of(result) < SMALLEST_OPSET:
        result = _raised(result)
    for node in result.graph.node:
        if node.op_type == "Resize":
            # Older exports leave empty tensors here, for the roi and beside sizes for the scales.
            # ONNX Runtime refuses them from opset 13 on, TensorRT always.
            unused = (1, 2) if len(node.input) == _RESIZE_INPUTS else (1,)
            for i in unused:
                node.input[i] = ""
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


# ---------------------------------------------------------------- quantizing


def quantized(
    model: onnx.ModelProto,
    ranges: Ranges,
    keep: Collection[str],
    target: Arrangement,
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
    excluded = {*keep, *_pointless(model, keep)}
    symmetric = TRAITS[target].symmetric
    operators = ("Conv",) if symmetric else OPERATORS
    _require_ranges(typed, ranges, excluded, operators)
    limits = {name: (np.float32(low), np.float32(high)) for name, (low, high) in ranges.items()}
    quantizer = QDQQuantizer(
        typed,
        True,  # a scale for each output channel of a weight
        reduce_range,
        weight_qType=QuantType.QInt8,
        activation_qType=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        tensors_range=TensorsData(CalibrationMethod.MinMax, limits),
        nodes_to_quantize=[],
        nodes_to_exclude=sorted(excluded),
        op_types_to_quantize=list(operators),
        extra_options=_SYMMETRIC if symmetric else {},
    )
    with _quiet():
        quantizer.quantize_model()
    quantizer.model.topological_sort()  # the quantizer appends its new nodes
    result: onnx.ModelProto = quantizer.model.model
    del result.graph.output[:], result.graph.value_info[:]
    result.graph.output.extend(model.graph.output)
    result.producer_name, result.producer_version = model.producer_name, model.producer_version
    return result


def _require_ranges(
    model: onnx.ModelProto, ranges: Ranges, excluded: Collection[str], operators: Collection[str]
) -> None:
    """Raise InputFileError where a quantized node reads an activation without a range."""
    constants = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in operators and node.name not in excluded:
            read = node.input[: _DATA_INPUTS.get(node.op_type, 1)]
            lacking = [name for name in read if name not in constants and name not in ranges]
            if lacking:
                raise InputFileError(
                    f"The calibration table has no range of {lacking[0]}, which {node.name} reads: "
                    "the table was changed or is of another model; calibrate anew with --images."
                )


def _pointless(model: onnx.ModelProto, keep: Collection[str]) -> set[str]:
    """Additions, pools and the like with no quantized convolution behind: only rounding."""
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
    """Suppress the library's advice to pre-process models: every export here is pre-processed."""
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
