"""What an artifact says about itself: enough to feed it, read its outputs and trace its origin.

The same keys in every format; in ONNX they carry the prefix ``scrfdconv.``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from scrfdconv.converters.architecture import Architecture
from scrfdconv.converters.checkpoint import Checkpoint
from scrfdconv.converters.errors import ArtifactError, UsageError

PREFIX = "scrfdconv."


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution; None where it is not installed."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def package_version() -> str:
    """The installed version of scrfdconv."""
    return version("scrfdconv")


def metadata_for(
    checkpoint: Checkpoint,
    precision: str,
    shape: tuple[int, int] | None,
    batch: int,
) -> dict[str, str]:
    """Metadata of an artifact made from ``checkpoint``; strings, as every container takes them.

    Neither time nor path: the same input gives the same bytes.
    """
    a = checkpoint.architecture
    size = f"{shape[0]}x{shape[1]}" if shape else "dynamic"
    return {
        "version": package_version(),
        "recipe": a.name,
        "architecture": json.dumps(a.to_dict()),
        "weights": "seeded, untrained" if checkpoint.seeded else "checkpoint",
        "source_sha256": checkpoint.digest,
        "weights_sha256": checkpoint.weights_digest,
        "precision": precision,
        "shape": size,
        "batch": str(batch) if shape else "dynamic",
        "preprocessing": json.dumps(
            {
                "color": "RGB",
                "layout": "NCHW",
                "mean": 127.5,
                "std": 128.0,
                "resize": "bilinear, keeps the aspect, top left",
                "padding": 0,  # a pixel value: -0.996 after normalisation
            }
        ),
        "outputs": " ".join(a.output_names),
        "strides": " ".join(map(str, a.strides)),
        "anchors": str(a.anchors),
        "keypoints": str(a.keypoints),
        "classes": str(a.classes),
    }


def architecture_from_metadata(metadata: dict[str, str]) -> Architecture | None:
    """The architecture that an artifact of ours names, or None for a foreign file.

    Raises ArtifactError where the metadata were tampered with.
    """
    text = metadata.get("architecture")
    if text is None:
        return None
    try:
        return architecture_from_dict(json.loads(text))
    except (ValueError, TypeError, AttributeError, UsageError) as error:
        raise ArtifactError(
            f"The model's metadata {PREFIX}architecture are damaged ({error}): convert it again."
        ) from error


def architecture_from_dict(content: Mapping[str, Any]) -> Architecture:
    """Read what ``Architecture.to_dict`` gave, after JSON turned its tuples into lists."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in content.items()}
    return Architecture(**values)
