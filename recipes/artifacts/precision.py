"""How a float graph gets a reduced precision: settings from options and photographs."""

from __future__ import annotations

from typing import Any

from scrfdconv.checks.precision import audit
from scrfdconv.checks.results import Report
from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.formats import formats
from scrfdconv.converters.metadata import own_metadata
from scrfdconv.recipes.order import Order, Settled

_NAMED = 3  # nodes that a line names before it counts the rest


def settle(order: Order) -> Settled:
    """Find the settings of the precision for this graph and these photographs."""
    if order.precision == "int8":  # each without the modules of the other
        from scrfdconv.recipes.int8.int8 import settle_int8

        return settle_int8(order)
    from scrfdconv.recipes.artifacts.fp16 import settle_fp16

    return settle_fp16(order)


def account_of(artifact: Artifact, lint: Report) -> tuple[dict[str, Any], list[str]]:
    """Facts about an artifact besides its report: types, float nodes, other files, lint."""
    maker = formats()[artifact.format]
    facts, lines = maker.facts_made(artifact.path), list[str]()
    if artifact.companions:
        facts["files"] = [str(path) for path in artifact.files]
    if lint.results:
        facts["lint"] = lint.to_dict()
    if maker.from_itself and artifact.precision != "fp32":
        counted = audit(artifact.path)
        kept = kept_nodes(artifact)
        facts |= {"kept_float": kept, "audit": counted.to_dict()}
        lines.append(counted.sentence())
        lines += [_kept_line(reason, nodes) for reason, nodes in kept.items()]
    return facts, lines


def kept_nodes(artifact: Artifact) -> dict[str, list[str]]:
    """The nodes that stayed float32 in an artifact of this package, by reason."""
    from scrfdconv.converters.graph.kept_float import kept_float
    from scrfdconv.converters.graph.model_file import load_onnx, metadata_of

    return kept_float(own_metadata(metadata_of(load_onnx(artifact.path))))


def _kept_line(reason: str, nodes: list[str]) -> str:
    named = ", ".join(nodes[:_NAMED]) + (" ..." if len(nodes) > _NAMED else "")
    return f"kept in float32: {len(nodes)} x {reason}: {named}"
