"""What is known about an engine, in a file beside it: ``model.engine`` and ``model.engine.json``.

The engine file holds nothing but the plan, so that ``trtexec --loadEngine`` and Triton can load the
file unchanged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from scrfdconv.converters.artifact import digest_of
from scrfdconv.converters.errors import ArtifactError, MissingError
from scrfdconv.converters.formats.tensorrt.api import ANY, Gpu, version_numbers
from scrfdconv.converters.formats.tensorrt.plan import EnginePlan, options_as_dict
from scrfdconv.converters.formats.tensorrt.profile import Profile
from scrfdconv.converters.graph.interface.kinds import output_kind
from scrfdconv.converters.graph.interface.outputs import output_dims
from scrfdconv.converters.metadata import architecture_from_metadata, package_version
from scrfdconv.converters.network.architecture import CHANNELS
from scrfdconv.converters.signature import Signature, Tensor
from scrfdconv.converters.structured import read_json, to_json

AMPERE = 8  # major compute capability
_FLOAT = "float32"


@dataclass(frozen=True)
class Sidecar:
    """Where and how an engine was built, and what it computes."""

    tensorrt: str
    gpu: str  # "any" where no GPU was needed
    compute_capability: str  # several, with spaces between, of an engine for any GPU of these
    driver: str
    precision: str
    input: str
    outputs: dict[str, str]  # the engine's names -> canonical names, in the order of the ONNX
    profiles: tuple[Profile, ...]
    shape: tuple[int | None, ...]  # N, H, W of the model; None where it is free
    convolutions: dict[str, int]  # of the ONNX: precision -> number
    plan_sha256: str
    onnx_sha256: str
    options: dict[str, Any]
    metadata: dict[str, str] = field(default_factory=dict)  # of the ONNX
    scrfdconv: str = field(default_factory=package_version)
    schema: Literal[1] = 1

    @classmethod
    def of(cls, plan: EnginePlan, engine: Path, version: str, gpu: Gpu) -> Sidecar:
        """Describe an engine that was built just now."""
        facts = plan.facts
        return cls(
            tensorrt=version,
            gpu=gpu.name,
            compute_capability=gpu.compute_capability,
            driver=gpu.driver,
            precision=plan.label,
            input=facts.input,
            outputs=dict(facts.outputs),
            profiles=plan.profiles,
            shape=facts.free,
            convolutions=dict(facts.convolutions),
            plan_sha256=digest_of(engine),
            onnx_sha256=plan.onnx_sha256,
            options=options_as_dict(plan.options),
            metadata=dict(facts.metadata),
        )

    def to_json(self) -> str:
        """The file's content."""
        return to_json(self, indent=2) + "\n"

    def require_engine(self, engine: Path) -> None:
        """Raise ArtifactError unless this is the sidecar of that engine."""
        if digest_of(engine) != self.plan_sha256:
            raise ArtifactError(
                f"{engine}: {sidecar_path(engine).name} describes another engine (its plan_sha256 "
                "differs): copy the two together, or delete the sidecar if the engine is foreign."
            )

    def require_compatible(self, version: str, gpu: Gpu) -> None:
        """Raise MissingError unless the engine was declared to run on this version and GPU."""
        reason = self._wrong_version(version) or self._wrong_gpu(gpu)
        if reason:
            raise MissingError(f"This engine {reason}: build it again on this machine.")

    def _wrong_version(self, version: str) -> str:
        built, here = version_numbers(self.tensorrt), version_numbers(version)
        if self.options.get("version_compatible"):
            # Later versions only, up to the next major one: engines of 10 run on 11, those of 8 on
            # 10.
            if here >= built and here[0] - built[0] <= 1:
                return ""
            return (
                f"was built with TensorRT {self.tensorrt}, version compatible: it runs on that "
                f"and later versions up to {built[0] + 1}; here is {version}"
            )
        if built == here:
            return ""
        return (
            f"was built with TensorRT {self.tensorrt}, here is {version}, and engines run on the "
            "version that built them unless built with --version-compatible"
        )

    def _wrong_gpu(self, gpu: Gpu) -> str:
        here = f"here is {gpu.name} ({gpu.compute_capability})"
        if self.gpu == ANY and self.compute_capability:
            listed = self.compute_capability.split()
            told = f"was built for compute capabilities {', '.join(listed)}, {here}"
            return "" if gpu.compute_capability in listed else told
        level = self.options.get("hardware", "none")
        if level == "ampere+":
            if version_numbers(gpu.compute_capability)[0] >= AMPERE:
                return ""
            return f"was built for GPUs from Ampere (8.0) on, {here}"
        same = self.compute_capability == gpu.compute_capability
        if same and (level == "same-compute-capability" or self.gpu == gpu.name):
            return ""
        return (
            f"was built on {self.gpu} ({self.compute_capability}), {here}, and engines run on the "
            "GPU model that built them unless built with --hardware-compatibility"
        )


def sidecar_path(engine: Path) -> Path:
    """``model.engine.json``."""
    return engine.with_name(f"{engine.name}.json")


def read_sidecar(engine: Path) -> Sidecar | None:
    """The sidecar of an engine, or None if it has none."""
    path = sidecar_path(engine)
    if not path.exists():
        return None
    advice = "delete it or build the engine again"
    return read_json(path, Sidecar, "sidecar of an engine", advice, error=ArtifactError)


def signature_of_engine(engine: Path) -> Signature:
    """Inputs and outputs of an engine of ours, which are float32 in every precision.

    Raises ArtifactError for an engine without a sidecar: only a GPU could open such an engine.
    """
    sidecar = read_sidecar(engine)
    a = architecture_from_metadata(sidecar.metadata) if sidecar else None
    if sidecar is None or a is None:
        raise ArtifactError(
            f"{engine}: nothing beside it says what it takes and returns; build it with scrfdconv, "
            "and keep its .engine.json."
        )
    sidecar.require_engine(engine)
    batch, height, width = sidecar.shape
    shape = (height, width) if height and width else None
    kind = output_kind(sidecar.metadata)
    outputs = []
    for own, canonical in sidecar.outputs.items():
        dims = output_dims(a, canonical, kind, shape, batch)
        free = tuple(side if isinstance(side, int) else None for side in dims)
        outputs.append(Tensor(name=own, kind=_FLOAT, dims=free))
    image = Tensor(name=sidecar.input, kind=_FLOAT, dims=(batch, CHANNELS, height, width))
    most = max((profile.max[0] for profile in sidecar.profiles), default=None)
    return Signature(inputs=(image,), outputs=tuple(outputs), most_images=most)
