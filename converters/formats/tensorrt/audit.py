"""Does an engine compute in the precision that was asked for? The audit of its convolutions.

A build can give FP32 for FP16 without a word, and every number then agrees with the reference:
only the engine's own account of its layers shows it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from scrfdconv.converters.formats import Finding

if TYPE_CHECKING:
    from scrfdconv.converters.formats.tensorrt.inspect import EngineLayers
    from scrfdconv.converters.formats.tensorrt.runner import TensorRTRunner

CHECK = "engine"
# Of the share that the ONNX has: fusion merges and splits some convolutions, and with them shares.
SLACK = 0.9
# What an engine of a foreign ONNX must reach, where nothing says how many were meant.
FOREIGN_SHARE = 0.5


def audit(runner: TensorRTRunner) -> Iterator[Finding]:
    """Yield the share of convolutions in the engine's precision, against that in its ONNX."""
    meant = runner.sidecar.convolutions if runner.sidecar else {}
    yield from audit_layers(runner.layers, runner.precision, meant)


def audit_layers(
    layers: EngineLayers, precision: str, meant: Mapping[str, int]
) -> Iterator[Finding]:
    """The audit itself; ``meant`` counts the ONNX's convolutions by precision (empty: unknown)."""
    found = layers.convolutions
    total = sum(found.values())
    detail = ", ".join(f"{count} {name}" for name, count in found.items())
    if not layers.detailed:
        detail = "the engine was built without detailed profiling verbosity and says only names"
    elif not total:
        detail = f"none of the engine's {layers.layers} layers is known as a convolution"
    yield _finding("known", total, 1, detail)
    if not total:
        return
    kind = "fp32" if precision == "tf32" else precision  # TF32 is no type of a tensor
    limit = _share(meant, kind) * SLACK if meant else FOREIGN_SHARE
    if kind == "fp32":
        limit = 1.0  # nothing may be computed in less than was asked for
    share = _share(found, kind)
    yield _finding(f"{kind} share", share, limit, detail)


def _finding(metric: str, measured: float, limit: float, detail: str) -> Finding:
    return Finding(
        check=CHECK,
        subject="convolutions",
        metric=metric,
        measured=measured,
        limit=limit,
        at_least=True,
        detail=detail,
    )


def _share(counts: Mapping[str, int], kind: str) -> float:
    return counts.get(kind, 0) / sum(counts.values()) if counts else 0.0
