"""ONNX: exported once per checkpoint with free batch, height and width; the rest is derived."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats import Finding, Format, Source, formats
from scrfdconv.converters.graph.interface.kinds import FaceRules, OutputKind
from scrfdconv.converters.input_form import PLAIN, InputForm, InputType, Layout
from scrfdconv.converters.metadata import architecture_from_metadata, own_metadata
from scrfdconv.converters.normalization import Color, Normalization
from scrfdconv.converters.options import Option, SizeOptions
from scrfdconv.converters.precision import precisions
from scrfdconv.converters.signature import Serving

if TYPE_CHECKING:
    from scrfdconv.converters.graph.convolution import Convolution
    from scrfdconv.converters.layers import Layers
    from scrfdconv.converters.runner import Runner
    from scrfdconv.converters.signature import Signature

Exporter = Literal["torchscript", "dynamo"]

# 17 runs on every ONNX Runtime since 1.12 and every TensorRT since 8.5; the CUDA provider of
# ONNX Runtime lacks kernels of opset 19 and later.
DEFAULT_OPSET = 17
# Measured on three released models, one thread: 0.94 to 1.21 times the float model's time.
ON_CPU = (
    "FP16 is for GPUs and NPUs: ONNX Runtime on a CPU computes it in float32, in about the float "
    "model's time or up to a fifth more."
)
# Measured with OpenCV 4.5.5 and 4.12; 5.0 computes the same to 1.4e-5.
NOT_FOR_OPENCV = "OpenCV 4 cannot read this file, because its head has GroupNorm; OpenCV 5 can."
_FOR_INPUT = "Pictures that the file takes"  # heading in --help
_FOR_FACES = "For --outputs faces"  # heading in --help
_MOST_FACES = 1000  # more than any picture has; every place is computed for every picture
_LEAST_SCORE = 0.001  # places without a face have the score 0
# Protobuf tag of ModelProto.ir_version, the first field that writers emit.
_IR_VERSION = 0x08


@dataclass(frozen=True, kw_only=True)
class OnnxOptions(SizeOptions):
    """Dynamic unless ``shape`` (H, W) is given; then ``batch`` images of that shape."""

    # None: 17 for exports, unchanged for a model that is ONNX already.
    opset: Annotated[
        int | None,
        Option(
            help="11 to 20, where a checkpoint is exported; INT8 needs 13.",
            shown_default="17",
            in_name="opset{}",
            none_means=DEFAULT_OPSET,
        ),
    ] = None
    exporter: Annotated[
        Exporter, Option(help="Which of torch's exporters; dynamo is slower.", in_name="{}")
    ] = "torchscript"
    # None: raw for exports, unchanged for a model that is ONNX already.
    outputs: Annotated[
        OutputKind | None,
        Option(
            help="raw: rows of anchors for each image; flat: rows of one image, without its axis; "
            "maps: what the heads give, (N, anchors * width, H/s, W/s); faces: decoded and "
            "suppressed in the graph.",
            shown_default="raw",
            in_name="{}",
            none_means="raw",
        ),
    ] = None
    # None: float, nchw and the network's order for exports, unchanged for what is ONNX already.
    input: Annotated[
        InputType | None,
        Option(
            help="float: normalised pictures; uint8: bytes, normalised in the graph.",
            shown_default="float",
            in_name="{}",
            none_means="float",
            group=_FOR_INPUT,
        ),
    ] = None
    layout: Annotated[
        Layout | None,
        Option(
            help="Order of the input's axes.",
            shown_default="nchw",
            in_name="{}",
            none_means="nchw",
            group=_FOR_INPUT,
        ),
    ] = None
    input_color: Annotated[
        Color | None,
        Option(
            help="Order of the input's channels, whatever the network was trained on.",
            shown_default="the network's",
            in_name="{}",
            group=_FOR_INPUT,
        ),
    ] = None
    max_faces: Annotated[
        int,
        Option(
            help="Places for faces, the best ones.",
            least=1,
            most=_MOST_FACES,
            in_name="max{}",
            group=_FOR_FACES,
        ),
    ] = 100
    threshold: Annotated[
        float,
        Option(
            help="Lowest score of a face.",
            least=_LEAST_SCORE,
            most=1,
            in_name="score{}",
            group=_FOR_FACES,
        ),
    ] = 0.5
    nms_iou: Annotated[
        float,
        Option(
            help="Boxes that overlap by more are one face.",
            flag="--nms",
            least=0,
            most=1,
            in_name="nms{}",
            group=_FOR_FACES,
        ),
    ] = 0.4

    @property
    def asks_for_input(self) -> bool:
        """True if the user says anything of the pictures that the file takes."""
        return (self.input, self.layout, self.input_color) != (None, None, None)

    def form(self, network: Normalization) -> InputForm:
        """The form in which the file takes the pictures of a network."""
        color = self.input_color or network.color
        kind, layout = self.input or "float", self.layout or "nchw"
        if (kind, layout, color) == ("float", "nchw", network.color):
            return PLAIN
        same = network if color == network.color else network.exchanged()
        raw = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0), color)
        return InputForm(kind, layout, raw if kind == "uint8" else same)

    @property
    def rules(self) -> FaceRules:
        """For outputs that are faces."""
        return FaceRules(threshold=self.threshold, nms_iou=self.nms_iou, max_faces=self.max_faces)


def require_outputs(options: OnnxOptions) -> None:
    """Raise UsageError for flat outputs of several images, and for rules of faces without faces."""
    if options.outputs == "flat" and options.batch != 1:
        raise UsageError("--outputs flat has no axis for a batch: leave --batch out.")
    if options.outputs != "faces" and options.rules != OnnxOptions().rules:
        raise UsageError("--max-faces, --threshold and --nms are for --outputs faces.")


class Onnx(Format):
    """ONNX, simplified, in every precision."""

    name = "onnx"
    title = "ONNX"
    summary = (
        "Export to ONNX, simplify and verify; dynamic in batch, height and width unless --shape."
    )
    suffixes = (".onnx",)
    source = "pytorch"
    precisions = ("fp32", "fp16", "int8")
    options = OnnxOptions
    libraries = ("torch", "onnx", "onnxsim", "numpy")
    modules = ("torch", "onnx", "onnxsim", "onnxruntime")
    from_itself = True
    has_providers = True
    serving = Serving(backend="onnxruntime", platform="onnxruntime_onnx", file="model.onnx")

    def recognises(self, path: Path, head: bytes) -> bool:
        """True for a protobuf message that begins with an IR version."""
        return head[0] == _IR_VERSION

    def build(self, source: Source, options: Any, out: Path, precision: str) -> None:
        """Export a checkpoint, simplify a model that is ONNX already, or reduce its precision."""
        from scrfdconv.converters.formats.onnx.building import onnx_from_source
        from scrfdconv.converters.graph.model_file import serialised

        if isinstance(options, OnnxOptions):
            model = onnx_from_source(source, options)
        else:
            model = precisions()[precision].convert(source, options)  # type: ignore[arg-type]
        out.write_bytes(serialised(model))

    def require_possible(self, source: Source, options: Any, sizes: Any) -> None:
        """Refuse outputs that contradict other options."""
        if isinstance(sizes, OnnxOptions):
            require_outputs(sizes)

    def libraries_for(self, options: Any) -> tuple[str, ...]:
        """Dynamo exports through onnxscript."""
        dynamo = isinstance(options, OnnxOptions) and options.exporter == "dynamo"
        return (*self.libraries, "onnxscript") if dynamo else self.libraries

    def open(self, path: Path, threads: int | None = None) -> Runner:
        """Open a model, ours, upstream's or a released one, with ONNX Runtime on the CPU."""
        from scrfdconv.converters.graph.onnx_runner import OnnxRunner

        return OnnxRunner(path, threads)

    def open_on(self, provider: str, path: Path, threads: int | None = None) -> Runner:
        """Open a model with any execution provider of the installed ONNX Runtime."""
        from scrfdconv.converters.graph.onnx_runner import OnnxRunner
        from scrfdconv.converters.graph.providers import provider_called

        return OnnxRunner(path, threads, provider=provider_called(provider))

    def files_read(self, path: Path) -> tuple[Path, ...]:
        """The file, and those in which tensors are stored outside of the file."""
        from scrfdconv.converters.graph.model_file import files_of_tensors

        return (path, *files_of_tensors(path))

    def convolutions(self, path: Path) -> Iterator[Convolution]:
        """Every convolution with constant weights."""
        from scrfdconv.converters.formats.onnx.weights import convolutions_of_onnx

        return convolutions_of_onnx(path)

    def findings(self, runner: Runner) -> Iterator[Finding]:
        """What the format says for which an INT8 file is arranged."""
        target = runner.metadata.get("target", self.int8_target)
        meant = [one for one in formats().values() if one.source == self.name and one is not self]
        one = next((one for one in meant if one.int8_target == target != self.int8_target), None)
        path = getattr(runner, "path", None)
        if one and path:
            yield from one.lint(self.artifact_at(path)).findings

    def layers(self, path: Path) -> Layers:
        """The convolutions and outputs of the graph."""
        from scrfdconv.converters.formats.onnx.layers import OnnxLayers

        return OnnxLayers(path)

    def signature(self, path: Path) -> Signature:
        """What the graph declares."""
        from scrfdconv.converters.graph.facts import signature_of_onnx

        return signature_of_onnx(path)

    def describe(self, path: Path) -> dict[str, Any]:
        """Opset, producer, declared inputs and outputs, operators; then what the runner says."""
        from scrfdconv.converters.graph.facts import facts_of_onnx

        return facts_of_onnx(path) | super().describe(path)

    def remark(self, precision: str) -> str:
        """INT8 needs a processor for it, FP16 a GPU."""
        if precision == "fp16":
            return "meant for GPUs"
        return super().remark(precision)

    def remark_made(self, path: Path, precision: str) -> str:
        """FP16 saves no time on a CPU, and OpenCV 4 cannot read GroupNorm."""
        from scrfdconv.converters.graph.model_file import load_onnx, metadata_of

        if precision != "fp32":
            return ON_CPU if precision == "fp16" else ""
        a = architecture_from_metadata(own_metadata(metadata_of(load_onnx(path))))
        return NOT_FOR_OPENCV if a and a.head_groups else ""

    def precision_of(self, path: Path) -> str:
        """The coarsest numbers that the graph computes in."""
        from scrfdconv.converters.graph.number_types import precision_in

        return precision_in(path)
