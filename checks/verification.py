"""Verify an artifact against what it came from: every check that applies, in one report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from scrfdconv.checks.arithmetic import notes_on_twin
from scrfdconv.checks.batches import batch_results
from scrfdconv.checks.faces.compare import FacesComparison, model_input
from scrfdconv.checks.faces.in_graph import in_graph_results
from scrfdconv.checks.functions import compare_functions
from scrfdconv.checks.parity import CHECK as PARITY
from scrfdconv.checks.parity import (
    Observe,
    Sample,
    agree_on_pictures,
    common_normalization,
    common_shapes,
    compare,
    require_memory,
    samples_for,
    strong_samples,
)
from scrfdconv.checks.precision import audit as audit_onnx
from scrfdconv.checks.preparation import PreparationComparison
from scrfdconv.checks.results import CheckResult, Report
from scrfdconv.checks.tolerances import bias_limits_for, growth_of_one_sum, limits_for
from scrfdconv.checks.weights import compare_weights
from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.formats import Source, format_of, open_artifact
from scrfdconv.converters.formats.pytorch.runner import EagerRunner
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.metadata import architecture_from_metadata
from scrfdconv.converters.network.complexity import complexity
from scrfdconv.converters.network.preprocessing import METADATA, form_in
from scrfdconv.converters.precision import FLOAT
from scrfdconv.converters.runner import Outputs, Runner
from scrfdconv.converters.system.permissions import allowing_host_code


@dataclass(frozen=True)
class Demand:
    """On which pictures to verify besides the seeded ones, and how strictly."""

    images: tuple[Path, ...] = ()
    loosen: float = 1.0  # a factor on the limits, recorded in the report
    # Compare stored weights, too. A conversion leaves this out: its graph is the export itself.
    weights: bool = True
    observe: Observe | None = None  # sees the outputs of both models on every sample


def verify(reference: Source, path: Path, demand: Demand | None = None) -> Report:
    """Compare the artifact at ``path`` with ``reference`` by every check that applies.

    Raises ArtifactError where a file is no SCRFD, MissingError where memory does not suffice.
    """
    demand = demand or Demand()
    want, got = runner_of(reference), open_artifact(path)
    a = reference.architecture if isinstance(reference, Checkpoint) else None
    a = a or architecture_from_metadata(got.metadata)
    shapes = common_shapes(want.interface, got.interface)
    if a:
        require_memory(complexity(a).live_bytes_per_pixel, shapes)
    results = compare_opened(want, got, demand, _judged_by(got))
    results += batch_results(got, demand.loosen)
    results += _size_claimed(got)
    results += _normalization_claimed(want, got)
    results += map(CheckResult.of, format_of(path).findings(got))
    results += in_graph_results(got, demand.images)
    notes = _notes(reference, demand)
    if (growth := _growth(want, got, _judged_by(got))) > 1:
        notes.append(
            f"limits are {growth:.3g} times as wide: ONNX Runtime's InstanceNormalization adds "
            "whole maps up in one float32 sum, whose error grows with the size"
        )
    if isinstance(got, OnnxRunner) and _says_reduced(got):
        audit = audit_onnx(got.path)
        results += audit.results()
        notes += audit.remarks()
    if demand.weights and isinstance(reference, Checkpoint):
        at_rest = compare_weights(reference, path, got.precision, form_in(got.metadata))
        if at_rest.differ and not at_rest.singly and _same_function(want, got, results):
            notes.append(at_rest.remark())
        else:
            results += at_rest.results()
    if shapes:
        notes += notes_on_twin(got, demand.images, shapes[0][1:])
    return Report.of(results, notes)


def verify_simplified(source: Path, path: Path, demand: Demand | None = None) -> Report:
    """Compare a simplified model with the one it came from, whatever it takes and returns."""
    demand = demand or Demand()
    try:
        want, got = OnnxRunner(source), OnnxRunner(path)
    except ArtifactError:  # no SCRFD
        report = compare_functions(source, path, demand.images, demand.loosen)
        return Report.of(report.results, [*report.notes, *_loosened(demand)])
    results = compare_opened(want, got, demand, "fp32")
    results += batch_results(got, demand.loosen)
    results += in_graph_results(got, demand.images)
    return Report.of(results, _loosened(demand))


def compare_opened(
    want: Runner, got: Runner, demand: Demand, precision: str | Mapping[str, str]
) -> list[CheckResult]:
    """Compare outputs, and on photographs faces: each model runs once on each picture.

    ``precision`` selects the limits for ``got``: one for all outputs, or one for each. Where
    outputs differ, faces are judged by the coarsest one. Raises InputFileError for a file that is
    no photograph.
    """
    agree_on_pictures(want, got)
    faces = FacesComparison(precision if isinstance(precision, str) else got.precision)
    preparation = PreparationComparison(want) if _hides_in_noise(precision, demand) else None

    def observe(sample: Sample, wanted: Outputs, gotten: Outputs) -> None:
        if sample.path:
            height, width = sample.images.shape[2:]
            faces.add(sample.name, (height, width), wanted, gotten)
        if preparation:
            preparation.add(sample.images, wanted, gotten)
        if demand.observe:
            demand.observe(sample, wanted, gotten)

    samples = _samples(want, got, demand)
    loosen = demand.loosen * _growth(want, got, precision)
    results = compare(want, got, samples, precision=precision, loosen=loosen, observe=observe)
    more = preparation.results(loosen) if preparation else ()
    return [*results, *faces.results(), *more]


def _hides_in_noise(precision: str | Mapping[str, str], demand: Demand) -> bool:
    """True for INT8 that no photographs judge: faces show what limits on noise do not."""
    judged = {precision} if isinstance(precision, str) else set(precision.values())
    return "int8" in judged and not demand.images


def _growth(want: Runner, got: Runner, precision: str | Mapping[str, str]) -> float:
    """The factor on limits for a float model whose norms round more the larger a picture is."""
    judged = {precision} if isinstance(precision, str) else set(precision.values())
    shapes = common_shapes(want.interface, got.interface)
    growth = growth_of_one_sum(max((height * width for _, height, width in shapes), default=0))
    if growth == 1 or judged != {FLOAT}:  # asked first: norms are read from the files
        return 1.0
    return 1.0 if want.one_long_sum == got.one_long_sum else growth


def runner_of(source: Source) -> Runner:
    """Open the source of a conversion."""
    if isinstance(source, Checkpoint):
        return EagerRunner(source)
    with allowing_host_code(allowed=source.host_code):
        runner = open_artifact(source.path)
    runner.state(source.normalization, str(source.path))
    return runner


def _samples(want: Runner, got: Runner, demand: Demand) -> Iterator[Sample]:
    """The seeded pictures, then one photograph after the other: no two are in memory at once."""
    yield from samples_for(want.interface, got.interface)
    shapes = common_shapes(want.interface, got.interface)
    batch = want.interface.batch or got.interface.batch or 1
    normalization = common_normalization(want.interface, got.interface)
    for path in demand.images if shapes else ():
        image = model_input(path, shapes[0][1:], normalization)
        yield Sample(path.name, np.repeat(image[None], batch, axis=0), path)


def _size_claimed(got: Runner) -> Iterator[CheckResult]:
    """Fail a file whose metadata name another fixed size than it takes: users rely on it."""
    interface, said = got.interface, got.metadata
    shape = "x".join(map(str, interface.shape or ()))
    for key, real in (("shape", shape), ("batch", str(interface.batch or ""))):
        claim = said.get(key, "dynamic")
        if claim not in ("dynamic", real):
            detail = f"its metadata say {claim}, it takes {real or 'any'}"
            yield CheckResult(
                check="metadata", subject=key, metric="faults", measured=1, limit=0, detail=detail
            )


def _normalization_claimed(want: Runner, got: Runner) -> Iterator[CheckResult]:
    """Fail a file that wants its pictures prepared in another way than its reference."""
    wanted, claim = want.interface.stated, got.interface.stated
    if wanted and claim and claim != wanted:
        detail = f"its metadata say {claim}, the reference says {wanted}"
        yield CheckResult(
            check="metadata", subject=METADATA, metric="faults", measured=1, limit=0, detail=detail
        )


def _says_reduced(got: Runner) -> bool:
    """True if the graph or its metadata mention FP16 or INT8: then multiply-adds are counted."""
    return {got.precision, got.metadata.get("precision", "fp32")} != {"fp32"}


def _judged_by(got: Runner) -> dict[str, str]:
    """The precision of each output."""
    return {name: got.precision_of(name) for name in got.interface.outputs}


def _same_function(want: Runner, got: Runner, results: Sequence[CheckResult]) -> bool:
    """True if outputs agree to float accuracy on every sample, and on strong pictures, too.

    Equal functions can have other weights: channels in another order, say. Strong pictures activate
    channels that other pictures do not.
    """
    return _at_float_accuracy(results) and _at_float_accuracy(
        [*compare(want, got, strong_samples(want.interface, got.interface))]
    )


def _at_float_accuracy(results: Sequence[CheckResult]) -> bool:
    parity = [r for r in results if r.check == PARITY]
    return bool(parity) and all(
        r.passed and replace(r, limit=_float_limit(r)).passed for r in parity
    )


def _float_limit(result: CheckResult) -> float:
    for limits in (limits_for("fp32", result.subject), bias_limits_for("fp32", result.subject)):
        if hasattr(limits, result.metric):
            return float(getattr(limits, result.metric))
    return result.limit


def _notes(reference: Source, demand: Demand) -> list[str]:
    notes = []
    if isinstance(reference, Checkpoint) and reference.seeded:
        notes.append("the weights are seeded, not trained: this model detects no faces")
    notes += _loosened(demand)
    if not demand.images:
        notes.append("no photographs were given (--images): nothing is said about faces")
    return notes


def _loosened(demand: Demand) -> list[str]:
    if demand.loosen == 1:
        return []
    return [f"limits were loosened {demand.loosen:g} times on request"]
