"""INT8 ONNX: static Q/DQ pairs, weights by channel, float where 8 bits cost faces.

What stays float is `precision.int8.quantization`'s matter, ranges are
`precision.int8.calibration`'s. The same table and options give the same bytes.
"""

from __future__ import annotations

import json
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats import Format, Source
from scrfdconv.converters.formats.onnx_fp16 import KEPT, require_convertible
from scrfdconv.converters.graph.model_file import load_onnx, serialised
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.metadata import PREFIX
from scrfdconv.converters.precision.int8.arrangement import arranged
from scrfdconv.converters.precision.int8.calibration import Table
from scrfdconv.converters.precision.int8.float_nodes import Kept, Target, kept_nodes
from scrfdconv.converters.precision.int8.quantization import quantizable, quantized
from scrfdconv.converters.precision.int8.rounding import with_corrected_biases
from scrfdconv.converters.runner import Runner

if TYPE_CHECKING:
    import onnx

SENSITIVE_REASON = "sensitive: put back to float to keep the accuracy budget"
# They multiply unsigned by signed bytes and add without saturation; older x86 processors saturate
# at 16 bits on the way, so that weights must do with 7 bits there.
_VNNI = ("avx512_vnni", "avx_vnni", "avx512vnni", "avxvnni")
_CPUINFO = Path("/proc/cpuinfo")
_X86 = ("x86_64", "AMD64", "i686", "x86")


@dataclass(frozen=True)
class Int8Options:
    """What was measured, and what is quantized with it."""

    table: Table
    target: Target = "cpu"
    reduce_range: bool = False  # 7-bit weights, for x86 processors without VNNI
    keep_float: tuple[str, ...] = ()  # nodes or operators, by the user's wish
    sensitive: tuple[str, ...] = ()  # nodes that the accuracy budget put back


class OnnxInt8(Format):
    """Quantized ONNX in Q/DQ form."""

    name = "onnx_int8"
    suffix = ".onnx"
    sources = ("onnx",)
    options = Int8Options

    def precision(self, options: Int8Options) -> str:
        """INT8, whatever stays float inside."""
        return "int8"

    def build(self, source: Source, options: Int8Options) -> bytes:
        """Quantize a float ONNX model; names, order and shapes are its own."""
        assert isinstance(source, Artifact)
        interface = require_convertible(source.path)
        model = quantizable(load_onnx(source.path))
        kept = kept_for(model, interface.outputs, options)
        require_ranges(model, options.table)
        nodes = {name for entry in kept for name in entry.nodes}
        result = quantized(
            before_rounding(model, interface.outputs, options),
            options.table.ranges,
            nodes,
            options.target,
            reduce_range=options.reduce_range,
        )
        _describe(result, kept, options, source.digest)
        return serialised(result)

    def open(self, path: Path, threads: int | None = None) -> Runner:
        """Open with ONNX Runtime on the CPU."""
        return OnnxRunner(path, threads)


def kept_for(model: onnx.ModelProto, outputs: tuple[str, ...], options: Int8Options) -> list[Kept]:
    """What stays float in a quantizable model, each node once."""
    found = kept_nodes(model, outputs, options.target, options.keep_float)
    if options.sensitive:
        found.append(Kept(SENSITIVE_REASON, options.sensitive))
    return found


def before_rounding(
    model: onnx.ModelProto, outputs: tuple[str, ...], options: Int8Options
) -> onnx.ModelProto:
    """The float model that is rounded: arranged for its target, with corrected biases.

    TensorRT arranges graphs for its own kernels; it gets the layers as they are.
    """
    keep = {name for entry in kept_for(model, outputs, options) for name in entry.nodes}
    if options.target == "cpu":
        model = arranged(model, outputs, keep)
    return with_corrected_biases(
        model, options.table.means, keep, reduce_range=options.reduce_range
    )


def require_ranges(model: onnx.ModelProto, table: Table) -> None:
    """Raise UsageError where ``table`` was not measured on this model."""
    names = {name for node in model.graph.node for name in (*node.input, *node.output)}
    strangers = sorted(set(table.ranges) - names)
    if strangers or not table.ranges:
        raise UsageError(
            f"The calibration table is of another model: this one has no tensor "
            f"{(strangers or ['at all'])[0]}; calibrate anew with --images."
        )


def needs_reduced_range(cpuinfo: Path = _CPUINFO) -> bool:
    """True on x86 processors that cannot add 8-bit products without saturation (no VNNI)."""
    if platform.machine() not in _X86:
        return False
    if not cpuinfo.is_file():
        return False  # not Linux: every processor of the last years has VNNI
    return not any(flag in cpuinfo.read_text("utf-8", "replace") for flag in _VNNI)


def _describe(model: onnx.ModelProto, kept: list[Kept], options: Int8Options, parent: str) -> None:
    import onnx

    by_reason: dict[str, list[str]] = {}
    for entry in kept:
        by_reason.setdefault(entry.reason, []).extend(entry.nodes)
    table = options.table
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    own = {
        "precision": "int8",
        "calibrator": table.calibrator,
        "calibration_images": str(table.images),
        "calibration_sha256": table.images_sha256,
        "target": options.target,
        "reduce_range": str(options.reduce_range).lower(),
        KEPT: json.dumps(by_reason),
        "parent_sha256": parent,
    }
    metadata |= {PREFIX + key: value for key, value in own.items()}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(sorted(metadata.items())))
