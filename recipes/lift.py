"""From an ONNX file, released or of our own, back to the checkpoint that it was exported from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from scrfdconv.checks.results import Report
from scrfdconv.checks.verify import Demand, verify
from scrfdconv.converters.artifact import Artifact, digest_of, replacing
from scrfdconv.converters.checkpoint.loading import Checkpoint, load_checkpoint
from scrfdconv.converters.checkpoint.saving import save_checkpoint
from scrfdconv.converters.errors import CheckFailed, UsageError
from scrfdconv.converters.lifting.lift import lift_onnx
from scrfdconv.recipes.convert import Made

LIFTED = "_lifted"  # NAME.pth beside NAME.onnx may be the checkpoint of a training


def default_checkpoint(model: Path) -> Path:
    """``NAME_lifted.pth`` in the working directory."""
    return Path(f"{model.stem}{LIFTED}.pth")


def lifted(source: Artifact) -> Checkpoint:
    """The checkpoint in an ONNX artifact; `fit` says how well it is that model.

    Raises ArtifactError for what is no SCRFD, for INT8 and for what cannot be named.
    """
    return lift_onnx(source.path)


def fit(checkpoint: Checkpoint, model: Path, demand: Demand | None = None) -> Report:
    """How well a lifted checkpoint is the model that it came from: weights at rest, and outputs."""
    return verify(checkpoint, model, demand or Demand())


def lift(model: Path, out: Path, demand: Demand | None) -> Made:
    """Write the checkpoint in the ONNX file ``model`` to ``out``; ``demand`` None: not verified.

    What is verified is the file as written. Raises CheckFailed, with the report, where it is not
    the model; ``out`` is untouched then.
    """
    if out.exists() and out.samefile(model):
        raise UsageError(f"{out}: is the model itself; give another output file.")
    checkpoint = lift_onnx(model)
    report = None
    with replacing(out) as part:
        save_checkpoint(checkpoint, part)
        written = replace(load_checkpoint(part), name=checkpoint.name)
        _require_same(written, checkpoint)
        if demand is not None:
            report = fit(written, model, demand)
            if not report.passed:
                raise CheckFailed(f"{out} was not written: {report.summary()}.", report)
    artifact = Artifact(out, "pytorch", "fp32", digest_of(out), (checkpoint.digest,))
    return Made(artifact, report)


def _require_same(written: Checkpoint, checkpoint: Checkpoint) -> None:
    assert written.architecture == checkpoint.architecture
    assert written.weights_digest == checkpoint.weights_digest
