"""What works on this machine: versions, processor, memory, GPU, every format and precision.

States: *blocked* (the reason is given), *available* (everything needed is here), and by ``doctor
--run`` *verified* (converted and compared here and now) or *built* (which this machine cannot run).
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrfdconv.converters.errors import MissingError, ScrfdconvError
from scrfdconv.converters.formats import Format, formats
from scrfdconv.converters.metadata import installed_version
from scrfdconv.converters.precision import precisions
from scrfdconv.converters.system.machine import (
    available_memory,
    cpu_name,
    has_byte_dot_product,
    memory_limit,
    processor_features,
    usable_cores,
)
from scrfdconv.converters.system.scratch import scratch_folder
from scrfdconv.recipes.faces.pictures import synthetic_pictures

if TYPE_CHECKING:
    from scrfdconv.recipes.artifacts.conversion import Made

OTHERS = ("onnxscript", "scipy")  # of the dynamo exporter and of WIDER FACE
PROBE_SHAPE = (64, 64)  # of `--run`: enough for every stride, and quick


@dataclass(frozen=True)
class Capability:
    """One format in one precision, on this machine."""

    format: str
    precision: str
    state: str  # verified, built, available, blocked or failed
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
    """Everything about this machine, as plain types; ``run`` really converts and verifies."""
    return {
        "system": {"platform": platform.platform(), "python": platform.python_version()},
        "packages": {name: installed_version(name) for name in _packages()},
        "cpu": _cpu(),
        "memory": _memory(),
        "gpu": _gpu(),
        "formats": [capability.to_dict() for capability in capabilities(run=run)],
    }


def _packages() -> list[str]:
    """The distributions that formats and precisions are made with."""
    declared: list[Any] = [*formats().values(), *precisions().values()]
    names = (name for one in declared for name in one.libraries)
    return list(dict.fromkeys(["scrfdconv", *names, *OTHERS]))


# ---------------------------------------------------------------- hardware


def _cpu() -> dict[str, Any]:
    import torch

    return {
        "model": cpu_name(),
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "torch_threads": torch.get_num_threads(),
        "features": processor_features(),  # None: the system does not tell
    }


def _memory() -> dict[str, int | None]:
    import psutil

    return {
        "total": psutil.virtual_memory().total,
        "available": available_memory(),
        "limit": memory_limit(),
    }


def _gpu() -> dict[str, Any]:
    """Driver, GPU, TensorRT and its version: which of them are here, and what is missing."""
    import torch

    from scrfdconv.converters.formats.tensorrt.api import (
        RTX,
        driver_version,
        require_gpu,
        tensorrt,
    )

    facts: dict[str, Any] = {
        "driver": driver_version(),
        "torch_cuda": torch.version.cuda,
        "name": None,
        "compute_capability": None,
        "tensorrt": None,
        "parser": None,
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
    with suppress(MissingError):  # what is missing stands beside the format
        facts["parser"] = f"{RTX.title} {tensorrt(RTX).__version__}"
    return facts


# ---------------------------------------------------------------- formats


def capabilities(*, run: bool = False) -> Iterator[Capability]:
    """Every format in every precision that it has, with its state here."""
    for made in formats().values():
        if made.source is None:
            continue
        blocked = made.why_not_built()
        for precision in made.precisions:
            if blocked:
                yield Capability(made.name, precision, "blocked", blocked)
            elif run:
                yield _tried(made, precision)
            else:
                yield Capability(made.name, precision, "available", _remark(made, precision))


def _remark(made: Format, precision: str) -> str:
    remark = made.remark(precision)
    if precision != "int8" or not made.runs_on_cpu or (fast := has_byte_dot_product()):
        return remark
    if fast is None:
        return "this system does not tell whether the processor has an INT8 dot product"
    return "no INT8 dot product (VNNI) on this processor: expect little speed from INT8"


def _tried(made: Format, precision: str) -> Capability:
    """Convert the smallest model, verify it, and delete it."""
    try:
        with scratch_folder() as folder:
            done = _converted(made, precision, folder)
    except ScrfdconvError as error:
        return Capability(made.name, precision, "failed", str(error))
    assert done.report is not None
    state, told = ("built", f"; {done.not_run}") if done.not_run else ("verified", "")
    why = f"{done.report.summary()} here and now{told}"
    return Capability(made.name, precision, state, why)


def _converted(made: Format, precision: str, folder: Path) -> Made:
    from scrfdconv.checks.verification import Demand
    from scrfdconv.converters.checkpoint.loading import load_source
    from scrfdconv.recipes.artifacts.conversion import convert
    from scrfdconv.recipes.artifacts.target import target_of

    needy = precisions()[precision].needs_images
    pictures = synthetic_pictures(folder / "pictures") if needy else ()
    target = target_of(made.name, precision, {"shape": PROBE_SHAPE})
    out = folder / f"probe{made.suffix}"
    return convert(load_source(None), target, out, Demand(weights=False), images=pictures)
