"""What stays float32 in a model of reduced precision, and why; and what can be reduced at all."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scrfdconv.converters.artifact import Artifact, once_per_file
from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.graph.model_file import load_onnx, metadata_of
from scrfdconv.converters.graph.number_types import coarsest_of
from scrfdconv.converters.graph.onnx_runner import OnnxRunner
from scrfdconv.converters.metadata import PREFIX
from scrfdconv.converters.network.architecture import BOX_SIDES
from scrfdconv.converters.network.seeded import seeded_pictures
from scrfdconv.converters.runner import Interface
from scrfdconv.converters.structured import json_as

if TYPE_CHECKING:
    import onnx

KEY = "kept_float"  # metadata: {reason: [node, ...]} as JSON
_PROBE_SEED = 0
_WIDTHS = {"bbox": BOX_SIDES}  # last dimension; scores have as many as classes


@dataclass(frozen=True)
class KeptFloat:
    """Nodes that stay float32, with the reason."""

    reason: str
    nodes: tuple[str, ...]


def kept_float(metadata: Mapping[str, str]) -> dict[str, list[str]]:
    """What stayed float32, by reason, from the metadata of an artifact of ours."""
    where = f"The model's metadata {PREFIX}{KEY}"
    return json_as(metadata.get(KEY, "{}"), dict[str, list[str]], where, error=ArtifactError)


def describe_reduced(
    model: onnx.ModelProto, kept: Iterable[KeptFloat], own: Mapping[str, str], source: Artifact
) -> None:
    """Write into the metadata what the model is, what stayed float and what it was made from."""
    import onnx

    by_reason: dict[str, list[str]] = {}
    for entry in kept:
        by_reason.setdefault(entry.reason, []).extend(entry.nodes)
    said = {**own, KEY: json.dumps(by_reason), "parent_sha256": source.digest}
    metadata = metadata_of(model) | {PREFIX + key: value for key, value in said.items()}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, dict(sorted(metadata.items())))


# ---------------------------------------------------------------- what can be reduced


@once_per_file
def require_convertible(path: Path) -> Interface:
    """The interface of a float SCRFD in ONNX; raises ArtifactError for other files.

    The model runs once on a built-in picture: other detectors have six or nine outputs, too.
    """
    runner, have = OnnxRunner(path), coarsest_of(load_onnx(path))
    if have != "fp32":
        raise ArtifactError(
            f"{path}: is {have} already, at least in part; convert from the float32 model."
        )
    if runner.interface.extras:
        raise ArtifactError(
            f"{path}: has outputs that no SCRFD has ({', '.join(runner.interface.extras)}); remove "
            "them first."
        )
    picture = built_in_pictures(runner.interface)[0]
    outputs = runner.run(np.repeat(picture[None], runner.interface.batch or 1, axis=0))
    for name, value in outputs.items():
        _require_head(path, name, value.shape, picture.shape[1:])
    return runner.interface


def built_in_pictures(interface: Interface) -> np.ndarray:
    """Structure at every scale and noise, (N, 3, H, W), of a size that the model takes."""
    pictures = seeded_pictures(_PROBE_SEED).astype(np.float32)
    height = interface.height or pictures.shape[2]
    width = interface.width or pictures.shape[3]
    down, across = -(-height // pictures.shape[2]), -(-width // pictures.shape[3])
    tiled = np.tile(pictures, (1, 1, down, across))[:, :, :height, :width]
    return np.asarray(interface.normalization.of_unit(tiled))


def _require_head(path: Path, name: str, shape: tuple[int, ...], image: tuple[int, ...]) -> None:
    kind, _, stride = name.partition("_")
    cells = math.prod(side // int(stride) for side in image)
    rows, width = shape[-2:] if len(shape) > 1 else (0, 0)
    if not rows or rows % cells or width != _WIDTHS.get(kind, width):
        raise ArtifactError(
            f"{path}: is not an SCRFD: {name} has the shape {list(shape)}, for {cells} cells at "
            f"stride {stride}."
        )
