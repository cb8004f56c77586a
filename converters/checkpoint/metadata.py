"""What an artifact made from a checkpoint says about itself."""

from __future__ import annotations

import json

from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.metadata import package_version
from scrfdconv.converters.network.preprocessing import CLASS_NAMES, metadata_of_pictures
from scrfdconv.converters.options import DYNAMIC
from scrfdconv.converters.structured import to_json


def metadata_for(
    checkpoint: Checkpoint,
    precision: str,
    shape: tuple[int, int] | None,
    batch: int | None,
) -> dict[str, str]:
    """Metadata of an artifact made from ``checkpoint``; strings, as every container takes them.

    They hold neither times nor paths: the same input gives the same bytes.
    """
    a = checkpoint.architecture
    size = f"{shape[0]}x{shape[1]}" if shape else DYNAMIC
    return {
        "version": package_version(),
        "recipe": a.name,
        "architecture": json.dumps(a.to_dict()),
        "weights": "seeded, untrained" if checkpoint.seeded else "checkpoint",
        "source_sha256": checkpoint.digest,
        "weights_sha256": checkpoint.weights_digest,
        "precision": precision,
        "shape": size,
        "batch": str(batch) if shape and batch else DYNAMIC,
        **metadata_of_pictures(a.normalization),
        "outputs": " ".join(a.output_names),
        "strides": " ".join(map(str, a.strides)),
        "anchors": str(a.anchors),
        "keypoints": str(a.keypoints),
        "classes": str(a.classes),
        **({CLASS_NAMES: to_json(a.class_names, indent=None)} if a.class_names else {}),
    }
