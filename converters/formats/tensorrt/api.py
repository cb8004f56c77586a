"""What the other modules need of the machine: NVIDIA's package, its one log, and the GPU.

There are two packages with one API: TensorRT, and TensorRT for RTX, which builds without a GPU.

Rules of every module that calls TensorRT:

1. Only names that TensorRT 10.3, 10.16 and 11.4 all have; the exceptions are in ``GUARDED`` and
   are looked up, never written, and in ``RTX_ONLY``. A test compares the code with the three
   lists of names.
2. Enums by symbol, never by number: TensorRT 11 renumbered them.
3. Precision comes from the ONNX alone. TensorRT 11 has no flags for it, and a build that set them
   on 10 and lost them on 11 is how FP32 engines were shipped as FP16.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from scrfdconv.converters.errors import MissingError

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Package:
    """One of the two, and the versions that the code is written for, by lists of names."""

    module: str
    title: str
    extra: str
    majors: tuple[int, ...]
    first: tuple[int, ...]  # the oldest version of them
    supported: str  # the versions in words
    builds_without_gpu: bool = False

    @property
    def is_installed(self) -> bool:
        """True if the module can be found; nothing is loaded."""
        return self.module in sys.modules or importlib.util.find_spec(self.module) is not None


TENSORRT = Package(
    module="tensorrt",
    title="TensorRT",
    extra="tensorrt",
    majors=(10, 11),
    first=(10, 3),
    supported="10.3 and later, and 11",
)
RTX = Package(
    module="tensorrt_rtx",
    title="TensorRT for RTX",
    extra="tensorrt-rtx",
    majors=(1,),
    first=(1, 7),
    supported="1.7 and later",
    builds_without_gpu=True,
)
# Names that one of the versions lacks, with the first one that has them.
GUARDED = {"HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY": "10.16"}
# Names that only TensorRT for RTX has.
RTX_ONLY = (
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
    "tensorrt.ComputeCapability",
)

PLAN_HINT = (
    "`scrfdconv tensorrt ... --plan-only` writes the ONNX and a build script for the target machine"
)
ANY = "any"  # the GPU of an engine that was built without one
DRIVER_FILE = Path("/proc/driver/nvidia/version")  # of NVIDIA's kernel module on Linux
DRIVER_TIMEOUT = 20  # seconds; nvidia-smi takes one or two, and hangs on a broken driver


def tensorrt(package: Package = TENSORRT) -> Any:
    """NVIDIA's module; raises MissingError, with the reason, where it cannot be used."""
    try:
        trt = importlib.import_module(package.module)
    except (ImportError, OSError) as error:  # OSError: the package is there, its libraries are not
        why = "is not installed" if isinstance(error, ModuleNotFoundError) else f"fails: {error}"
        there = f" on a machine with an NVIDIA GPU. Without one, {PLAN_HINT}"
        raise MissingError(
            f"The package {package.module} {why}; pip install 'scrfdconv[{package.extra}]'"
            f"{'' if package.builds_without_gpu else there}."
        ) from error
    version = version_of(trt)
    if not (version[0] in package.majors and version >= package.first):
        raise MissingError(
            f"{package.title} {trt.__version__} is installed; supported are {package.supported}."
        )
    return trt


def version_of(trt: Any) -> tuple[int, ...]:
    """The version of TensorRT as numbers."""
    return version_numbers(trt.__version__)


def version_numbers(version: str) -> tuple[int, ...]:
    """``10.16.1.11`` as (10, 16, 1, 11)."""
    return tuple(int(number) for number in re.findall(r"\d+", version))


def guarded(trt: Any, name: str) -> Any:
    """A name of ``GUARDED``; raises MissingError where this TensorRT lacks it."""
    owner, _, member = name.partition(".")
    value = getattr(getattr(trt, owner), member, None)
    if value is None:
        raise MissingError(
            f"{name} needs TensorRT {GUARDED[name]} or later; this is {trt.__version__}."
        )
    return value


# ---------------------------------------------------------------- the log


def log(package: Package = TENSORRT) -> Any:
    """The log that every Builder and Runtime of this process gets.

    There is one log, because TensorRT keeps the first log and ignores all others.
    """
    return _log_of(tensorrt(package))


def take_errors(package: Package = TENSORRT) -> list[str]:
    """What TensorRT reported as errors since the last call."""
    errors: list[str] = log(package).errors
    taken = list(errors)
    errors.clear()
    return taken


@cache
def _log_of(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]  # the class is known at run time only
        """Keeps errors, passes the rest on to Python's logging."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.ERROR, trt.ILogger.INTERNAL_ERROR):
                self.errors.append(msg)
            else:
                logger.debug("TensorRT: %s", msg)

    return Log()


# ---------------------------------------------------------------- the GPU


@dataclass(frozen=True)
class Gpu:
    """The GPU that engines are built for and run on: torch's current device."""

    name: str
    compute_capability: str  # "8.6"
    driver: str
    free_memory: int  # bytes

    @classmethod
    def any_of(cls, capabilities: tuple[str, ...]) -> Gpu:
        """What an engine that is built without a GPU runs on: see `Sidecar`."""
        return cls(ANY, " ".join(capabilities), "none", 0)


def require_gpu() -> Gpu:
    """The GPU of this process; raises MissingError, with the reason, where there is none."""
    import torch

    if not torch.cuda.is_available():
        raise MissingError(f"{why_no_gpu()}. Without a GPU, {PLAN_HINT}.")
    major, minor = torch.cuda.get_device_capability()
    free, _ = torch.cuda.mem_get_info()
    return Gpu(
        torch.cuda.get_device_name(), f"{major}.{minor}", driver_version() or "unknown", free
    )


def why_no_engine() -> str:
    """Why no engine can be built here, with what can be done instead; "" if it can."""
    reasons = []
    for require in (tensorrt, require_gpu):
        try:
            require()
        except MissingError as error:
            reasons.append(str(error))
    if len(reasons) <= 1:
        return "".join(reasons)
    return (
        f"No engine can be built here: {why_no_gpu()}, and the package tensorrt is not usable. "
        f"Without them, {PLAN_HINT}."
    )


def plainly_missing() -> str:
    """What this machine lacks for an engine, as far as can be told without torch; "" if nothing."""
    if importlib.util.find_spec("tensorrt") is None:
        return f"the package tensorrt is not installed; elsewhere {PLAN_HINT}"
    if driver_version() is None:
        return f"no NVIDIA driver is on this machine; {PLAN_HINT}"
    return ""


def why_no_gpu() -> str:
    """One reason why torch sees no GPU, the nearest cause first."""
    import torch

    driver = driver_version()
    if driver is None:
        return "No NVIDIA driver is on this machine"
    if torch.version.cuda is None:
        return f"The driver {driver} is here, but this torch ({torch.__version__}) has no CUDA"
    return f"The driver {driver} and torch with CUDA are here, but torch finds no GPU"


def driver_version() -> str | None:
    """The version of NVIDIA's driver, or None without one."""
    program = shutil.which("nvidia-smi")
    if program:
        query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
        try:
            answer = subprocess.run(  # noqa: S603 - a fixed command
                query, capture_output=True, text=True, timeout=DRIVER_TIMEOUT, check=True
            )
            return answer.stdout.strip().partition("\n")[0] or None
        except (OSError, subprocess.SubprocessError) as error:
            logger.debug("nvidia-smi: %s", error)
    try:
        match = re.search(r"\s(\d+\.\d+[.\d]*)\s", DRIVER_FILE.read_text())
    except OSError:
        return None
    return match[1] if match else None
