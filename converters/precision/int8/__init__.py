"""INT8: static Q/DQ pairs, weights by channel, float where 8 bits cost faces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from scrfdconv.converters.options import Option, Options
from scrfdconv.converters.precision import Precision

if TYPE_CHECKING:
    import onnx

    from scrfdconv.converters.artifact import Artifact

Arrangement = Literal["cpu", "openvino", "tensorrt"]


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What an arrangement of the Q/DQ graph is, for the kernels that run the graph."""

    rearranged: bool  # the float graph is rewritten first, for the kernels of ONNX Runtime
    symmetric: bool  # activations signed and without zero points, biases in float, Conv alone
    lean_start: bool  # a single cheap first convolution stays float: its input is large


TRAITS: dict[Arrangement, Traits] = {
    "cpu": Traits(rearranged=True, symmetric=False, lean_start=True),
    "openvino": Traits(rearranged=False, symmetric=False, lean_start=False),
    "tensorrt": Traits(rearranged=False, symmetric=True, lean_start=True),
}
Calibrator = Literal["minmax", "entropy", "percentile", "auto"]

DEFAULT_FACE_LOSS = 0.01
DEFAULT_ROUNDS = 16  # each puts one layer back to float and takes 1 to 3 s


@dataclass(frozen=True, kw_only=True)
class Int8Options(Options):
    """How to calibrate, what may be lost, and what stays float."""

    calibration_size: Annotated[
        tuple[int, int] | None,
        Option(
            help="Size of the pictures for a dynamic model.",
            metavar="H W",
            shown_default="640 640",
        ),
    ] = None
    # Extremes (minmax) are as good as the two rules that narrow them, and take one pass less.
    calibrator: Annotated[
        Calibrator, Option(help="How ranges are chosen; auto tries all and keeps the best.")
    ] = "minmax"
    target: Annotated[
        Arrangement | None,
        Option(
            help="cpu, openvino: unsigned activations, arranged for ONNX Runtime or left to "
            "OpenVINO; tensorrt: symmetric, biases in float.",
            shown_default="what the format runs fastest",
            in_name="{}",
        ),
    ] = None
    max_face_loss: Annotated[
        float,
        Option(
            help="Share of the reference's faces that may be lost, and as many that may be new.",
            least=0.0,
            most=1.0,
            in_recipes=False,  # among the budgets there
        ),
    ] = DEFAULT_FACE_LOSS
    max_rounds: Annotated[
        int, Option(help="Layers put back to float to keep the budget.", least=0)
    ] = DEFAULT_ROUNDS
    keep_float: Annotated[
        tuple[str, ...], Option(help="Do not quantize this.", metavar="NODE|OP")
    ] = ()
    plan: Annotated[
        Path | None,
        Option(
            help="Everything decided, as JSON: replayed if the file is there (no search, and "
            "--images only to verify on), written if not.",
            in_recipes=False,
        ),
    ] = None
    save_calibration: Annotated[
        Path | None, Option(help="Write the measured ranges (JSON).", in_recipes=False)
    ] = None
    calibration_table: Annotated[
        Path | None,
        Option(help="Ranges of --save-calibration instead of new.", in_recipes=False),
    ] = None


class Int8(Precision):
    """Quantized to 8 bits."""

    name = "int8"
    bits = 8
    summary = """Quantize to INT8 (ONNX with Q/DQ), keep the faces, verify against SOURCE, time it.

    A quarter of the pictures is held back; on it the INT8 model must keep the reference's faces
    (--max-face-loss). If it does not, sensitive layers go back to float one by one. The scores'
    convolutions and normalisations stay float always.
    """
    options = Int8Options
    libraries = ("onnx", "onnxruntime", "numpy", "opencv-python-headless")
    needs_images = True

    def convert(self, source: Artifact, settings: Any) -> onnx.ModelProto:
        """The graph in Q/DQ form; names, order and shapes are those of ``source``."""
        from scrfdconv.converters.graph.interface.rows import with_faces_of
        from scrfdconv.converters.graph.model_file import load_onnx
        from scrfdconv.converters.precision.int8.conversion import int8_from_float

        return with_faces_of(int8_from_float(source, settings), load_onnx(source.path))
