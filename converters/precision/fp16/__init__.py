"""FP16: weights and convolutions in half precision, what FP16 does not suit in float32."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, Literal

from scrfdconv.converters.options import Option, Options
from scrfdconv.converters.precision import Precision

if TYPE_CHECKING:
    import onnx

    from scrfdconv.converters.artifact import Artifact

Io = Literal["float32", "float16"]


@dataclass(frozen=True, kw_only=True)
class Fp16Options(Options):
    """Everything in FP16 but the image, the outputs and what FP16 does not suit."""

    io: Annotated[Io, Option(help="Type of the image and of the outputs.", in_name="io{}")] = (
        "float32"
    )
    keep_float: Annotated[
        tuple[str, ...],
        Option(help="Keep this node or operator in float32.", metavar="NODE|OP"),
    ] = ()
    all_fp16: Annotated[
        bool,
        Option(
            help="Normalisations and the first depthwise convolution in FP16, too.",
            in_name="all",
        ),
    ] = False


class Fp16(Precision):
    """Half precision."""

    name = "fp16"
    bits = 16
    summary = """Convert to FP16 with float32 inputs and outputs, and verify against SOURCE.

    What FP16 does not suit stays float32 and is listed: normalisations, the first depthwise
    convolution, and weights and activations beyond its range.
    """
    options = Fp16Options
    libraries = ("onnx", "onnxruntime", "onnxconverter-common", "numpy")

    def convert(self, source: Artifact, settings: Any) -> onnx.ModelProto:
        """The graph in FP16; names, order, shapes and opset are those of ``source``."""
        from scrfdconv.converters.graph.interface.rows import with_faces_of
        from scrfdconv.converters.graph.model_file import load_onnx
        from scrfdconv.converters.precision.fp16.conversion import fp16_from_float

        return with_faces_of(fp16_from_float(source, settings), load_onnx(source.path))
