"""Networks that compute the same from pictures that are prepared in another way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.normalization import STANDARD, Normalization

UNSCALED = Normalization(std=(1.0, 1.0, 1.0))
BLUE_FIRST = Normalization(color="bgr")
NAMES = ("face", "plate")


def twin(checkpoint: Checkpoint, normalization: Normalization) -> Checkpoint:
    """``checkpoint`` for other stds, all alike, and another order of channels.

    Padding stays zero as long as the mean stays.
    """
    assert normalization.mean == STANDARD.mean
    stem = (key for key in checkpoint.weights if key.startswith("backbone.stem."))
    first = next(key for key in stem if checkpoint.weights[key].dim() > 1)
    weight = checkpoint.weights[first] * (normalization.std[0] / STANDARD.std[0])
    if normalization.color == "bgr":
        weight = weight.flip(1)
    return replace(
        checkpoint,
        weights={**checkpoint.weights, first: weight.contiguous()},
        architecture=replace(checkpoint.architecture, normalization=normalization),
        digest=f"twin of {checkpoint.digest}",
    )


def twice(checkpoint: Checkpoint) -> Checkpoint:
    """Two classes with the same scores: each face is found once in each."""

    def repeated(tensor: Any) -> Any:  # rows: anchor, class
        return tensor.repeat_interleave(2, dim=0).contiguous()

    weights = {k: repeated(v) if ".stride_cls." in k else v for k, v in checkpoint.weights.items()}
    architecture = replace(checkpoint.architecture, classes=2, class_names=NAMES)
    return replace(checkpoint, weights=weights, architecture=architecture)
