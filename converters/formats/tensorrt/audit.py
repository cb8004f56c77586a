"""Does an engine compute in the requested precision? The audit of its convolutions.

A build may use FP32 in place of FP16 without a warning. All outputs then agree with the reference:
only the engine's own list of layers shows the difference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from scrfdconv.converters.formats import Finding

if TYPE_CHECKING:
    from scrfdconv.converters.formats.tensorrt.inspect import EngineLayers
    from scrfdconv.converters.formats.tensorrt.runner import TensorRTRunner

CHECK = "engine"
# Relative to the ONNX's share: fusion merges and splits some convolutions, which changes shares.
SLACK = 0.9
# The share that an engine without a sidecar must reach: its intended share is unknown.
FOREIGN_SHARE = 0.5


def audit_engine(runner: TensorRTRunner) -> Iterator[Finding]:
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
        detail = "the engine was built without detailed profiling verbosity: layers have only names"
    elif not total:
        detail = f"none of the engine's {layers.layers} layers is known as a convolution"
    yield _finding("known", total, 1, detail)
    if not total:
        return
    kind = "fp32" if precision == "tf32" else precision  # TF32 is no type of a tensor
    limit = _share(meant, kind) * SLACK if meant else FOREIGN_SHARE
    if kind == "fp32":
        limit = 1.0  # no convolution may be less precise than requested
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
