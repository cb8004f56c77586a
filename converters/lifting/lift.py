"""From an ONNX graph alone to the checkpoint that it was exported from.

What a file cannot say is chosen so that nothing changes: a BatchNorm that was folded comes back
as one that folds to exactly the same convolution, a factor that was multiplied into the boxes'
convolution as the factor 1.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scrfdconv.converters.artifact import digest_of, require_kind
from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.checkpoint.recognise import parameter_shapes
from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.graph.model_file import load_onnx
from scrfdconv.converters.graph.number_types import precision_of
from scrfdconv.converters.lifting.architecture import architecture_of
from scrfdconv.converters.lifting.backbone import Walk, backbone
from scrfdconv.converters.lifting.graph import Graph
from scrfdconv.converters.lifting.heads import head, neck
from scrfdconv.converters.lifting.weights import weights_of
from scrfdconv.converters.metadata import PREFIX


def lift_onnx(path: Path) -> Checkpoint:
    """The checkpoint that the ONNX file at ``path`` holds, from its graph alone.

    Takes exports of upstream, of this package and of simplifiers, fixed or dynamic, in float32
    or FP16. Raises ArtifactError, with the node, for what is no SCRFD and for INT8 models.
    """
    require_kind(path, "onnx")
    model = load_onnx(path)
    if precision_of(model) == "int8":
        raise ArtifactError(
            f"{path}: is INT8, and weights of 8 bits give no checkpoint back; lift the float model "
            "that it was made from."
        )
    walk = Walk.through(Graph(model, str(path)))
    body = backbone(walk)
    pyramid = neck(walk, body.levels)
    heads = [head(walk, value) for value in pyramid.maps]
    found = architecture_of(walk, body, pyramid, heads, path.stem)
    weights = weights_of(walk, found)
    _require_all_seen(walk, sum(len(one.outputs) for one in heads))
    seeded = any(p.key == f"{PREFIX}weights" and "seeded" in p.value for p in model.metadata_props)
    return Checkpoint(
        name=path.stem,
        architecture=found.architecture,
        recognised_by=f"lifted from the graph of {path.name}",
        weights={name: weights[name] for name in parameter_shapes(found.architecture)},
        digest=digest_of(path),
        path=path,
        notes=(*found.notes, *_notes(walk, seeded=seeded)),
    )


def _require_all_seen(walk: Walk, outputs: int) -> None:
    """Raise ArtifactError for a node that no part of the network explains."""
    strangers = [node for node in walk.graph.live if node not in walk.seen]
    if strangers:
        walk.graph.refuse(strangers[0], "is no part of an SCRFD, and an output depends on it")
    if len(walk.graph.outputs) != outputs:
        raise ArtifactError(
            f"{walk.graph.where}: cannot be lifted: it has {len(walk.graph.outputs)} outputs, where "
            f"this network has {outputs}."
        )


def _notes(walk: Walk, *, seeded: bool) -> Iterator[str]:
    types = {unit.weight.dtype.name for unit in walk.named} - {"float32"}
    if types:
        yield f"weights were widened from {', '.join(sorted(types))} to float32"
    norms = [key for _, key in walk.keys.values() if key and not key.endswith("gn")]
    folded = [key for unit, key in walk.keys.values() if key in norms and unit.norm is None]
    if folded:
        yield f"{len(folded)} folded BatchNorms became ones that change nothing"
    if seeded:
        yield "its metadata say that the weights are seeded, not trained: it detects no faces"
