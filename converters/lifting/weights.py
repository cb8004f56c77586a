"""Tensors under mmdet's keys from walked convolutions, each compared with its module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from scrfdconv.converters.lifting.architecture import FoundArchitecture
from scrfdconv.converters.lifting.backbone import Walk
from scrfdconv.converters.lifting.units import EPSILON, Unit
from scrfdconv.converters.network.architecture import Architecture

if TYPE_CHECKING:
    from torch import Tensor, nn

# In float32, this plus epsilon is exactly 1: a BatchNorm with this variance changes no bit.
UNIT_VARIANCE = np.float32(1 - EPSILON)


def weights_of(walk: Walk, found: FoundArchitecture) -> dict[str, Tensor]:
    """A complete float32 state_dict, in the network's order.

    Raises ArtifactError, with the node, for a convolution that computes something else than the
    architecture's module of the same key.
    """
    import torch

    modules = _modules(found.architecture)
    arrays: dict[str, np.ndarray] = {}
    for key, (unit, norm) in walk.keys.items():
        _require_same(walk, unit, key, modules.pop(key, None))
        arrays |= dict(_convolution(walk, unit, key, norm, modules.pop(norm, None)))
    assert not modules, modules.keys()
    for i, scale in enumerate(found.scales):
        arrays[f"bbox_head.scales.{i}.scale"] = np.array(scale)
    tensors = {}
    for key, value in arrays.items():
        tensors[key] = torch.from_numpy(np.array(value, dtype=np.float32, order="C"))
    return tensors


def _modules(architecture: Architecture) -> dict[str | None, nn.Module]:
    """The convolutions and norms of the network, by key, without memory."""
    import torch
    from torch import nn

    from scrfdconv.converters.network.model import SCRFD

    with torch.device("meta"):
        model = SCRFD(architecture)
    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.GroupNorm)
    return {name: module for name, module in model.named_modules() if isinstance(module, kinds)}


def _require_same(walk: Walk, unit: Unit, key: str, module: nn.Module | None) -> None:
    from torch import nn

    if not isinstance(module, nn.Conv2d):
        walk.graph.refuse(unit.node, f"would be {key}, which this architecture does not have")
    pads = unit.node.ints("pads", (0, 0, 0, 0))
    have = {
        "weight": unit.weight.shape,
        "strides": unit.node.ints("strides", (1, 1)),
        "pads": pads,
        "dilations": unit.node.ints("dilations", (1, 1)),
        "group": int(unit.node.attributes.get("group", 1)),
        "auto_pad": unit.node.attributes.get("auto_pad", b"NOTSET"),
    }
    assert isinstance(module.padding, tuple)
    want = {
        "weight": tuple(module.weight.shape),
        "strides": module.stride,
        "pads": module.padding * 2,
        "dilations": module.dilation,
        "group": module.groups,
        "auto_pad": b"NOTSET",
    }
    for what, value in want.items():
        if have[what] != value:
            walk.graph.refuse(
                unit.node, f"has {what} {have[what]}, and {key} of this architecture {value}"
            )


def _convolution(
    walk: Walk, unit: Unit, key: str, norm_key: str | None, module: nn.Module | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Name and value of every tensor of a convolution and its norm."""
    bias = np.zeros(unit.width) if unit.bias is None else unit.bias
    norm = unit.norm
    values = [unit.weight, bias]
    if norm:
        found = (norm.weight, norm.bias, norm.mean, norm.variance)
        values += [value for value in found if value is not None]
    if any(value.shape[0] != unit.width or not np.isfinite(value).all() for value in values):
        walk.graph.refuse(unit.node, "has weights that are not finite or not one per channel")
    yield f"{key}.weight", unit.weight
    if module is None:
        if norm:
            walk.graph.refuse(unit.nodes[1], f"normalises the result of {key}, which has no norm")
        yield f"{key}.bias", bias
        return
    yield from ((f"{norm_key}.{name}", value) for name, value in _norm(walk, unit, module, bias))


def _norm(
    walk: Walk, unit: Unit, module: nn.Module, bias: np.ndarray
) -> Iterator[tuple[str, np.ndarray]]:
    from torch import nn

    norm = unit.norm
    grouped = isinstance(module, nn.GroupNorm)
    if grouped != (norm is not None and norm.kind == "gn") or (grouped and bias.any()):
        walk.graph.refuse(unit.node, "has another norm behind it, or a bias before a GroupNorm")
    if norm is None:
        yield "weight", np.ones(unit.width)
        yield "bias", bias
        yield "running_mean", np.zeros(unit.width)
        yield "running_var", np.full(unit.width, UNIT_VARIANCE)
        return
    yield "weight", norm.weight
    yield "bias", norm.bias
    if norm.mean is not None and norm.variance is not None:
        yield "running_mean", norm.mean - bias
        yield "running_var", norm.variance
