"""TensorRT engines, for 10.3 and later and 11 alike: built from ONNX, which decides the precision.

The parts: ``plan`` (what), ``build`` (how), ``sidecar`` (what is known of an engine), ``runner``
(running it), ``building`` (all of them in the order in which an engine is made).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.formats import Finding, Format, Instructions, Lint, Source
from scrfdconv.converters.options import Option, Options
from scrfdconv.converters.signature import Serving

if TYPE_CHECKING:
    from scrfdconv.converters.runner import Runner
    from scrfdconv.converters.signature import Signature

Hardware = Literal["none", "ampere+", "same-compute-capability"]

_PLAN = b"ftrt"  # the first bytes of a plan in every version since 8
PROFILE, BUILDER = "Profiles of dynamic models", "Builder"


@dataclass(frozen=True, kw_only=True)
class EngineOptions(Options):
    """How an engine is built, whichever package builds it; its precision is that of the ONNX."""

    min: Annotated[
        tuple[str, ...],
        Option(help="Smallest images; again for another profile.", metavar="NxHxW", group=PROFILE),
    ] = ()
    opt: Annotated[
        tuple[str, ...], Option(help="Images to tune for.", metavar="NxHxW", group=PROFILE)
    ] = ()
    max: Annotated[
        tuple[str, ...],
        Option(
            help="Largest images. Default: 1x320x320, 1x640x640, 4x1280x1280 or what memory "
            "allows.",
            metavar="NxHxW",
            group=PROFILE,
        ),
    ] = ()
    tf32: Annotated[
        bool,
        Option(
            help="Allow TF32 in float32 convolutions: faster, errors of 1e-3.",
            group=BUILDER,
            in_name="tf32",
        ),
    ] = False
    workspace: Annotated[
        int | None,
        Option(
            help="Working memory.",
            metavar="MIB",
            least=1,
            shown_default="all of the GPU's",
            group=BUILDER,
        ),
    ] = None
    level: Annotated[
        int | None,
        Option(
            help="Builder optimization level.",
            least=0,
            most=5,  # by TensorRT's documentation
            shown_default="3",
            group=BUILDER,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class TensorRTOptions(EngineOptions):
    """What TensorRT has and TensorRT for RTX lacks, or cannot build without a GPU."""

    timing_cache: Annotated[
        Path | None,
        Option(
            help="Measurements of former builds: read, and added to.",
            group=BUILDER,
            in_recipes=False,
        ),
    ] = None
    version_compatible: Annotated[
        bool, Option(help="Runs on later versions of TensorRT, too.", group=BUILDER)
    ] = False
    hardware: Annotated[
        Hardware,
        Option(
            help="Runs on other GPUs, too.",
            flag="--hardware-compatibility",
            group=BUILDER,
        ),
    ] = "none"
    refit: Annotated[bool, Option(help="Weights can be replaced.", group=BUILDER)] = False
    strip_plan: Annotated[
        bool, Option(help="Leave the weights out; a refit puts them back.", group=BUILDER)
    ] = False


class TensorRT(Format):
    """A serialized engine, with a sidecar FILE.engine.json."""

    name = "tensorrt"
    title = "TensorRT"
    summary = (
        "Build a TensorRT engine (10.3 or later, 11) on this machine's GPU, audit and verify it."
    )
    suffixes = (".engine", ".engine.json")
    precisions = ("fp32", "fp16", "int8")
    options: ClassVar[type] = TensorRTOptions
    libraries = ("tensorrt", "torch", "onnx", "onnxsim", "onnxruntime", "numpy")
    modules = ("tensorrt",)
    extra = "tensorrt"
    int8_target = "tensorrt"
    reproducible = False
    runs_on_cpu = False
    bound_to_machine = True
    why_no_input_forms = "no engine that prepares pictures itself was measured on a GPU"
    why_no_faces = "an engine does not show the rows that its faces are checked against"
    serving: ClassVar[Serving | None] = Serving(
        backend="tensorrt", platform="tensorrt_plan", file="model.plan"
    )

    def recognises(self, path: Path, head: bytes) -> bool:
        """True for a serialized plan."""
        return head.startswith(_PLAN)

    def companions(self, path: Path) -> tuple[Path, ...]:
        """The sidecar, whatever the engine is called."""
        return (path.with_name(f"{path.name}.json"),)

    def build(self, source: Source, options: Any, out: Path, precision: str) -> None:
        """Build on this machine's GPU, for this machine's GPU; the sidecar says which that is."""
        from scrfdconv.converters.formats.tensorrt.engine_file import write_engine

        assert isinstance(source, Artifact)
        write_engine(source, options, out)

    def open(self, path: Path, threads: int | None = None) -> Runner:
        """Open an engine, ours or foreign; ours is refused early on another version or GPU."""
        from scrfdconv.converters.formats.tensorrt.runner import TensorRTRunner

        return TensorRTRunner(path)

    def signature(self, path: Path) -> Signature:
        """What the sidecar says; no GPU is needed."""
        from scrfdconv.converters.formats.tensorrt.sidecar import signature_of_engine

        return signature_of_engine(path)

    def describe(self, path: Path) -> dict[str, Any]:
        """What the sidecar says, and what the engine itself says where it can be opened."""
        from scrfdconv.converters.formats.tensorrt.engine_file import describe_engine

        return describe_engine(path)

    def precision_name(self, options: TensorRTOptions, precision: str) -> str:
        """tf32 for float32 with TF32 convolutions, which have limits of their own."""
        return "tf32" if options.tf32 and precision == "fp32" else precision

    def facts_made(self, path: Path) -> dict[str, Any]:
        """Where the sidecar is."""
        return {"sidecar": str(self.companions(path)[0])}

    def findings(self, runner: Runner) -> Iterator[Finding]:
        """The audit: in which types the engine's convolutions compute."""
        from scrfdconv.converters.formats.tensorrt.audit import audit_engine
        from scrfdconv.converters.formats.tensorrt.runner import TensorRTRunner

        assert isinstance(runner, TensorRTRunner)
        yield from audit_engine(runner)

    def lint(self, source: Artifact) -> Lint:
        """What TensorRT will not take: by rules, and by NVIDIA's own parser if that is here."""
        from scrfdconv.converters.formats.tensorrt.lint import lint_of
        from scrfdconv.converters.formats.tensorrt.parser import parser_lint

        rules, parser = lint_of(source.path), parser_lint(source.path)
        return Lint(
            findings=(*rules.findings, *parser.findings), remarks=(*rules.remarks, *parser.remarks)
        )

    def why_not_built(self) -> str:
        """Which package or GPU is missing, with what can be done without it."""
        from scrfdconv.converters.formats.tensorrt.api import why_no_engine

        return why_no_engine()

    def why_not_verified(self, options: TensorRTOptions) -> str:
        """A plan without weights computes nothing."""
        if not options.strip_plan:
            return ""
        return (
            "--strip-plan leaves the weights out, so nothing can be verified: add --no-verify and "
            "verify after the refit."
        )

    def why_plainly_not_built(self) -> str:
        """Which package or driver is missing, found without loading torch."""
        from scrfdconv.converters.formats.tensorrt.api import plainly_missing

        return plainly_missing()

    def settled_options(self, source: Artifact, options: TensorRTOptions) -> TensorRTOptions:
        """``options`` with the profiles that follow from the ONNX and this machine's memory."""
        from scrfdconv.converters.formats.tensorrt.engine_file import engine_plan

        return engine_plan(source, options).options

    def require_possible(self, source: Source, options: TensorRTOptions, sizes: Any) -> None:
        """Refuse impossible profiles, and plans that could not be verified."""
        from scrfdconv.converters.formats.tensorrt.engine_file import require_profiles

        require_profiles(source, options, sizes)

    def instruction_files(self, out: Path) -> tuple[Path, ...]:
        """The ONNX and the script."""
        from scrfdconv.converters.formats.tensorrt.engine_file import instruction_files

        return instruction_files(out)

    def instructions(
        self, source: Artifact, options: TensorRTOptions, out: Path
    ) -> Instructions | None:
        """The ONNX and ``build_engine.sh``, the equal command line of trtexec."""
        from scrfdconv.converters.formats.tensorrt.engine_file import write_instructions

        return write_instructions(source, options, out)
