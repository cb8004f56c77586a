"""From any source to an engine, or to its plan: ONNX in the precision, lint, build, verify."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scrfdconv.checks.engine import audit
from scrfdconv.checks.onnx_lint import lint, lint_results
from scrfdconv.checks.results import Report
from scrfdconv.checks.verify import Demand, verify
from scrfdconv.converters.artifact import Artifact, digest_of, replacing
from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.errors import CheckFailed, MissingError, UsageError
from scrfdconv.converters.formats import Source, formats, open_artifact
from scrfdconv.converters.formats.onnx.format import OnnxOptions
from scrfdconv.converters.formats.tensorrt.format import engine_plan
from scrfdconv.converters.formats.tensorrt.plan import (
    SCRIPT,
    EnginePlan,
    TensorRTOptions,
    build_script,
    trtexec_arguments,
)
from scrfdconv.converters.formats.tensorrt.profile import Free, profiles_for
from scrfdconv.converters.formats.tensorrt.runner import TensorRTRunner
from scrfdconv.converters.formats.tensorrt.sidecar import read_sidecar
from scrfdconv.converters.graph.model_file import load_onnx
from scrfdconv.converters.graph.number_types import precision_of
from scrfdconv.converters.scratch import scratch_folder
from scrfdconv.recipes.convert import Made, require_another_file
from scrfdconv.recipes.naming import default_output

EXECUTABLE = 0o111


@dataclass(frozen=True)
class EngineRequest:
    """What to make; ``precision`` None is that of the source."""

    precision: str | None = None
    shape: tuple[int, int] | None = None
    batch: int = 1
    opset: int | None = None
    images: tuple[Path, ...] = ()  # for calibration, where the precision is int8
    options: TensorRTOptions = field(default_factory=TensorRTOptions)


@dataclass(frozen=True)
class Planned:
    """What would be built, and the files with which the target machine builds it."""

    plan: EnginePlan
    onnx: Path
    script: Path
    engine: Path
    lint: Report
    verified: Report | None  # of the ONNX; None: not verified, or the source itself

    @property
    def command(self) -> list[str]:
        """The equal command line for TensorRT 10; 11 needs no ``--stronglyTyped``."""
        arguments = trtexec_arguments(self.plan, self.onnx.name, self.engine.name)
        return ["trtexec", "--stronglyTyped", *arguments]


def build_engine(
    source: Source, request: EngineRequest, out: Path, demand: Demand | None
) -> tuple[Made, Report]:
    """Build and verify an engine; also returns the lint of its ONNX.

    ``demand`` None skips the comparison with the source, never the audit of the precision. Raises
    CheckFailed, with the report, for an ONNX that TensorRT will not take and for an engine that is
    not its source or not in its precision; ``out`` is untouched then.
    """
    require_target_here()  # before an export of a minute
    require_another_file(source, out)
    if request.options.strip_plan and demand:
        raise UsageError(
            "--strip-plan leaves the weights out, so nothing can be verified: add --no-verify and "
            "verify after the refit."
        )
    reports: list[Report] = []

    def require(part: Path) -> None:
        report = _measured(source, part, demand)
        reports.append(report)
        if not report.passed:
            raise CheckFailed(f"{out} was not written: {report.summary()}.", report)

    with onnx_for(source, request) as onnx:
        linted = _require_lint(onnx)
        plan = engine_plan(onnx, _options(onnx, request))
        artifact = formats()["tensorrt"].convert(
            onnx, out, plan.options, None if plan.options.strip_plan else require
        )
    verified = reports[0] if reports and demand else None
    parents = tuple(dict.fromkeys((source.digest, *artifact.parents)))
    return Made(replace(artifact, parents=parents), verified), linted


def plan_engine(
    source: Source, request: EngineRequest, out: Path, demand: Demand | None = None
) -> Planned:
    """Write the ONNX and a build script beside ``out``; nothing is built.

    The ONNX is verified by ``demand``: whoever builds from it elsewhere may not have the source.
    """
    with onnx_for(source, request) as onnx:
        linted = _require_lint(onnx)
        plan = engine_plan(onnx, _options(onnx, request))
        beside, script = out.with_suffix(".onnx"), out.with_name(SCRIPT)
        verified = verify(source, onnx.path, demand) if demand and onnx is not source else None
        if verified and not verified.passed:
            raise CheckFailed(f"{beside} was not written: {verified.summary()}.", verified)
        if not (beside.is_file() and digest_of(beside) == onnx.digest):
            with replacing(beside) as part:
                shutil.copyfile(onnx.path, part)
        with replacing(script) as part:
            part.write_text(build_script(plan, beside.name, out.name), encoding="utf-8")
            part.chmod(part.stat().st_mode | EXECUTABLE)
    return Planned(plan, beside, script, out, linted, verified)


def default_engine(source: Source, request: EngineRequest) -> Path:
    """``NAME_shapeHxW_fp16.engine``; a source's own precision is in its name already."""
    own = "fp32"
    if not isinstance(source, Checkpoint) and source.format.startswith("onnx"):
        own = precision_of(load_onnx(source.path))
    precision = request.precision or own
    return default_output(
        source.name,
        formats()["tensorrt"].suffix,
        request.shape,
        "fp32" if precision == own else precision,
    )


def describe_engine(path: Path) -> dict[str, Any]:
    """What the sidecar says, and what the engine itself says where it can be opened."""
    sidecar = read_sidecar(path)
    facts: dict[str, Any] = {}
    if sidecar:
        sidecar.require_engine(path)
        facts = json.loads(sidecar.to_json())
        facts["metadata"].pop("architecture", None)
    try:
        runner = open_artifact(path)
    except MissingError as error:
        return {**facts, "runs_here": False, "why_not": str(error)}
    assert isinstance(runner, TensorRTRunner)
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


def require_target_here() -> None:
    """Raise MissingError unless this machine can build engines; before any work is done."""
    from scrfdconv.converters.formats.tensorrt.api import require_gpu, tensorrt

    reasons = []
    for require in (tensorrt, require_gpu):
        try:
            require()
        except MissingError as error:
            reasons.append(error)
    if len(reasons) == 1:
        raise reasons[0]
    if reasons:
        from scrfdconv.converters.formats.tensorrt.api import PLAN_HINT, why_no_gpu

        raise MissingError(
            f"No engine can be built here: {why_no_gpu()}, and the package tensorrt is not usable. "
            f"Without them, {PLAN_HINT}."
        )


# ---------------------------------------------------------------- the ONNX on the way


@contextmanager
def onnx_for(source: Source, request: EngineRequest) -> Iterator[Artifact]:
    """The ONNX that the engine is built from, in a temporary folder unless it is the source.

    The precision is made by the same recipes as the verbs of that name; they verify nothing here,
    for the engine is compared with the source itself.
    """
    make = _maker(source, request)
    if make is None:
        assert isinstance(source, Artifact)
        yield source
        return
    with scratch_folder() as folder:
        yield make(source, Path(folder, f"{source.name}.onnx"), request)


Maker = Callable[[Source, Path, EngineRequest], Artifact]


def _maker(source: Source, request: EngineRequest) -> Maker | None:
    """What makes the ONNX; None where the source is it. Refuses what cannot be, before any work."""
    if not isinstance(source, Checkpoint) and not source.format.startswith("onnx"):
        raise UsageError(
            f"{source.path}: is {source.format}; engines are built from a checkpoint or ONNX."
        )
    have = "fp32"
    if isinstance(source, Checkpoint):
        _require_profiles(source, request)
    else:
        have = precision_of(load_onnx(source.path))
    wanted = request.precision or have
    if wanted != have != "fp32":
        raise UsageError(
            f"{source.name} is {have} already and cannot become {wanted}: start from a float model."
        )
    if have != "fp32" and (request.shape or request.opset):
        # Simplifying would fold the dequantized weights to float.
        raise UsageError(
            f"{source.name} is {have}: its shape and opset are chosen where it is made from a "
            "float model."
        )
    if wanted == "int8" and have != "int8" and not request.images:
        raise UsageError("--precision int8 needs photographs to calibrate on: --images DIR.")
    if wanted != have:
        return {"fp16": _fp16, "int8": _int8}[wanted]
    same = not (isinstance(source, Checkpoint) or request.shape or request.opset)
    return None if same else _float


def _float(source: Source, path: Path, request: EngineRequest) -> Artifact:
    options = OnnxOptions(request.shape, request.batch, request.opset)
    return formats()["onnx"].convert(source, path, options, None)


def _fp16(source: Source, path: Path, request: EngineRequest) -> Artifact:
    from scrfdconv.recipes.fp16 import Fp16Recipe, fp16

    recipe = Fp16Recipe(request.shape, request.batch, request.opset, images=request.images)
    return fp16(source, path, recipe, None).artifact


def _int8(source: Source, path: Path, request: EngineRequest) -> Artifact:
    from scrfdconv.recipes.int8.int8 import int8
    from scrfdconv.recipes.int8.request import Int8Recipe

    recipe = Int8Recipe(
        request.images, request.shape, request.batch, request.opset, target="tensorrt"
    )
    return int8(source, path, recipe, None).made.artifact


def _require_profiles(source: Checkpoint, request: EngineRequest) -> None:
    """Refuse profiles that cannot be before the export, which takes up to a minute."""
    free: Free = (request.batch, *request.shape) if request.shape else (None, None, None)
    options = request.options
    multiple = source.architecture.size_multiple
    profiles_for(free, multiple, options.min, options.opt, options.max)


def _options(onnx: Artifact, request: EngineRequest) -> TensorRTOptions:
    return replace(request.options, precision=precision_of(load_onnx(onnx.path)))


def _require_lint(onnx: Artifact) -> Report:
    findings = lint(load_onnx(onnx.path))
    remarks = [str(finding) for finding in findings if not finding.fatal]
    report = Report.of(lint_results(findings), remarks)
    if not report.passed:
        raise CheckFailed(f"TensorRT will not take this ONNX: {report.summary()}.", report)
    return report


def _measured(source: Source, part: Path, demand: Demand | None) -> Report:
    if demand is not None:
        return verify(source, part, demand)  # the audit is among its checks
    runner = open_artifact(part)
    assert isinstance(runner, TensorRTRunner)
    return Report.of(audit(runner))
