"""From an ONNX graph alone to the checkpoint that it was exported from.

Values that a file does not tell are chosen so that no output changes: a folded BatchNorm comes back
as a BatchNorm that folds to exactly the same convolution, and a factor that was multiplied into the
boxes' convolution as the factor 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from scrfdconv.converters.artifact import digest_of
from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.checkpoint.recognise import parameter_shapes
from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.graph.edits import free_name
from scrfdconv.converters.graph.interface.bare import normalization_of, without_preamble
from scrfdconv.converters.graph.interface.rows import rows_alone
from scrfdconv.converters.graph.model_file import load_onnx, require_valid
from scrfdconv.converters.graph.number_types import precision_of
from scrfdconv.converters.lifting.architecture import architecture_of
from scrfdconv.converters.lifting.backbone import Walk, backbone
from scrfdconv.converters.lifting.graph import Graph
from scrfdconv.converters.lifting.heads import FoundHead, Kind, head, neck
from scrfdconv.converters.lifting.weights import weights_of
from scrfdconv.converters.metadata import PREFIX
from scrfdconv.converters.network.architecture import Architecture
from scrfdconv.converters.normalization import (
    ASSUMED,
    NOTHING_SAID,
    STANDARD,
    NormalizationOptions,
)

if TYPE_CHECKING:
    import onnx

_ROWS_RANK = 3  # (N, rows of anchors, width)
_KINDS: Mapping[str, Kind] = {"score": "cls", "bbox": "reg", "kps": "kps"}


@dataclass(frozen=True)
class Lifted:
    """A checkpoint, and which output of its file is ``score_8`` and so on, in our order."""

    checkpoint: Checkpoint
    outputs: Mapping[str, str]
    maps: frozenset[str] = frozenset()  # those of ``outputs`` that are (N, C, H, W)


def lift_onnx(path: Path) -> Checkpoint:
    """The checkpoint in the ONNX file at ``path``; see `lifted_from`."""
    return lifted_from(path).checkpoint


def lifted_from(path: Path, normalization: NormalizationOptions = NOTHING_SAID) -> Lifted:
    """What the ONNX file at ``path`` holds, from its graph alone, whatever its names.

    Takes exports of upstream, of this package and of simplifiers, fixed or dynamic, in float32
    or FP16; ``normalization`` is what the user says of the pictures, where the file says nothing.
    Raises ArtifactError, with the node, for what is no SCRFD and for INT8 models.
    """
    model = rows_alone(load_onnx(path))
    if precision_of(model) == "int8":
        raise ArtifactError(
            f"{path}: is INT8, and weights of 8 bits give no checkpoint back; lift the float model "
            "that it was made from."
        )
    for value in model.graph.output:  # some writers leave shapes out, which the checker refuses
        value.type.tensor_type.shape.SetInParent()
    require_valid(model, str(path))
    said = normalization_of(model, normalization, str(path))
    walk = Walk.through(Graph(without_preamble(model), str(path)))
    body = backbone(walk)
    pyramid = neck(walk, body.levels)
    heads = [head(walk, value) for value in pyramid.maps]
    found = architecture_of(walk, body, pyramid, heads, path.stem)
    weights = weights_of(walk, found)
    architecture = replace(found.architecture, normalization=said or STANDARD)
    _require_all_seen(walk, sum(len(one.outputs) for one in heads))
    checkpoint = Checkpoint(
        name=path.stem,
        architecture=architecture,
        recognised_by=f"the graph of {path.name}, from which it was lifted",
        weights={name: weights[name] for name in parameter_shapes(architecture)},
        digest=digest_of(path),
        path=path,
        notes=(*found.notes, *_notes(walk, model), *([] if said else [ASSUMED])),
        says_normalization=said is not None,
    )
    return Lifted(checkpoint, *_outputs(architecture, heads, model))


def with_own_outputs(found: Lifted, path: Path) -> onnx.ModelProto:
    """The model at ``path`` with its outputs in our order, under our names, in rows of anchors."""
    import onnx
    from onnx import helper

    model, architecture = rows_alone(load_onnx(path)), found.checkpoint.architecture
    graph = model.graph
    types = {value.name: value.type.tensor_type for value in graph.output}
    own_names = _free(graph, found.outputs)
    for name, own in found.outputs.items():
        value = own_names.get(own, own)
        if name not in found.maps:
            graph.node.append(helper.make_node("Identity", [value], [name]))
            continue
        sizes = [0, -1, architecture.widths[name.partition("_")[0]]]
        shape = helper.make_tensor(f"{name}.shape", onnx.TensorProto.INT64, [3], sizes)
        graph.initializer.append(shape)
        last = helper.make_node("Transpose", [value], [f"{name}.last"], perm=[0, 2, 3, 1])
        rows = helper.make_node("Reshape", [f"{name}.last", shape.name], [name])
        graph.node.extend([last, rows])
    del graph.output[:]
    for name, own in found.outputs.items():
        rank = 0 if name in found.maps else len(types[own].shape.dim)
        value_info = helper.make_tensor_value_info(
            name, types[own].elem_type, [None] * (rank or _ROWS_RANK)
        )
        graph.output.append(value_info)
    return model


def _free(graph: onnx.GraphProto, names: Iterable[str]) -> dict[str, str]:
    """Rename the values of ``graph`` that have one of ``names``; returns new names by old ones."""
    taken = {name for node in graph.node for name in (*node.input, *node.output)} | {*names}
    renamed = {name: free_name(name, taken) for name in names}
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    return renamed


def _outputs(
    architecture: Architecture, heads: Sequence[FoundHead], model: onnx.ModelProto
) -> tuple[dict[str, str], frozenset[str]]:
    """The file's own name of each output, in our order, and which of them are maps."""
    by_stride = dict(zip(architecture.strides, heads, strict=True))
    names, maps = {}, set()
    for name in architecture.output_names:
        kind, _, stride = name.partition("_")
        found = by_stride[int(stride)].outputs[_KINDS[kind]]
        names[name] = model.graph.output[found.index].name
        maps |= {name} if found.is_map else set()
    return names, frozenset(maps)


def _require_all_seen(walk: Walk, outputs: int) -> None:
    """Raise ArtifactError for a node that no part of the network explains."""
    graph = walk.graph
    strangers = [node for node in graph.live if node not in walk.seen]
    if strangers:
        graph.refuse(strangers[0], "is no part of an SCRFD, and an output depends on it")
    if len(graph.outputs) != outputs:
        raise ArtifactError(
            f"{graph.where}: cannot be lifted: it has {len(graph.outputs)} outputs, where this "
            f"network has {outputs}."
        )


def _notes(walk: Walk, model: onnx.ModelProto) -> Iterator[str]:
    types = {unit.weight.dtype.name for unit in walk.named} - {"float32"}
    if types:
        yield f"weights were widened from {', '.join(sorted(types))} to float32"
    folded = sum(unit.norm is None and norm is not None for unit, norm in walk.keys.values())
    if folded:
        yield f"{folded} folded BatchNorms became ones that change nothing"
    if any(p.key == f"{PREFIX}weights" and "seeded" in p.value for p in model.metadata_props):
        yield "its metadata say that the weights are seeded, not trained: it detects no faces"
