"""INT8: calibrate, search within the accuracy budget, and time the result."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.formats import formats
from scrfdconv.recipes.int8.conversion import Int8Conversion
from scrfdconv.recipes.int8.decision import Decided, calibrate_and_search, replay
from scrfdconv.recipes.int8.plan import Int8Plan
from scrfdconv.recipes.int8.speed import measured_speed
from scrfdconv.recipes.order import Order, Settled


def settle_int8(order: Order) -> Settled:
    """The settings of an existing plan, or the result of measuring and searching.

    Raises CheckFailed, with all rounds in its report, where the accuracy budget cannot be kept.
    """
    conversion = Int8Conversion.of(order)
    decided = replay(conversion) or calibrate_and_search(conversion)
    demand = order.demand
    if demand:
        # Of the pictures used for measuring, verification gets only the chosen ones.
        others = tuple(path for path in demand.images if path not in order.images)
        demand = replace(demand, images=decided.photographs + others, weights=False)

    def keep() -> None:
        _keep(decided, conversion)

    def timed(artifact: Artifact) -> tuple[Mapping[str, Any], tuple[str, ...]]:
        return _timed(artifact, conversion)

    return Settled(
        settings=decided.options,
        demand=demand,
        results=tuple(decided.search.results() if decided.search else ()),
        notes=decided.notes,
        warnings=decided.coverage.warnings if decided.coverage else (),
        facts=_facts(decided, conversion),
        lines=(decided.coverage.sentence(),) if decided.coverage else (),
        timing=timed if order.demand else None,
        keep=keep,
    )


def _facts(decided: Decided, conversion: Int8Conversion) -> dict[str, Any]:
    coverage = decided.coverage
    return {
        "calibrator": decided.options.table.calibrator,
        "target": conversion.arrangement,
        "coverage": coverage.to_dict() if coverage else None,
        "rounds": [one.to_dict() for one in decided.search.rounds] if decided.search else [],
        "replayed": decided.replayed,
        "speed": None,
        "warnings": list(coverage.warnings if coverage else ()),
        "notes": list(decided.notes),
    }


def _keep(decided: Decided, conversion: Int8Conversion) -> None:
    """Write the files for later use."""
    options = conversion.options
    if options.plan and not decided.replayed:
        Int8Plan(decided.options, decided.budget).save(options.plan)
    if options.save_calibration:
        decided.options.table.save(options.save_calibration)


def _timed(
    artifact: Artifact, conversion: Int8Conversion
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The time of the artifact beside that of the float graph, where this machine runs it."""
    maker = formats()[artifact.format]
    if not maker.runs_on_cpu or conversion.arrangement != maker.int8_target:
        return {}, ()
    with conversion.stage("timing"):
        speed = measured_speed(conversion.parent, artifact.path, conversion.size)
    return {"speed": speed.to_dict()}, tuple(speed.lines())
