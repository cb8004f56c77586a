"""Networks that compute the same from pictures that are prepared in another way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.normalization import STANDARD, Normalization

UNSCALED = Normalization(std=(1.0, 1.0, 1.0))
BLUE_FIRST = Normalization(color="bgr")
NAMES = ("face", "plate")
VARIANCE = 0.5  # of distributions, in bins: 1 is missed by 0.02, whole and half numbers above less


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


def distributed(checkpoint: Checkpoint, bins: int) -> Checkpoint:
    """Boxes as distributions (DFL) around the same distances.

    A normal distribution around d has the logits -(x - d)^2 / 2v at the bins x. Without what is
    the same for all bins, these are (2xd - x^2) / 2v: linear in d, so that the last convolution
    makes them. Its mean over whole numbers is d again, but for the tails that 0 ... bins - 1 cut.
    """
    import torch

    places = torch.arange(float(bins))

    def spread(key: str, tensor: Any) -> Any:  # rows: anchor, side, bin
        if ".stride_reg." not in key:
            return tensor
        rows = places.repeat(len(tensor)) / VARIANCE
        spread = tensor.repeat_interleave(bins, dim=0) * rows.reshape(-1, *[1] * (tensor.dim() - 1))
        return spread if key.endswith("weight") else spread - VARIANCE / 2 * rows**2

    assert not checkpoint.architecture.box_scales
    weights = {key: spread(key, tensor) for key, tensor in checkpoint.weights.items()}
    architecture = replace(checkpoint.architecture, box_bins=bins)
    return replace(checkpoint, weights=weights, architecture=architecture)
