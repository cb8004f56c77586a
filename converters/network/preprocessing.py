"""What artifacts state, in their metadata, of the pictures and the classes of their network."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scrfdconv.converters.errors import ArtifactError, UsageError
from scrfdconv.converters.normalization import ByChannel, Normalization
from scrfdconv.converters.structured import json_as

METADATA = "preprocessing"  # the key of the metadata
CLASS_NAMES = "class_names"  # the key of the names of several classes


def class_names_in(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Names of a network's classes; empty where its metadata have none."""
    where = f"The model's metadata scrfdconv.{CLASS_NAMES} are damaged: it"
    text = metadata.get(CLASS_NAMES, "[]")
    return json_as(text, tuple[str, ...], where, "list of names", error=ArtifactError)


def stated_in(metadata: Mapping[str, str]) -> Normalization | None:
    """What an artifact's own metadata say; None where they say nothing.

    Raises ArtifactError where they are damaged.
    """
    text = metadata.get(METADATA)
    if text is None:
        return None
    where = f"The model's metadata scrfdconv.{METADATA} are damaged: it"
    said = json_as(text, _Stated, where, "normalisation", "convert it again", error=ArtifactError)
    try:
        return said.normalization
    except UsageError as error:
        raise ArtifactError(f"{where} is no normalisation ({error})") from error


def metadata_text(normalization: Normalization) -> str:
    """What artifacts state under `METADATA`: everything that prepares a photograph."""
    stated = normalization.to_plain()
    return json.dumps(
        {
            "color": stated["color"],
            "layout": "NCHW",
            "mean": stated["mean"],
            "std": stated["std"],
            "resize": "bilinear, keeps the aspect, top left",
            "padding": 0,  # a pixel value, before the normalisation
        }
    )


@dataclass(frozen=True)
class _Stated:
    """The JSON text in metadata, as far as the normalisation goes."""

    color: str
    mean: float | ByChannel
    std: float | ByChannel

    @property
    def normalization(self) -> Normalization:
        color: Any = self.color.lower()
        return Normalization(_by_channel(self.mean), _by_channel(self.std), color)


def _by_channel(value: float | ByChannel) -> ByChannel:
    """Three values, of which one stands for three equal ones."""
    return value if isinstance(value, tuple) else (value, value, value)
