"""One conversion: from a source to an artifact that was verified before it got its name.

Every verb that makes an artifact and every step of a build takes this path: the float graph, the
precision, the format, each built from the one before, and the last one compared with the source.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from scrfdconv.checks.batches import batch_results
from scrfdconv.checks.results import CheckResult, Report
from scrfdconv.checks.verification import Demand, verify, verify_simplified
from scrfdconv.converters.artifact import Artifact, require_distinct
from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.errors import ArtifactError, CheckFailed, MissingError, UsageError
from scrfdconv.converters.formats import (
    Format,
    Instructions,
    Source,
    files_read,
    open_artifact,
    require_other_files,
)
from scrfdconv.converters.graph.interface.kinds import output_kind
from scrfdconv.converters.input_form import PLAIN
from scrfdconv.converters.metadata import own_metadata
from scrfdconv.converters.normalization import STANDARD
from scrfdconv.converters.precision import FLOAT
from scrfdconv.converters.system.scratch import scratch_folder
from scrfdconv.recipes.artifacts.precision import account_of, settle
from scrfdconv.recipes.artifacts.target import Target
from scrfdconv.recipes.order import Order, Settled, Stage, silent


@dataclass(frozen=True, kw_only=True)
class Made:
    """An artifact and the proof that it is the model it came from (None: not verified)."""

    artifact: Artifact
    report: Report | None
    facts: Mapping[str, Any] = field(default_factory=dict)  # further measurements, for --json
    lines: tuple[str, ...] = ()  # the further measurements, for people
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()  # part of the report, where one exists
    remarks: tuple[str, ...] = ()  # facts that users of such artifacts should know
    not_run: str = ""  # why no output was compared: this machine builds the format, no more


@dataclass(frozen=True, kw_only=True)
class Planned:
    """What another machine needs to build an artifact that cannot be built here."""

    instructions: Instructions
    lint: Report
    verified: Report | None  # report of the graph; None: not verified, or the graph is the source


def convert(
    source: Source,
    target: Target,
    out: Path,
    demand: Demand | None,
    *,
    images: tuple[Path, ...] = (),
    parent: Source | None = None,
    timed: bool = False,
    stage: Stage = silent,
) -> Made:
    """Build ``out`` as ``target`` says; ``demand`` None skips the verification.

    ``images`` are photographs to measure ranges on; ``parent`` is the float graph of ``source``
    with the target's shape, or the dynamic one, where it was made before. The finished artifact is
    verified against the source itself; ``timed`` also times a verified INT8 file beside its float
    graph. Raises CheckFailed, with the report, if the artifact is not its source; ``out`` is
    untouched then.
    """
    target = target_in_full(target, source)
    maker = target.maker
    require_possible(source, target, demand)
    require_other_files(maker, out, source)
    with _way_from(source, target, images=images, demand=demand, stage=stage) as way:
        start, options, settled = way.last_step(parent)
        linted = _require_lint(maker, start)
        verified = _Verification(source, target, out, settled.demand, start)
        with stage(f"building {out.name}"):
            if start.format != maker.name and isinstance(start, Artifact):
                options = maker.settled_options(start, options)
            artifact = maker.convert(
                start, out, options, verified.require, target.precision or FLOAT
            )
        settled.keep()
        more, told = settled.timing(artifact) if timed and settled.timing else ({}, ())
    artifact = replace(artifact, parents=_parents(source, artifact))
    report = verified.report if demand else None
    facts, lines = account_of(artifact, linted)
    return Made(
        artifact=artifact,
        report=_with_more(report, settled, linted),
        facts={**settled.facts, **facts, **more},
        lines=(*settled.lines, *lines, *told),
        warnings=settled.warnings,
        notes=(*settled.notes, *linted.notes),
        remarks=tuple(_remarks(source, maker, artifact)),
        not_run=maker.why_not_run() if demand else "",
    )


def _remarks(source: Source, maker: Format, made: Artifact) -> Iterator[str]:
    if remark := maker.remark_made(made.path, made.precision):
        yield remark
    wanted = source.architecture.normalization if isinstance(source, Checkpoint) else STANDARD
    if wanted != STANDARD and not maker.keeps_metadata:
        yield (
            f"pictures for it are {wanted}, and {maker.title} files cannot say so: programs need "
            "it, and other verbs --mean, --std and --color"
        )


def plan_only(
    source: Source,
    target: Target,
    out: Path,
    demand: Demand | None,
    *,
    images: tuple[Path, ...] = (),
    stage: Stage = silent,
) -> Planned:
    """Write what another machine needs to build ``out``; nothing is built.

    The graph is verified by ``demand``, because the other machine may not have the source.
    """
    target = target_in_full(target, source)
    maker = target.maker
    maker.require_possible(source, target.of(maker.options), target.sizes)
    with _way_from(source, target, images=images, demand=demand, stage=stage) as way:
        start, options, _ = way.last_step()
        if start is not source:  # otherwise the source is this graph and stays unchanged
            require_distinct(maker.instruction_files(out), files_read(source))
        linted = _require_lint(maker, start)
        assert isinstance(start, Artifact)
        verified = _verified_graph(source, start, demand)
        if verified and not verified.passed:
            graph = out.with_suffix(start.path.suffix)
            raise CheckFailed(f"{graph} was not written: {verified.summary()}.", verified)
        instructions = maker.instructions(start, options, out)
    if instructions is None:
        raise UsageError(f"{maker.title} has no plan for another machine.")
    return Planned(instructions=instructions, lint=linted, verified=verified)


def _verified_graph(source: Source, start: Artifact, demand: Demand | None) -> Report | None:
    """The proof of a graph for another machine; of the source itself, only of its batches."""
    if demand is None:
        return None
    if start is not source:
        return verify(source, start.path, demand)
    alone = Report.of(batch_results(open_artifact(start.path), demand.loosen))
    return alone if alone.failures else None


def require_possible(source: Source, target: Target, demand: Demand | None) -> None:
    """Raise the error of an impossible target early, before minutes of work."""
    maker = target.maker
    if missing := maker.why_not_built():
        raise MissingError(missing)
    options: Any = target.of(maker.options)
    why = maker.why_not_verified(options)
    if why and demand:
        raise UsageError(why)
    maker.require_possible(source, options, target.sizes)
    _require_end(source, target)


def _ends_with_faces(source: Artifact) -> bool:
    from scrfdconv.converters.graph.model_file import load_onnx, metadata_of

    return output_kind(own_metadata(metadata_of(load_onnx(source.path)))) == "faces"


def _require_end(source: Source, target: Target) -> None:
    """Refuse outputs and pictures that files of the format cannot have."""
    maker = target.maker
    graph = maker.chain()[0]
    wanted: Any = target.of(graph.options)
    if graph is not maker and graph.from_itself:
        graph.require_possible(source, wanted, target.sizes)
    _require_input(source, maker, graph, wanted)
    if not maker.why_no_faces:
        return
    where = ""
    if isinstance(source, Artifact) and source.format == graph.name:
        where = f"{source.path}: ends with faces" if _ends_with_faces(source) else ""
    if getattr(wanted, "outputs", None) not in (None, "faces"):
        where = ""  # the graph is lifted, and made anew
    if getattr(wanted, "outputs", None) == "faces":
        where = "--outputs faces"
    if where:
        raise UsageError(f"{where}: {maker.why_no_faces}; give --outputs raw.")


def _require_input(source: Source, maker: Format, graph: Format, wanted: Any) -> None:
    """Refuse bytes, NHWC and other orders of channels for formats that take none of them."""
    if not maker.why_no_input_forms:
        return
    where = "--input, --layout and --input-color"
    asked = getattr(wanted, "asks_for_input", False)
    if isinstance(source, Artifact) and source.format == graph.name and not asked:
        where, asked = str(source.path), _prepares_pictures(source)
    if asked:
        raise UsageError(
            f"{where}: {maker.title} gets normalised float pictures in NCHW: "
            f"{maker.why_no_input_forms}; start from a checkpoint, without these options."
        )


def _prepares_pictures(source: Artifact) -> bool:
    from scrfdconv.converters.graph.interface.forms import form_of
    from scrfdconv.converters.graph.model_file import load_onnx

    return form_of(load_onnx(source.path)) != PLAIN


# ---------------------------------------------------------------- what is on the way


def target_in_full(target: Target, source: Source) -> Target:
    """``target`` with a precision; raises UsageError where the source cannot become it."""
    maker = target.maker
    graph = maker.chain()[0]
    if isinstance(source, Checkpoint):
        return replace(target, precision=target.precision or FLOAT)
    kind = "a float " if graph is maker and target.precision not in (None, FLOAT) else ""
    if graph is maker and not graph.from_itself:
        raise UsageError(f"{maker.name} is built from {maker.source}, not from {source.format}.")
    if source.format != graph.name:
        raise UsageError(
            f"{source.path}: is {source.format}; {maker.title} is built from a checkpoint"
            f" or {kind}{graph.title}."
        )
    have = graph.precision_of(source.path)
    wanted = target.precision or have
    if have == FLOAT or (graph is maker and target.precision is None):
        return replace(target, precision=wanted)
    if graph is maker:
        raise ArtifactError(
            f"{source.path}: is {have} already, at least in part; convert from the float32 model."
        )
    if wanted != have:
        raise UsageError(
            f"{source.name} is {have} already and cannot become {wanted}: start from a float model."
        )
    if not _is_ready(source, graph, target):
        # Simplifying would fold the dequantized weights to float.
        raise UsageError(
            f"{source.name} is {have}: its shape and opset are chosen where it is made from a "
            "float model."
        )
    return replace(target, precision=wanted)


def _is_ready(source: Source, graph: Format, target: Target) -> bool:
    """True if ``source`` is the graph that is wanted, as it is."""
    return source.format == graph.name and target.of(graph.options) == graph.options()


@contextmanager
def _way_from(source: Source, target: Target, **settings: Any) -> Iterator[_Way]:
    """The way from ``source``, with a folder that is removed afterwards."""
    with scratch_folder() as folder:
        yield _Way(source=source, target=target, folder=Path(folder), **settings)


@dataclass(frozen=True, kw_only=True)
class _Way:
    """Builds in ``folder`` the files between a source and the last step."""

    source: Source
    target: Target
    folder: Path
    images: tuple[Path, ...]
    demand: Demand | None
    stage: Stage

    def last_step(self, parent: Source | None = None) -> tuple[Source, Any, Settled]:
        """The source and the options of the last step, and the settled settings."""
        maker, start = self.target.maker, parent or self.source
        graph, wanted = maker.chain()[0], self.target.precision or FLOAT
        if wanted in maker.native_precisions:
            wanted = FLOAT
        have = graph.precision_of(start.path) if isinstance(start, Artifact) else FLOAT
        last: Any = self.target.of(maker.options)
        unsettled = Settled(demand=self.demand)
        if have != FLOAT or (graph is maker and wanted == FLOAT):
            return start, last, unsettled
        if not (parent or _is_ready(start, graph, self.target)):
            start = self._built(graph, start, self.target.of(graph.options), FLOAT)
        if wanted == FLOAT:
            return start, last, unsettled
        settled = self._settled(start, wanted)
        if graph is maker:
            return start, settled.settings, settled
        return self._built(graph, start, settled.settings, wanted), last, settled

    def _settled(self, parent: Source, precision: str) -> Settled:
        assert isinstance(parent, Artifact)
        order = Order(
            source=self.source,
            parent=parent,
            target=self.target,
            precision=precision,
            images=self.images,
            demand=self.demand,
            stage=self.stage,
        )
        return settle(order)

    def _built(self, one: Format, start: Source, options: Any, precision: str) -> Artifact:
        path = self.folder / f"{self.source.name}_{precision}{one.suffix}"
        with self.stage(f"making the {one.title} of {self.source.name} in {precision}"):
            return one.convert(start, path, options, None, precision)


# ---------------------------------------------------------------- what is proven


class _Verification:
    """Compares the artifact with the source, and keeps the report."""

    def __init__(
        self, source: Source, target: Target, out: Path, demand: Demand | None, start: Source
    ) -> None:
        self._source, self._target, self._out, self._demand = source, target, out, demand
        self._start = start  # what the artifact itself is built from
        self.report: Report | None = None

    def require(self, part: Path) -> None:
        """Raise CheckFailed unless ``part`` is the source."""
        self.report = self._measured(part)
        if self.report and not self.report.passed:
            raise CheckFailed(f"{self._out} was not written: {self.report.summary()}.", self.report)

    def _measured(self, part: Path) -> Report | None:
        maker = self._target.maker
        if self._demand is None:
            return _own_findings(maker, part, self._target)
        if (why := maker.why_not_run()) and isinstance(self._start, Artifact):
            graph = _verified_graph(self._source, self._start, self._demand)
            found = maker.findings_unrun(part, self._start, self._target.of(maker.options))
            results = [*(graph.results if graph else ()), *map(CheckResult.of, found)]
            return Report.of(results, [f"no output of the artifact was compared: {why}"])
        source = self._source
        if isinstance(source, Artifact) and source.format == maker.name:
            have = maker.precision_of(source.path)
            if self._target.precision == have:
                return verify_simplified(source.path, part, self._demand)
        return verify(source, part, self._demand)


def _own_findings(maker: Format, part: Path, target: Target) -> Report | None:
    """A format's measurements of its own file, which need no comparison."""
    if maker.why_not_verified(target.of(maker.options)) or maker.why_not_run():
        return None
    found = [CheckResult.of(one) for one in maker.findings(maker.open(part))]
    return Report.of(found) if found else None


def _require_lint(maker: Format, start: Source) -> Report:
    if not isinstance(start, Artifact):
        return Report.of(())
    found = maker.lint(start)
    report = Report.of(map(CheckResult.of, found.findings), found.remarks)
    if report.failures:
        raise CheckFailed(f"{maker.title} will not take this ONNX: {report.summary()}.", report)
    return report


def _with_more(report: Report | None, settled: Settled, linted: Report) -> Report | None:
    if report is None:
        return None
    notes = [*report.notes, *settled.notes, *linted.notes]
    return Report.of([*report.results, *settled.results], notes)


def _parents(source: Source, artifact: Artifact) -> tuple[str, ...]:
    """Digests of the source, and of the graph that the artifact was built from."""
    return tuple(dict.fromkeys((source.digest, *artifact.parents)))
