"""From an ONNX file, released or of our own, back to the checkpoint that it was exported from."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from scrfdconv.checks.results import Report
from scrfdconv.checks.verification import Demand, verify
from scrfdconv.converters.artifact import Artifact, digest_of, replacing, require_distinct
from scrfdconv.converters.checkpoint.loading import Checkpoint, load_checkpoint
from scrfdconv.converters.checkpoint.saving import save_checkpoint
from scrfdconv.converters.errors import ArtifactError, CheckFailed
from scrfdconv.converters.formats import format_of, reference_format
from scrfdconv.converters.graph.model_file import load_onnx
from scrfdconv.converters.lifting.lift import Lifted, lifted_from, with_own_outputs
from scrfdconv.converters.normalization import NOTHING_SAID, NormalizationOptions
from scrfdconv.converters.precision import FLOAT
from scrfdconv.converters.runner import canonical_outputs
from scrfdconv.converters.system.scratch import scratch_folder
from scrfdconv.recipes.artifacts.conversion import Made


def default_checkpoint(model: Path) -> Path:
    """``NAME_lifted.pth`` in the working directory: NAME.pth may come from a training."""
    return Path(f"{model.stem}_lifted.pth")


def lifted(source: Artifact) -> Lifted:
    """The checkpoint in an ONNX artifact; `fit` says how well it is that model.

    Raises ArtifactError for other models than SCRFD, for INT8, and for weights without a name.
    """
    return lifted_from(source.path, source.normalization)


def fit(found: Lifted, model: Path, demand: Demand | None = None) -> Report:
    """How well a lifted checkpoint agrees with its ``model``: weights and outputs."""
    with _with_known_outputs(found, model) as (path, notes):
        report = verify(found.checkpoint, path, demand or Demand())
    return replace(report, notes=(*report.notes, *notes))


def lift(
    model: Path,
    out: Path,
    demand: Demand | None,
    normalization: NormalizationOptions = NOTHING_SAID,
) -> tuple[Made, Checkpoint]:
    """Write the checkpoint in the ONNX file ``model`` to ``out``; ``demand`` None: not verified.

    The written file is verified. Raises CheckFailed, with the report, if the file is not the model;
    ``out`` is untouched then.
    """
    pictures = dict.fromkeys(demand.images if demand else (), "a picture that is read")
    own = dict.fromkeys(format_of(model).files_read(model), "the model itself")
    require_distinct((out,), pictures | own)
    found = lifted_from(model, normalization)
    checkpoint, report = found.checkpoint, None
    with replacing(out) as part:
        save_checkpoint(checkpoint, part)
        written = replace(load_checkpoint(part), name=checkpoint.name)
        assert written.architecture == checkpoint.architecture
        assert written.weights_digest == checkpoint.weights_digest
        if demand is not None:
            report = fit(replace(found, checkpoint=written), model, demand)
            if not report.passed:
                raise CheckFailed(f"{out} was not written: {report.summary()}.", report)
    name = reference_format().name
    artifact = Artifact(
        path=out, format=name, precision=FLOAT, digest=digest_of(out), parents=(checkpoint.digest,)
    )
    return Made(artifact=artifact, report=report), checkpoint


@contextmanager
def _with_known_outputs(found: Lifted, model: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """``model``, or a copy with standard outputs where the model's own would mislead a check."""
    names = [value.name for value in load_onnx(model).graph.output]
    try:
        told = dict(zip(canonical_outputs(names, model), names, strict=True))
    except ArtifactError:
        told = {}
    if list(told.items()) == list(found.outputs.items()) and not found.maps:
        yield model, ()
        return
    with scratch_folder() as folder:
        copy = folder / model.name
        copy.write_bytes(with_own_outputs(found, model).SerializeToString())
        shown = " ".join(found.outputs.values())
        note = f"its outputs were told by what makes them; in our order they are {shown}"
        yield copy, (note,)
