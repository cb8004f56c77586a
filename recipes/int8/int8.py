"""INT8 from any source: calibrate, search within the accuracy budget, build, verify."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from scrfdconv.checks.faces.coverage import Coverage
from scrfdconv.checks.results import Report
from scrfdconv.checks.verify import Demand
from scrfdconv.converters.formats import Source
from scrfdconv.converters.formats.onnx_int8 import Int8Options
from scrfdconv.recipes.convert import Made, convert
from scrfdconv.recipes.int8.decision import Decided, decide, replay
from scrfdconv.recipes.int8.plan import Plan
from scrfdconv.recipes.int8.request import Int8Recipe, Stage, float_parent, onnx_steps, silent
from scrfdconv.recipes.int8.search import Search
from scrfdconv.recipes.int8.task import Task


@dataclass(frozen=True)
class Int8Made:
    """The artifact, and everything that was measured on the way."""

    made: Made
    options: Int8Options
    coverage: Coverage | None
    search: Search | None
    notes: tuple[str, ...] = ()
    replayed: bool = False

    @property
    def warnings(self) -> tuple[str, ...]:
        """What the calibration pictures lack."""
        return self.coverage.warnings if self.coverage else ()


def int8(
    source: Source,
    out: Path,
    recipe: Int8Recipe,
    demand: Demand | None,
    stage: Stage = silent,
    *,
    parent: Source | None = None,
) -> Int8Made:
    """Build and verify an INT8 artifact at ``out``; ``demand`` None skips the verification.

    ``parent`` is the float ONNX of ``source``, where it is there already.
    Raises CheckFailed, with all rounds in its report, where the accuracy budget cannot be kept.
    """
    start = parent or source
    steps = onnx_steps(start, recipe)
    with float_parent(start, steps) as float_onnx:
        task = Task.of(source, float_onnx, recipe, stage)
        decided = replay(task) or decide(task)
    with stage("building and verifying"):
        images = decided.photographs + (demand.images if demand else ())
        wanted = demand and replace(demand, images=images, weights=False)
        made = convert(
            source, "onnx_int8", out, decided.options, wanted, parent=parent, on_the_way=steps
        )
    _keep(decided, recipe)
    return Int8Made(
        Made(made.artifact, _with_budget(made.report, decided)),
        decided.options,
        decided.coverage,
        decided.search,
        decided.notes,
        decided.replayed,
    )


def _keep(decided: Decided, recipe: Int8Recipe) -> None:
    """Write what is to be used again."""
    if recipe.plan and not decided.replayed:
        Plan(decided.options, decided.budget).save(recipe.plan)
    if recipe.save_calibration:
        decided.options.table.save(recipe.save_calibration)


def _with_budget(report: Report | None, decided: Decided) -> Report | None:
    if report is None:
        return None
    budget = decided.search.results() if decided.search else []
    return Report.of([*report.results, *budget], [*report.notes, *decided.notes])
