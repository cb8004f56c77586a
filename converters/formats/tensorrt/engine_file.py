"""An engine from an ONNX file, with its sidecar; or the files that another machine builds from."""

from __future__ import annotations

import shlex
import shutil
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from scrfdconv.converters.artifact import Artifact, digest_of, replacing
from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.errors import MissingError
from scrfdconv.converters.formats import Instructions, Source
from scrfdconv.converters.formats.tensorrt import TensorRTOptions
from scrfdconv.converters.formats.tensorrt.api import (
    TENSORRT,
    Gpu,
    Package,
    require_gpu,
    tensorrt,
)
from scrfdconv.converters.formats.tensorrt.build import engine_from_onnx
from scrfdconv.converters.formats.tensorrt.plan import (
    SCRIPT,
    EnginePlan,
    build_script,
    facts_of,
    plan_for,
    trtexec_arguments,
)
from scrfdconv.converters.formats.tensorrt.profile import Free, profiles_for
from scrfdconv.converters.formats.tensorrt.runner import TensorRTRunner
from scrfdconv.converters.formats.tensorrt.sidecar import Sidecar, read_sidecar, sidecar_path
from scrfdconv.converters.graph.model_file import load_onnx
from scrfdconv.converters.options import SizeOptions
from scrfdconv.converters.structured import to_plain
from scrfdconv.converters.system.machine import available_memory

EXECUTABLE = 0o111


def write_engine(
    source: Artifact,
    options: TensorRTOptions,
    out: Path,
    package: Package = TENSORRT,
    capabilities: tuple[str, ...] = (),
) -> None:
    """Build an engine, and say in the sidecar for which GPU that is."""
    plan = replace(engine_plan(source, options), package=package, capabilities=capabilities)
    out.write_bytes(engine_from_onnx(source.path.read_bytes(), plan))
    gpu = Gpu.any_of(capabilities) if package.builds_without_gpu else require_gpu()
    sidecar = Sidecar.of(plan, out, tensorrt(package).__version__, gpu)
    sidecar_path(out).write_text(sidecar.to_json(), encoding="utf-8")


def engine_plan(source: Artifact, options: TensorRTOptions) -> EnginePlan:
    """The plan for building an ONNX file with ``options``.

    Default profiles keep to the memory of this machine, if it has a GPU.
    """
    return _plan(source.path, source.digest, options)


@lru_cache(maxsize=16)  # one answer per build: free memory changes from one moment to the next
def _plan(path: Path, digest: str, options: TensorRTOptions) -> EnginePlan:
    return plan_for(facts_of(load_onnx(path), path), digest, options, _free_memory())


def _free_memory() -> int | None:
    """Free bytes on GPU and host, the smaller: both run the shapes. None without a GPU."""
    try:
        free = require_gpu().free_memory
    except MissingError:
        return None  # a plan for another machine
    return min(free, available_memory())


def require_profiles(source: Source, options: TensorRTOptions, sizes: SizeOptions) -> None:
    """Raise UsageError for impossible profiles, before an export that takes a minute."""
    if isinstance(source, Checkpoint):
        free: Free = (sizes.batch, *sizes.shape) if sizes.shape else (None, None, None)
        multiple = source.architecture.size_multiple
        profiles_for(free, multiple, options.min, options.opt, options.max)


def describe_engine(path: Path, package: Package = TENSORRT) -> dict[str, Any]:
    """What the sidecar says, and what the engine itself says where it can be opened."""
    sidecar = read_sidecar(path)
    facts: dict[str, Any] = {}
    if sidecar:
        sidecar.require_engine(path)
        facts = to_plain(sidecar)
        facts["metadata"].pop("architecture", None)
    try:
        runner = TensorRTRunner(path, package)
    except MissingError as error:
        return {**facts, "runs_here": False, "why_not": str(error)}
    layers = runner.layers
    return {
        **facts,
        "runs_here": True,
        "precision": runner.precision,
        "returns": list(runner.interface.outputs),
        "profiles": [str(profile) for profile in runner.interface.profiles],
        "layers": layers.layers,
        "engine_convolutions": layers.convolutions,
    }


# ---------------------------------------------------------------- for another machine


def instruction_files(out: Path) -> tuple[Path, Path]:
    """The ONNX and the script beside an engine that another machine builds."""
    return out.with_suffix(".onnx"), out.with_name(SCRIPT)


def write_instructions(source: Artifact, options: TensorRTOptions, out: Path) -> Instructions:
    """Write the ONNX and a build script beside ``out``; nothing is built."""
    plan = engine_plan(source, options)
    beside, script = instruction_files(out)
    if not (beside.is_file() and digest_of(beside) == source.digest):
        with replacing(beside) as part:
            shutil.copyfile(source.path, part)
    with replacing(script) as part:
        part.write_text(build_script(plan, beside.name, out.name), encoding="utf-8")
        part.chmod(part.stat().st_mode | EXECUTABLE)
    # The equal command line for TensorRT 10; 11 needs no --stronglyTyped.
    arguments = trtexec_arguments(plan, beside.name, out.name)
    command = ["trtexec", "--stronglyTyped", *arguments]
    facts = {
        "engine": str(out),
        "onnx": str(beside),
        "script": str(script),
        "command": command,
        "plan": plan.to_dict(),
    }
    return Instructions(
        files=(beside, script), facts=facts, lines=tuple(_lines(plan, out, beside, command))
    )


def _lines(plan: EnginePlan, out: Path, onnx: Path, command: list[str]) -> list[str]:
    counts = ", ".join(f"{count} {kind}" for kind, count in plan.facts.convolutions.items())
    fixed = "x".join(str(size) for size in plan.facts.free)
    profiles = plan.profiles or (f"none: the shape is fixed to {fixed}",)
    return [
        f"A plan: nothing was built. {out} would be",
        f"  from       {onnx}  sha256 {plan.onnx_sha256}",
        f"  precision  {plan.label} (convolutions: {counts})",
        *(f"  profile    {profile}" for profile in profiles),
        f"  command    {shlex.join(command)}",
    ]
