"""The weights of a TorchScript module at rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from scrfdconv.converters.formats.torchscript.archive import open_archive
from scrfdconv.converters.formats.torchscript.runner import module_of, without_deprecation
from scrfdconv.converters.graph.convolution import Convolution


def convolutions_of_torchscript(path: Path) -> Iterator[Convolution]:
    """Every convolution of a traced or scripted model, with BatchNorms folded in."""
    import torch

    with without_deprecation():
        module = torch.jit.freeze(module_of(open_archive(path)).eval())
    for node in module.graph.nodes():
        if node.kind() in ("aten::_convolution", "aten::conv2d"):
            _, weight, bias = (value.toIValue() for value in list(node.inputs())[:3])
            none = torch.zeros(len(weight))
            name = next(node.outputs()).debugName()
            yield Convolution(name, weight.numpy(), (none if bias is None else bias).numpy())
