"""INT8 ONNX: static Q/DQ pairs, weights by channel, float where 8 bits cost faces.

`precision.int8.float_nodes` decides what stays float, `precision.int8.calibration` measures ranges.
The same table and options give the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.graph.interface.rows import rows_alone
from scrfdconv.converters.graph.kept_float import (
    KeptFloat,
    describe_reduced,
    require_convertible,
)
from scrfdconv.converters.graph.model_file import load_onnx
from scrfdconv.converters.precision.int8 import TRAITS, Arrangement
from scrfdconv.converters.precision.int8.arrangement import arranged
from scrfdconv.converters.precision.int8.calibration import CalibrationTable
from scrfdconv.converters.precision.int8.float_nodes import float_nodes
from scrfdconv.converters.precision.int8.quantization import quantizable, quantized
from scrfdconv.converters.precision.int8.rounding import with_corrected_biases
from scrfdconv.converters.system.machine import adds_bytes_without_saturation

if TYPE_CHECKING:
    import onnx

SENSITIVE_REASON = "sensitive: put back to float to keep the accuracy budget"


@dataclass(frozen=True)
class Int8Settings:
    """The measured table, and the choices for quantizing with it."""

    table: CalibrationTable
    target: Arrangement = "cpu"
    reduce_range: bool = False  # 7-bit weights, for x86 processors without VNNI
    keep_float: tuple[str, ...] = ()  # nodes or operators, by the user's wish
    sensitive: tuple[str, ...] = ()  # nodes that the accuracy budget put back


def int8_from_float(source: Artifact, settings: Int8Settings) -> onnx.ModelProto:
    """Quantize a float ONNX model; names, order and shapes stay.

    Of a model that ends with faces, the rows are quantized.
    """
    interface = require_convertible(source.path)
    model = float_rows(source)
    kept = kept_for(model, interface.outputs, settings)
    require_ranges(model, settings.table)
    result = quantized(
        before_rounding(model, interface.outputs, settings),
        settings.table.ranges,
        {name for entry in kept for name in entry.nodes},
        settings.target,
        reduce_range=settings.reduce_range,
    )
    describe_reduced(result, kept, _said(settings), source)
    return result


def float_rows(source: Artifact) -> onnx.ModelProto:
    """The float graph at ``source`` up to its rows, prepared for Q/DQ pairs."""
    return quantizable(rows_alone(load_onnx(source.path)))


def kept_for(
    model: onnx.ModelProto, outputs: tuple[str, ...], options: Int8Settings
) -> list[KeptFloat]:
    """What stays float in a quantizable model, each node once."""
    found = float_nodes(model, outputs, options.target, options.keep_float)
    if options.sensitive:
        found.append(KeptFloat(SENSITIVE_REASON, options.sensitive))
    return found


def before_rounding(
    model: onnx.ModelProto, outputs: tuple[str, ...], options: Int8Settings
) -> onnx.ModelProto:
    """The float model that is rounded: arranged for its target, with corrected biases.

    TensorRT and OpenVINO arrange graphs for their own kernels; they get the layers as they are.
    """
    keep = {name for entry in kept_for(model, outputs, options) for name in entry.nodes}
    if TRAITS[options.target].rearranged:
        model = arranged(model, outputs, keep)
    return with_corrected_biases(
        model, options.table.means, keep, reduce_range=options.reduce_range
    )


def require_ranges(model: onnx.ModelProto, table: CalibrationTable) -> None:
    """Raise UsageError where ``table`` was not measured on this model."""
    names = {name for node in model.graph.node for name in (*node.input, *node.output)}
    strangers = sorted(set(table.ranges) - names)
    if strangers or not table.ranges:
        raise UsageError(
            f"The calibration table is of another model: this one has no tensor "
            f"{(strangers or ['at all'])[0]}; calibrate anew with --images."
        )


def needs_reduced_range() -> bool:
    """True unless this processor is known to add products of bytes without saturation.

    7-bit weights are right on every processor, and a little less exact.
    """
    return not adds_bytes_without_saturation()


def _said(settings: Int8Settings) -> dict[str, str]:
    """What the metadata say of a quantized model."""
    table = settings.table
    return {
        "precision": "int8",
        "calibrator": table.calibrator,
        "calibration_images": str(table.images),
        "calibration_sha256": table.images_sha256,
        "target": settings.target,
        "reduce_range": str(settings.reduce_range).lower(),
    }
