"""An engine from an ONNX model: parse, configure, build, with the timing cache kept between builds.

The rules at the head of ``api.py`` hold here: names that 10.3 to 11.4 all have, symbols
instead of numbers, one strongly typed network whose precision is the ONNX's.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scrfdconv.converters.artifact import replacing
from scrfdconv.converters.errors import (
    ArtifactError,
    InputFileError,
    OutputError,
    ScrfdconvError,
)
from scrfdconv.converters.formats.tensorrt import TensorRTOptions
from scrfdconv.converters.formats.tensorrt.api import (
    TENSORRT,
    Package,
    guarded,
    log,
    require_gpu,
    take_errors,
    tensorrt,
)
from scrfdconv.converters.formats.tensorrt.cancellation import cancellable, monitor_for
from scrfdconv.converters.formats.tensorrt.plan import HARDWARE, EnginePlan
from scrfdconv.converters.formats.tensorrt.profile import nchw

logger = logging.getLogger(__name__)

MIB = 1 << 20
CACHE_LOCK_TIMEOUT = 60  # seconds; held while a file of some MB is read or written
# What can be done about operators that TensorRT's parser refuses.
PARSER_HINTS = {
    "Resize": "export with `--opset 13` or later: in opset 11 a Resize has empty scales, which "
    "TensorRT may misread",
    "InstanceNormalization": "fix the shape with `--shape H W`",
    "QuantizeLinear": "quantize with `scrfdconv int8 --target tensorrt`: symmetric int8 only",
    "DequantizeLinear": "quantize with `scrfdconv int8 --target tensorrt`: symmetric int8 only",
}


def engine_from_onnx(model: bytes, plan: EnginePlan) -> bytes:
    """Build a serialized engine.

    Raises MissingError without TensorRT or GPU, ArtifactError, with all that TensorRT says, where
    it refuses the model, and KeyboardInterrupt after a cancelled build.
    """
    import torch

    tensorrt(plan.package)
    needs_gpu = not plan.package.builds_without_gpu
    if needs_gpu:
        require_gpu()
    device = torch.cuda.current_device() if needs_gpu else None
    cancelled = threading.Event()

    def work() -> bytes:
        if device is not None:
            torch.cuda.set_device(device)  # a new thread starts on device 0
        return _build(model, plan, cancelled)

    return cancellable(work, cancelled)


def _build(model: bytes, plan: EnginePlan, cancelled: threading.Event) -> bytes:
    package, options = plan.package, plan.options
    trt = tensorrt(package)
    parsed = parsed_network(model, package)
    builder, network = parsed.builder, parsed.network
    config = builder.create_builder_config()
    _configure(trt, config, options)
    if plan.capabilities:
        config.num_compute_capabilities = len(plan.capabilities)
        for index, capability in enumerate(plan.capabilities):
            name = f"SM{capability.replace('.', '')}"
            config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    for profile in plan.profiles:
        shapes = builder.create_optimization_profile()
        shapes.set_shape(plan.facts.input, nchw(profile.min), nchw(profile.opt), nchw(profile.max))
        if config.add_optimization_profile(shapes) < 0:
            raise ArtifactError(f"{package.title} refuses the profile {profile}: {_said(package)}.")
    monitor = monitor_for(trt, cancelled)  # kept alive here: the config only borrows it
    config.progress_monitor = monitor
    with _timing_cache(config, options):
        serialized = builder.build_serialized_network(network, config)
        if cancelled.is_set():
            raise KeyboardInterrupt
        if serialized is None:
            raise ArtifactError(f"{package.title} could not build the engine: {_said(package)}.")
    errors = take_errors(package)
    if errors:
        # The build succeeded: one tactic failed, and TensorRT used another one.
        logger.warning("%s reported while it built: %s", package.title, "; ".join(errors))
    return bytes(serialized)


def _said(package: Package) -> str:
    return "; ".join(error.rstrip(".") for error in take_errors(package)) or "it gives no reason"


# ---------------------------------------------------------------- parsing


@dataclass(frozen=True)
class ParsedNetwork:
    """A strongly typed network, and what must live as long as the network."""

    builder: Any
    network: Any
    parser: Any


def parsed_network(model: bytes, package: Package) -> ParsedNetwork:
    """The network that NVIDIA's parser makes of an ONNX; raises ArtifactError where it refuses."""
    trt = tensorrt(package)
    take_errors(package)
    builder = trt.Builder(log(package))
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, log(package))
    # The default since 10; engines for other versions and GPUs need this flag.
    parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)
    if parser.parse(model):
        return ParsedNetwork(builder, network, parser)
    faults = [_fault(parser.get_error(index)) for index in range(parser.num_errors)]
    take = "; ".join(faults) or _said(package)
    raise ArtifactError(f"{package.title} {trt.__version__} does not take this ONNX: {take}.")


def _fault(parser_error: Any) -> str:
    """One parser error: which node, what, and what can be done."""
    operator, name = parser_error.node_operator(), parser_error.node_name()
    where = f"node {parser_error.node()} {name!r} ({operator})" if operator or name else "the model"
    hint = PARSER_HINTS.get(operator)
    return f"{where}: {parser_error.desc().rstrip('.')}" + (f" [{hint}]" if hint else "")


# ---------------------------------------------------------------- options


def _configure(trt: Any, config: Any, options: TensorRTOptions) -> None:
    if options.tf32:
        config.set_flag(trt.BuilderFlag.TF32)
    else:
        config.clear_flag(trt.BuilderFlag.TF32)  # TensorRT's default is on
    # Always detailed: without details, nobody can see which precision the layers got.
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace * MIB)
    if options.level is not None:
        config.builder_optimization_level = options.level
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
    if options.refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    if options.strip_plan:
        config.set_flag(trt.BuilderFlag.STRIP_PLAN)
    if options.hardware != "none":
        config.hardware_compatibility_level = _hardware_level(trt, options.hardware)


def _hardware_level(trt: Any, hardware: str) -> Any:
    if hardware == "ampere+":
        return trt.HardwareCompatibilityLevel.AMPERE_PLUS
    return guarded(trt, f"HardwareCompatibilityLevel.{HARDWARE[hardware][0]}")


# ---------------------------------------------------------------- timing cache


@contextmanager
def _timing_cache(config: Any, options: TensorRTOptions) -> Iterator[None]:
    """Start from the cache file and add to it what the build measured, if there is one.

    The file is locked while it is read and while it is written, not during the build: parallel
    builds do not wait for each other, and the file keeps the measurements of all.
    """
    if options.timing_cache is None:
        yield
        return
    path = options.timing_cache
    with _locked(path):
        cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, False):
        raise InputFileError(
            f"{path}: is no timing cache of this TensorRT and GPU ({_said(TENSORRT)}); use another "
            "file or delete it."
        )
    yield
    measured = config.get_timing_cache()
    with _locked(path):
        if path.is_file():
            others = config.create_timing_cache(path.read_bytes())
            if others is not None and not measured.combine(others, False):
                logger.warning("%s: was written by another GPU meanwhile; replaced", path)
        with replacing(path) as part:
            part.write_bytes(bytes(measured.serialize()))


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    from filelock import FileLock, Timeout

    try:
        with FileLock(path.with_name(f".{path.name}.lock"), timeout=CACHE_LOCK_TIMEOUT):
            yield
    except Timeout as error:
        raise ScrfdconvError(
            f"{path}: another build has held the timing cache for {CACHE_LOCK_TIMEOUT} s."
        ) from error
    except OSError as error:
        raise OutputError(f"{path}: cannot be used ({error.strerror or error}).") from error
