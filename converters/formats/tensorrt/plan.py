"""What will be built: an ONNX model, its profiles and options, for the builder and for trtexec."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from scrfdconv.converters.errors import ArtifactError, UsageError
from scrfdconv.converters.formats.tensorrt import TensorRTOptions
from scrfdconv.converters.formats.tensorrt.api import TENSORRT, Package
from scrfdconv.converters.formats.tensorrt.profile import (
    Free,
    Profile,
    nchw,
    profiles_for,
    shape_text,
)
from scrfdconv.converters.graph.number_types import convolutions, precision_of
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.metadata import PREFIX, architecture_from_metadata, package_version
from scrfdconv.converters.network.architecture import SIZE_MULTIPLE
from scrfdconv.converters.structured import to_plain

if TYPE_CHECKING:
    from pathlib import Path

    import onnx

HARDWARE = {  # option -> (member of HardwareCompatibilityLevel, trtexec's word)
    "none": ("NONE", "none"),
    "ampere+": ("AMPERE_PLUS", "ampere+"),
    "same-compute-capability": ("SAME_COMPUTE_CAPABILITY", "sameComputeCapability"),
}
# All buffers of an engine (input, output, working) relative to its largest layer. The factor was
# measured for verification with PyTorch in float32. An engine needs less; no engine was measured.
ENGINE_MEMORY_FACTOR = 6
SCRIPT = "build_engine.sh"


@dataclass(frozen=True)
class OnnxFacts:
    """What an engine's ONNX says of itself."""

    input: str
    free: Free
    outputs: Mapping[str, str]  # the model's names -> canonical names, in the model's order
    convolutions: Mapping[str, int]  # precision -> number of Conv nodes
    precision: str  # the coarsest numbers in the graph
    metadata: Mapping[str, str]  # ours, without the prefix


@dataclass(frozen=True)
class EnginePlan:
    """Everything that decides what the engine computes and accepts."""

    onnx_sha256: str
    facts: OnnxFacts
    profiles: tuple[Profile, ...]
    options: TensorRTOptions
    package: Package = TENSORRT
    capabilities: tuple[str, ...] = ()  # compute capabilities to build for; (): the package's own

    @property
    def label(self) -> str:
        """The precision as limits and reports name it: tf32 for float32 with TF32 convolutions."""
        precision = self.facts.precision
        return "tf32" if self.options.tf32 and precision == "fp32" else precision

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "onnx_sha256": self.onnx_sha256,
            "input": self.facts.input,
            "outputs": list(self.facts.outputs),
            "precision": self.label,
            "convolutions": dict(self.facts.convolutions),
            "profiles": to_plain(self.profiles),
            "options": options_as_dict(self.options),
        }


def options_as_dict(options: TensorRTOptions) -> dict[str, Any]:
    """The options as JSON can hold them."""
    values = asdict(options)
    return values | {"timing_cache": values["timing_cache"] and str(values["timing_cache"])}


def facts_of(model: onnx.ModelProto, where: Path) -> OnnxFacts:
    """Read the facts; raises ArtifactError where the model is no SCRFD."""
    from scrfdconv.converters.graph.model_file import image_input

    image = image_input(model)
    batch, _, height, width = (dim.dim_value or None for dim in image.type.tensor_type.shape.dim)
    opened = OnnxRunner(where)
    if extras := opened.interface.extras:
        raise ArtifactError(
            f"{where}: has outputs that no SCRFD has ({', '.join(extras)}); remove them first."
        )
    metadata = {
        p.key.removeprefix(PREFIX): p.value
        for p in model.metadata_props
        if p.key.startswith(PREFIX)
    }
    return OnnxFacts(
        input=image.name,
        free=(batch, height, width),
        outputs=dict(zip(opened.output_names, opened.interface.outputs, strict=True)),
        convolutions=dict(sorted(Counter(kind for _, kind in convolutions(model)).items())),
        precision=precision_of(model),
        metadata=metadata,
    )


def plan_for(
    facts: OnnxFacts, digest: str, options: TensorRTOptions, memory: int | None = None
) -> EnginePlan:
    """Settle profiles and options; ``memory`` (bytes) bounds the default profile.

    Raises UsageError where the options contradict each other or the model.
    """
    if not facts.convolutions.get(facts.precision):
        raise UsageError(
            f"The ONNX stores {facts.precision}, but none of its convolutions computes in it "
            f"({dict(facts.convolutions)}), and neither would the engine: convert it with "
            f"`scrfdconv {facts.precision}`."
        )
    architecture = architecture_from_metadata(dict(facts.metadata))
    multiple, cost = SIZE_MULTIPLE, 0.0
    if architecture:
        multiple = architecture.size_multiple
    if architecture and memory is not None:
        from scrfdconv.converters.network.complexity import complexity

        cost = ENGINE_MEMORY_FACTOR * complexity(architecture).live_bytes_per_pixel
    profiles = profiles_for(
        facts.free, multiple, options.min, options.opt, options.max, cost, memory
    )
    # As texts again: the sidecar records the options with the settled profiles.
    settled = replace(
        options,
        min=tuple(shape_text(profile.min) for profile in profiles),
        opt=tuple(shape_text(profile.opt) for profile in profiles),
        max=tuple(shape_text(profile.max) for profile in profiles),
    )
    return EnginePlan(digest, facts, profiles, settled)


# ---------------------------------------------------------------- trtexec


def trtexec_arguments(plan: EnginePlan, onnx: str, engine: str) -> list[str]:
    """The options of trtexec that build the same engine, but for ``--stronglyTyped``.

    TensorRT 10 needs that option; in 11 every network is strongly typed. The script asks trtexec
    whether it knows the option. Names of options: trtexec's help of TensorRT 10.16 and NVIDIA's
    guide from 10 to 11.
    """
    options = plan.options
    arguments = [f"--onnx={onnx}", f"--saveEngine={engine}", "--skipInference"]
    for index, profile in enumerate(plan.profiles):
        arguments += [f"--profile={index}"] if len(plan.profiles) > 1 else []
        arguments += [
            f"--{key}Shapes={_named(plan.facts.input, getattr(profile, key))}"
            for key in ("min", "opt", "max")
        ]
    arguments += ["--profilingVerbosity=detailed"]  # without it, the precision cannot be audited
    if not options.tf32:
        arguments.append("--noTF32")
    if options.workspace is not None:
        arguments.append(f"--memPoolSize=workspace:{options.workspace}")
    if options.timing_cache:
        arguments.append(f"--timingCacheFile={options.timing_cache}")
    if options.level is not None:
        arguments.append(f"--builderOptimizationLevel={options.level}")
    if options.version_compatible:
        arguments.append("--versionCompatible")
    if options.hardware != "none":
        arguments.append(f"--hardwareCompatibilityLevel={HARDWARE[options.hardware][1]}")
    arguments += ["--refit"] if options.refit else []
    arguments += ["--stripWeights"] if options.strip_plan else []
    return arguments


def _named(name: str, shape: tuple[int, int, int]) -> str:
    """``input.1:1x3x640x640``; trtexec wants quotes around names with a colon."""
    quoted = f"'{name}'" if ":" in name else name
    return f"{quoted}:{'x'.join(map(str, nchw(shape)))}"


def build_script(plan: EnginePlan, onnx: str, engine: str) -> str:
    """A shell script that builds the engine on the target machine, beside the ONNX."""
    arguments = " \\\n    ".join(shlex.quote(a) for a in trtexec_arguments(plan, onnx, engine))
    return f"""\
#!/bin/sh
# Builds {engine} from {onnx} ({plan.label}) with TensorRT's trtexec, 10.3 or later and 11.
# Written by scrfdconv {package_version()} as a plan: nothing was built or run on a GPU so far.
# Afterwards: scrfdconv verify {shlex.quote(engine)} --reference CHECKPOINT
set -eu
cd "$(dirname "$0")"
echo "{plan.onnx_sha256}  "{shlex.quote(onnx)} | sha256sum -c -
trtexec=${{TRTEXEC:-trtexec}}
# The precision is that of the ONNX. TensorRT 10 has to be told; 11 knows no other way.
typed=
if "$trtexec" --help 2>&1 | grep -q -e --stronglyTyped; then typed=--stronglyTyped; fi
exec "$trtexec" $typed \\
    {arguments}
"""
