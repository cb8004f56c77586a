"""TensorRT for RTX: engines for GPUs from Turing on, built without a GPU; see `formats.tensorrt`.

Measured with 1.7.1 without a GPU: the builder takes TF32, working memory, a level and compute
capabilities; it fails on plans that can be refitted or have no weights, and on version compatible
plans; timing caches do nothing. The same inputs give the same bytes for a fixed shape, and with
profiles engines of one size, of which a thousandth differs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.errors import MissingError, UsageError
from scrfdconv.converters.formats import Finding, Format, Source
from scrfdconv.converters.formats.tensorrt import (
    BUILDER,
    EngineOptions,
    TensorRT,
    TensorRTOptions,
)
from scrfdconv.converters.options import Option

if TYPE_CHECKING:
    from scrfdconv.converters.runner import Runner

_PLAN = b"vtrt"  # the first bytes of a plan
# Members of ComputeCapability in 1.7.
CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")


@dataclass(frozen=True, kw_only=True)
class TensorRTRtxOptions(EngineOptions):
    """How an engine is built, and for which GPUs."""

    compute_capability: Annotated[
        tuple[str, ...],
        Option(
            help="Build for these GPUs only, again for another one: 7.5 is Turing, 8.0 to 8.9 are "
            "Ampere and Ada, 12.0 and 12.1 Blackwell.",
            metavar="X.Y",
            shown_default="any from Ampere on",
            group=BUILDER,
            in_name="cc",
        ),
    ] = ()

    @property
    def for_builder(self) -> TensorRTOptions:
        """The same as options of the builder that both packages share."""
        shared = {name: value for name, value in asdict(self).items() if name in _SHARED}
        return TensorRTOptions(**shared, hardware="ampere+")


_SHARED = frozenset(EngineOptions.__dataclass_fields__)


class TensorRTRtx(TensorRT):
    """A serialized engine of TensorRT for RTX, with a sidecar FILE.engine.json."""

    name = "tensorrt-rtx"
    title = "TensorRT for RTX"
    summary = "Build an engine of TensorRT for RTX, without a GPU; verified where there is one."
    options: ClassVar[type] = TensorRTRtxOptions
    libraries = ("tensorrt_rtx", "torch", "onnx", "onnxsim", "onnxruntime", "numpy")
    modules = ("tensorrt_rtx",)
    extra = "tensorrt-rtx"
    own_folder = True  # its files have the names of TensorRT's
    why_no_faces = "its builder implements no NonMaxSuppression (measured with 1.7.1)"
    serving = None

    def recognises(self, path: Path, head: bytes) -> bool:
        """True for a serialized plan of this package."""
        return head.startswith(_PLAN)

    def build(self, source: Source, options: Any, out: Path, precision: str) -> None:
        """Build for all GPUs of the options; the sidecar says which these are."""
        from scrfdconv.converters.formats.tensorrt.api import RTX
        from scrfdconv.converters.formats.tensorrt.engine_file import write_engine

        assert isinstance(source, Artifact)
        _require_capabilities(options)
        write_engine(source, options.for_builder, out, RTX, options.compute_capability)

    def open(self, path: Path, threads: int | None = None) -> Runner:
        """Open an engine on this machine's GPU."""
        from scrfdconv.converters.formats.tensorrt.api import RTX
        from scrfdconv.converters.formats.tensorrt.runner import TensorRTRunner

        return TensorRTRunner(path, RTX)

    def describe(self, path: Path) -> dict[str, Any]:
        """What the sidecar says, and what the engine itself says where it can be opened."""
        from scrfdconv.converters.formats.tensorrt.api import RTX
        from scrfdconv.converters.formats.tensorrt.engine_file import describe_engine

        return describe_engine(path, RTX)

    def findings_unrun(self, path: Path, source: Artifact, options: Any) -> Iterator[Finding]:
        """Types of the parsed network, size of the engine, and the size of a second build."""
        from scrfdconv.converters.formats.tensorrt_rtx.unrun import unrun_findings

        yield from unrun_findings(self, path, source, options)

    def why_not_built(self) -> str:
        """Whether the package is missing; no GPU is needed."""
        from scrfdconv.converters.formats.tensorrt.api import RTX, tensorrt

        try:
            tensorrt(RTX)
        except MissingError as error:
            return str(error)
        return ""

    def why_plainly_not_built(self) -> str:
        """Builds verify what they make, which needs a GPU."""
        from scrfdconv.converters.formats.tensorrt.api import RTX, driver_version

        if not RTX.is_installed:
            return f"the package {RTX.module} is not installed"
        if driver_version() is None:
            return (
                "no NVIDIA driver is on this machine, so nothing could be verified; `scrfdconv "
                "tensorrt-rtx` builds without one"
            )
        return ""

    def why_not_run(self) -> str:
        """Whether the package or the GPU is missing."""
        from scrfdconv.converters.formats.tensorrt.api import require_gpu

        if missing := self.why_not_built():
            return missing
        try:
            require_gpu()
        except MissingError:
            return "Running the engine needs an NVIDIA GPU, which is not on this machine."
        return ""

    def why_not_verified(self, options: Any) -> str:
        """Every engine of this package has its weights."""
        return ""

    def settled_options(self, source: Artifact, options: Any) -> Any:
        """``options`` with the profiles that follow from the ONNX."""
        from scrfdconv.converters.formats.tensorrt.engine_file import engine_plan

        settled = engine_plan(source, options.for_builder).options
        return replace(options, min=settled.min, opt=settled.opt, max=settled.max)

    def require_possible(self, source: Source, options: Any, sizes: Any) -> None:
        """Refuse impossible profiles and unknown compute capabilities."""
        _require_capabilities(options)
        super().require_possible(source, options.for_builder, sizes)

    # Engines are built here: there are no plans for another machine.
    instructions = Format.instructions
    instruction_files = Format.instruction_files


def _require_capabilities(options: TensorRTRtxOptions) -> None:
    strange = [one for one in options.compute_capability if one not in CAPABILITIES]
    if strange:
        raise UsageError(
            f"--compute-capability {strange[0]}: TensorRT for RTX builds for "
            f"{', '.join(CAPABILITIES)}."
        )
