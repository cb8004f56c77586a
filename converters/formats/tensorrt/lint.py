"""Will TensorRT take this ONNX? Rules that need no GPU, each with its source.

Fatal findings fail a build before it starts; the others are remarks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from scrfdconv.converters.formats import Finding, Lint

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

CHECK = "lint"
RULES = ("opset", "operators", "types", "resize", "quantization", "names", "axes")

# NVIDIA's ONNX Opset Guide: TensorRT 11 takes opsets 9 to 25. No such page was found for 10.3; 20
# is the newest that our exporters write.
OPSETS = range(9, 21)
RESIZE_WITHOUT_SCALES = 13  # from this opset on, `scales` may be left out instead of empty

# Operators of detectors that onnx-tensorrt's table (docs/operators.md) marks as supported. What is
# missing here may work; what the table marks as unsupported is in UNSUPPORTED.
SUPPORTED = frozenset(
    (
        "Add",
        "AveragePool",
        "BatchNormalization",
        "Cast",
        "Clip",
        "Concat",
        "Constant",
        "ConstantOfShape",
        "Conv",
        "ConvTranspose",
        "DequantizeLinear",
        "Div",
        "Exp",
        "Expand",
        "Flatten",
        "Gather",
        "Gemm",
        "GlobalAveragePool",
        "GroupNormalization",
        "Identity",
        "InstanceNormalization",
        "LeakyRelu",
        "MatMul",
        "Max",
        "MaxPool",
        "Min",
        "Mul",
        "Neg",
        "PRelu",
        "Pad",
        "Pow",
        "QuantizeLinear",
        "ReduceMean",
        "Relu",
        "Reshape",
        "Resize",
        "Shape",
        "Sigmoid",
        "Slice",
        "Softmax",
        "Split",
        "Sqrt",
        "Squeeze",
        "Sub",
        "Transpose",
        "Unsqueeze",
        "Where",
    )
)
UNSUPPORTED = frozenset(
    (
        "BitShift",
        "Compress",
        "ConcatFromSequence",
        "ConvInteger",
        "Det",
        "DynamicQuantizeLinear",
        "MatMulInteger",
        "MaxRoiPool",
        "MaxUnpool",
        "Multinomial",
        "QLinearConv",
        "QLinearMatMul",
        "SequenceAt",
        "SplitToSequence",
        "StringNormalizer",
        "TfIdfVectorizer",
        "Unique",
    )
)


@dataclass(frozen=True)
class LintFinding:
    """One thing that TensorRT will refuse (fatal) or a user should know."""

    rule: str
    where: str
    text: str
    fatal: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.text}" if self.where else self.text


def lint(model: onnx.ModelProto) -> list[LintFinding]:
    """All findings, by rule."""
    checks = (_opset, _operators, _types, _resizes, _quantization, _names, _axes)
    return [finding for check in checks for finding in check(model)]


def lint_of(path: Path) -> Lint:
    """The findings of an ONNX file: the number of faults for each rule, and remarks."""
    from scrfdconv.converters.graph.model_file import load_onnx

    found = lint(load_onnx(path))
    return Lint(
        findings=tuple(by_rule(found)),
        remarks=tuple(str(finding) for finding in found if not finding.fatal),
    )


def by_rule(found: list[LintFinding]) -> Iterator[Finding]:
    """Yield the number of faults against each rule; none are allowed."""
    for rule in RULES:
        mine = [finding for finding in found if finding.rule == rule]
        fatal = [finding for finding in mine if finding.fatal]
        yield Finding(
            check=CHECK,
            subject=rule,
            metric="faults",
            measured=len(fatal),
            limit=0,
            detail="; ".join(map(str, fatal or mine)),
        )


def _opset(model: onnx.ModelProto) -> Iterator[LintFinding]:
    from scrfdconv.converters.graph.model_file import opset_of

    opset = opset_of(model)
    if opset not in OPSETS:
        yield LintFinding(
            "opset",
            "",
            f"opset {opset}; TensorRT 10.3 to 11 take {OPSETS.start} to "
            f"{OPSETS.stop - 1}: export with --opset 17",
        )
    strangers = sorted({o.domain for o in model.opset_import} - {"", "ai.onnx"})
    used = {node.domain for node in model.graph.node}
    for domain in strangers:
        if domain in used:
            yield LintFinding(
                "opset", "", f"operators of {domain} are ONNX Runtime's own: export anew"
            )


def _operators(model: onnx.ModelProto) -> Iterator[LintFinding]:
    counts = Counter(node.op_type for node in model.graph.node if node.domain in ("", "ai.onnx"))
    for name in sorted(counts.keys() - SUPPORTED):
        fatal = name in UNSUPPORTED
        text = (
            "TensorRT does not support this operator"
            if fatal
            else "not in the table of checked operators"
        )
        yield LintFinding("operators", f"{counts[name]} {name}", text, fatal)


def _types(model: onnx.ModelProto) -> Iterator[LintFinding]:
    from onnx import TensorProto

    kinds = TensorProto.DataType
    for value in (*model.graph.input, *model.graph.output):
        kind = value.type.tensor_type.elem_type
        if kind not in (TensorProto.FLOAT, TensorProto.FLOAT16):
            yield LintFinding(
                "types", value.name, f"is {kinds.Name(kind)}; images and outputs are float"
            )
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.DOUBLE:
            # A strongly typed network has no double, and no place where it would be cast.
            yield LintFinding("types", tensor.name, "is double; make it float")


def _resizes(model: onnx.ModelProto) -> Iterator[LintFinding]:
    """Sizes of a Resize must come from constants or shapes; an empty `scales` is a risk.

    NVIDIA/TensorRT#4476: opset 11 requires `scales` even beside `sizes`, exporters write an empty
    tensor, and TensorRT 10.11 is said to use this tensor as the scales. From opset 13 on, `scales`
    can be left out. A remark, because all released models have an empty `scales`, and many run with
    TensorRT.
    """
    from scrfdconv.converters.graph.model_file import opset_of

    constants = _constants(model)
    shaped = _computed_from_shapes(model, set(constants))
    for node in (n for n in model.graph.node if n.op_type == "Resize"):
        where = node.name or node.output[0]
        inputs = [*node.input, "", "", ""]
        scales, sizes = inputs[2], inputs[3]
        empty = scales in constants and constants[scales].size == 0
        if empty and opset_of(model) < RESIZE_WITHOUT_SCALES:
            yield LintFinding(
                "resize",
                where,
                "has empty scales, as opset 11 wants them, which TensorRT 10.11 "
                "is said to misread: if it refuses them, export with --opset 13 or later",
                fatal=False,
            )
        target = sizes or ("" if empty else scales)
        if not target:
            yield LintFinding("resize", where, "has neither scales nor sizes")
        elif target not in constants and target not in shaped:
            yield LintFinding(
                "resize",
                where,
                f"{target} is computed from values, not from shapes: simplify "
                "with `scrfdconv simplify`, or export anew",
            )


def _quantization(model: onnx.ModelProto) -> Iterator[LintFinding]:
    """Symmetric int8 alone, biases in float: TensorRT has no other kind."""
    constants = _constants(model)
    makers = {output: node for node in model.graph.node for output in node.output}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        where = node.name or node.output[0]
        scale = constants.get(node.input[1])
        if scale is None or not (np.isfinite(scale).all() and (scale > 0).all()):
            yield LintFinding("quantization", where, "its scale is no positive constant")
        yield from _zero_point_faults(node, constants, where)
        if node.op_type == "DequantizeLinear":
            source = constants.get(node.input[0])
            if source is not None and source.dtype != np.int8:
                what = "an INT32 bias" if source.dtype == np.int32 else f"{source.dtype}"
                yield LintFinding(
                    "quantization",
                    where,
                    f"dequantizes {what}; keep biases in float "
                    "(`scrfdconv int8 --target tensorrt`)",
                )
            elif source is None and makers.get(node.input[0], node).op_type != "QuantizeLinear":
                yield LintFinding(
                    "quantization", where, "reads a value that no QuantizeLinear wrote"
                )


def _zero_point_faults(
    node: onnx.NodeProto, constants: dict[str, np.ndarray], where: str
) -> Iterator[LintFinding]:
    name = node.input[2] if len(node.input) > 2 else ""  # noqa: PLR2004 - x, scale, zero point
    if not name:
        if node.op_type == "QuantizeLinear":
            yield LintFinding(
                "quantization", where, "without a zero point it makes uint8; use int8"
            )
        return
    zero = constants.get(name)
    if zero is None or zero.any():
        yield LintFinding("quantization", where, "its zero point is not 0: quantize symmetrically")
    elif zero.dtype not in (np.int8, np.int32):
        yield LintFinding("quantization", where, f"works in {zero.dtype}; TensorRT has int8")


def _names(model: onnx.ModelProto) -> Iterator[LintFinding]:
    names = [output for node in model.graph.node for output in node.output if output]
    for name, count in Counter(names).items():
        if count > 1:
            yield LintFinding("names", name, f"is written by {count} nodes")
    unnamed = sum(not node.name for node in model.graph.node)
    if unnamed:
        yield LintFinding("names", f"{unnamed} nodes", "have no name to be found by", fatal=False)
    numbers = [value.name for value in model.graph.output if value.name.isdigit()]
    if numbers:
        text = "numbers for names: engines have no order of outputs; address them by these names"
        yield LintFinding("names", ", ".join(numbers), text, fatal=False)


def _axes(model: onnx.ModelProto) -> Iterator[LintFinding]:
    """One name per size: runtimes take equal names for equal sizes (microsoft/onnxruntime#2756)."""
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        free = [dim.dim_param for dim in dims if not dim.dim_value]
        named = [name for name in free if name and name != "?"]
        if len(named) != len(set(named)):
            yield LintFinding("axes", value.name, f"axes share a name: {', '.join(free)}")
        elif len(named) != len(free):
            yield LintFinding("axes", value.name, "free axes without names", fatal=False)
    by_name: dict[str, set[str]] = {}
    for value in model.graph.output:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param.startswith("anchors_"):
                by_name.setdefault(dim.dim_param, set()).add(value.name.rpartition("_")[2])
    for name, strides in by_name.items():
        if len(strides) > 1:
            yield LintFinding("axes", name, f"names the anchors of strides {', '.join(strides)}")


def _constants(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    from onnx import numpy_helper

    found = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            found[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
    return found


def _computed_from_shapes(model: onnx.ModelProto, known: set[str]) -> set[str]:
    """Values that depend on shapes and constants only; nodes come in topological order."""
    found: set[str] = set()
    for node in model.graph.node:
        sources: list[Any] = [name for name in node.input if name]
        if node.op_type == "Shape" or (
            sources and all(name in found or name in known for name in sources)
        ):
            found.update(node.output)
    return found
