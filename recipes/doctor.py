"""What works on this machine: versions, processor, memory, GPU, every format and precision.

Three states: *blocked* by something that is named, *available* because all that it needs is here,
*verified* because it was converted and compared here and now (``doctor --run``).
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrfdconv.converters.errors import MissingError, ScrfdconvError
from scrfdconv.converters.machine import usable_cores
from scrfdconv.converters.metadata import installed_version
from scrfdconv.converters.scratch import scratch_folder
from scrfdconv.recipes.pictures import synthetic_pictures

if TYPE_CHECKING:
    from scrfdconv.recipes.convert import Made

PACKAGES = (
    "scrfdconv",
    "torch",
    "onnx",
    "onnxruntime",
    "onnxsim",
    "onnxconverter-common",
    "onnxscript",
    "numpy",
    "opencv-python-headless",
    "scipy",
    "tensorrt",
    "polygraphy",
)
OPTIONAL = ("onnxscript", "tensorrt", "polygraphy")
CPU_INFO = Path("/proc/cpuinfo")
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")  # of containers; "max" without a limit
# Flags of /proc/cpuinfo that decide what INT8 and BF16 gain: x86-64 and ARM spell them differently.
FEATURES = {
    "AVX2": ("avx2",),
    "AVX-512": ("avx512f",),
    "VNNI": ("avx512_vnni", "avx_vnni"),
    "DOTPROD": ("asimddp",),
    "BF16": ("avx512_bf16", "amx_bf16", "bf16"),
    "AMX INT8": ("amx_int8",),
    "I8MM": ("i8mm",),
}
PROBE_SHAPE = (64, 64)  # of `--run`: enough for every stride, and quick


@dataclass(frozen=True)
class Capability:
    """One format in one precision, on this machine."""

    format: str
    precision: str
    state: str  # verified, available, blocked or failed
    why: str = ""

    def to_dict(self) -> dict[str, str]:
        """For ``--json``."""
        return {
            "format": self.format,
            "precision": self.precision,
            "state": self.state,
            "why": self.why,
        }


def examine(*, run: bool = False) -> dict[str, Any]:
    """Everything about this machine, as plain types; ``run`` converts and verifies for real."""
    return {
        "system": {"platform": platform.platform(), "python": platform.python_version()},
        "packages": {name: installed_version(name) for name in PACKAGES},
        "cpu": _cpu(),
        "memory": _memory(),
        "gpu": _gpu(),
        "formats": [capability.to_dict() for capability in capabilities(run=run)],
    }


# ---------------------------------------------------------------- hardware


def _cpu() -> dict[str, Any]:
    import torch

    text = CPU_INFO.read_text(errors="replace") if CPU_INFO.is_file() else ""
    lines = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in lines.items()}
    known = set(fields.get("flags", fields.get("Features", "")).split())
    return {
        "model": fields.get("model name") or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "torch_threads": torch.get_num_threads(),
        # None: the system does not tell (only Linux has /proc/cpuinfo)
        "features": {
            name: any(flag in known for flag in flags) if known else None
            for name, flags in FEATURES.items()
        },
    }


def _memory() -> dict[str, int | None]:
    import psutil

    memory = psutil.virtual_memory()
    return {"total": memory.total, "available": memory.available, "limit": _memory_limit()}


def _memory_limit() -> int | None:
    """What a container may use at most, or None."""
    try:
        text = CGROUP_LIMIT.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _gpu() -> dict[str, Any]:
    """Driver, GPU, TensorRT and its version: which of them are here, and what is missing."""
    import torch

    from scrfdconv.converters.formats.tensorrt.api import driver_version, require_gpu, tensorrt

    facts: dict[str, Any] = {
        "driver": driver_version(),
        "torch_cuda": torch.version.cuda,
        "name": None,
        "compute_capability": None,
        "tensorrt": None,
        "trtexec": shutil.which("trtexec"),
        "missing": [],
    }
    try:
        gpu = require_gpu()
        facts |= {"name": gpu.name, "compute_capability": gpu.compute_capability}
        facts["free_memory"] = gpu.free_memory
    except MissingError as error:
        facts["missing"].append(str(error))
    try:
        facts["tensorrt"] = tensorrt().__version__
    except MissingError as error:
        facts["missing"].append(str(error))
    return facts


# ---------------------------------------------------------------- formats


def capabilities(*, run: bool = False) -> Iterator[Capability]:
    """Every format in every precision that there is, with its state here."""
    for name, precision in _matrix():
        blocked = _blocked(name, precision)
        if blocked:
            yield Capability(name, precision, "blocked", blocked)
        elif run:
            yield _tried(name, precision)
        else:
            yield Capability(name, precision, "available", _remark(name, precision))


def _matrix() -> list[tuple[str, str]]:
    """(format, precision); formats that are not installed with this version fall away."""
    from scrfdconv.converters.formats import formats

    found = [("onnx", "fp32"), ("torchscript", "fp32")]
    low = [p for p in ("fp16", "int8") if f"onnx_{p}" in formats()]
    found += [("onnx", precision) for precision in low]
    return [*found, *(("tensorrt", precision) for precision in ("fp32", *low))]


def _blocked(name: str, precision: str) -> str:
    if name == "torchscript":
        return ""
    needs = {"onnx": ("onnx", "onnxsim", "onnxruntime"), "tensorrt": ("onnx", "onnxsim")}[name]
    absent = [package for package in needs if importlib.util.find_spec(package) is None]
    if absent:
        return f"needs {', '.join(absent)}: pip install scrfdconv"
    if name == "tensorrt":
        from scrfdconv.recipes.tensorrt import require_target_here

        try:
            require_target_here()
        except MissingError as error:
            return str(error)
    return ""


def _remark(name: str, precision: str) -> str:
    features = _cpu()["features"]
    if (name, precision) == ("onnx", "int8") and not (features["VNNI"] or features["DOTPROD"]):
        return "no INT8 dot product (VNNI) on this processor: expect little speed from INT8"
    if (name, precision) == ("onnx", "fp16"):
        return "meant for GPUs"
    if name == "torchscript":
        return "torch calls it deprecated; it still runs"
    return ""


def _tried(name: str, precision: str) -> Capability:
    """Convert the smallest model, verify it, and forget it."""
    try:
        with scratch_folder() as folder:
            report = _made(name, precision, folder).report
    except ScrfdconvError as error:
        return Capability(name, precision, "failed", str(error))
    assert report is not None
    return Capability(name, precision, "verified", f"{report.summary()} here and now")


def _made(name: str, precision: str, folder: Path) -> Made:
    from scrfdconv.checks.verify import Demand
    from scrfdconv.converters.checkpoint.loading import load_source
    from scrfdconv.converters.formats import formats
    from scrfdconv.recipes.convert import convert

    source, out, demand = load_source(None), folder / "probe", Demand(weights=False)
    pictures = synthetic_pictures(folder / "pictures") if precision == "int8" else ()
    if name == "tensorrt":
        from scrfdconv.recipes.tensorrt import EngineRequest, build_engine

        request = EngineRequest(precision, PROBE_SHAPE, images=pictures)
        return build_engine(source, request, out, demand)[0]
    if precision == "int8":
        from scrfdconv.recipes.int8.int8 import int8
        from scrfdconv.recipes.int8.request import Int8Recipe

        return int8(source, out, Int8Recipe(pictures, PROBE_SHAPE), demand).made
    if precision == "fp16":
        from scrfdconv.recipes.fp16 import Fp16Recipe, fp16

        return fp16(source, out, Fp16Recipe(PROBE_SHAPE), demand)
    return convert(source, name, out, formats()[name].options(shape=PROBE_SHAPE), demand)
