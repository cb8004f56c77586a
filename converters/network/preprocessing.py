"""What artifacts state of the pictures that they take, and of their network, in their metadata."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from scrfdconv.converters.errors import ArtifactError, UsageError
from scrfdconv.converters.input_form import PLAIN, InputForm
from scrfdconv.converters.normalization import ByChannel, Normalization
from scrfdconv.converters.structured import json_as

# Keys of the metadata: how a program prepares pictures for the file; and what the graph makes of
# them for its network, where that differs.
METADATA, IN_GRAPH = "preprocessing", "normalization_in_graph"
CLASS_NAMES = "class_names"  # the key of the names of several classes


def class_names_in(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Names of a network's classes; empty where its metadata have none."""
    where = f"The model's metadata scrfdconv.{CLASS_NAMES} are damaged: it"
    text = metadata.get(CLASS_NAMES, "[]")
    return json_as(text, tuple[str, ...], where, "list of names", error=ArtifactError)


def stated_in(metadata: Mapping[str, str]) -> Normalization | None:
    """What an artifact's own metadata say of its network; None where they say nothing.

    Raises ArtifactError where they are damaged.
    """
    said = _said(metadata, IN_GRAPH) or _said(metadata, METADATA)
    return said.normalization if said else None


def form_in(metadata: Mapping[str, str]) -> InputForm:
    """The form in which an artifact takes pictures, as its own metadata say."""
    said = _said(metadata, METADATA)
    if said is None or IN_GRAPH not in metadata:
        return PLAIN
    layout, kind = said.layout.lower(), said.type
    if layout not in ("nchw", "nhwc") or kind not in ("float", "uint8"):
        raise ArtifactError(
            f"The model's metadata scrfdconv.{METADATA} are damaged: {kind} {said.layout}; "
            "convert it again."
        )
    return InputForm(kind, layout, said.normalization)  # type: ignore[arg-type]


def metadata_of_pictures(network: Normalization, form: InputForm = PLAIN) -> dict[str, str]:
    """What artifacts state: everything that prepares a photograph for the file."""
    stated = form.normalization(network).to_plain()
    said = {
        "color": stated["color"],
        "layout": form.layout.upper(),
        "mean": stated["mean"],
        "std": stated["std"],
        "resize": "bilinear, keeps the aspect, top left",
        "padding": 0,  # a pixel value, before the normalisation
    }
    if form == PLAIN:
        return {METADATA: json.dumps(said)}
    return {
        METADATA: json.dumps({"type": form.type, **said}),
        IN_GRAPH: json.dumps(network.to_plain()),
    }


@dataclass(frozen=True)
class _Stated:
    """The JSON text in metadata, as far as numbers and their order go."""

    color: str
    mean: float | ByChannel
    std: float | ByChannel
    layout: str = "NCHW"
    type: str = "float"

    @property
    def normalization(self) -> Normalization:
        color: Any = self.color.lower()
        return Normalization(_by_channel(self.mean), _by_channel(self.std), color)


def _said(metadata: Mapping[str, str], key: str) -> _Stated | None:
    text = metadata.get(key)
    if text is None:
        return None
    where = f"The model's metadata scrfdconv.{key} are damaged: it"
    said = json_as(text, _Stated, where, "normalisation", "convert it again", error=ArtifactError)
    try:
        _ = said.normalization
    except UsageError as error:
        raise ArtifactError(f"{where} is no normalisation ({error})") from error
    return said


def _by_channel(value: float | ByChannel) -> ByChannel:
    """Three values, of which one stands for three equal ones."""
    return value if isinstance(value, tuple) else (value, value, value)
