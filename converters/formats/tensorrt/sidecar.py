"""What is known about an engine, in a file beside it: ``model.engine`` and ``model.engine.json``.

Beside and not inside: nothing is prepended to the plan, so that ``trtexec --loadEngine`` and
Triton take it as it is.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from scrfdconv.converters.artifact import digest_of
from scrfdconv.converters.errors import ArtifactError, MissingError
from scrfdconv.converters.formats.tensorrt.api import Gpu, version_numbers
from scrfdconv.converters.formats.tensorrt.plan import EnginePlan, options_as_dict
from scrfdconv.converters.formats.tensorrt.profile import Profile
from scrfdconv.converters.metadata import package_version

SCHEMA = 1
AMPERE = 8  # major compute capability


@dataclass(frozen=True)
class Sidecar:
    """Where and how an engine was built, and what it computes."""

    tensorrt: str
    gpu: str
    compute_capability: str
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
    schema: int = SCHEMA

    @classmethod
    def of(cls, plan: EnginePlan, engine: Path, version: str, gpu: Gpu) -> Sidecar:
        """Describe an engine that was built just now."""
        facts = plan.facts
        return cls(
            version,
            gpu.name,
            gpu.compute_capability,
            gpu.driver,
            plan.label,
            facts.input,
            dict(facts.outputs),
            plan.profiles,
            facts.free,
            dict(facts.convolutions),
            digest_of(engine),
            plan.onnx_sha256,
            options_as_dict(plan.options),
            dict(facts.metadata),
        )

    def to_json(self) -> str:
        """The file's content."""
        content = asdict(self) | {"profiles": [profile.to_dict() for profile in self.profiles]}
        return json.dumps(content, indent=2) + "\n"

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
            # Forward only, and at most one major version on: 10 runs on 11, 8 on 10 alone.
            if here >= built and here[0] - built[0] <= 1:
                return ""
            return (
                f"was built with TensorRT {self.tensorrt}, version compatible, which runs on that "
                f"and later ones up to {built[0] + 1}; here is {version}"
            )
        if built == here:
            return ""
        return (
            f"was built with TensorRT {self.tensorrt}, here is {version}, and engines run on the "
            "version that built them unless built with --version-compatible"
        )

    def _wrong_gpu(self, gpu: Gpu) -> str:
        here = f"here is {gpu.name} ({gpu.compute_capability})"
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
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path}: cannot be read ({error}).") from error
    try:
        content = json.loads(text)
        if content["schema"] != SCHEMA:
            raise ArtifactError(
                f"{path}: has schema {content['schema']}, this version reads {SCHEMA}."
            )
        values = {f.name: content[f.name] for f in fields(Sidecar)}
        values["profiles"] = tuple(Profile.from_dict(p) for p in values["profiles"])
        values["shape"] = tuple(values["shape"])
        return Sidecar(**values)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{path}: is no sidecar of an engine ({type(error).__name__}: {error}); delete it or "
            "build the engine again."
        ) from error
