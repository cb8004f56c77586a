"""Size and cost of a network, read off the shapes of one small forward pass."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

from scrfdconv.converters.network.architecture import (
    BUILTIN,
    CHANNELS,
    Architecture,
    trace_size,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

VGA = (480, 640)  # the size of published FLOPs and times
FLOAT_BYTES = 4


@dataclass(frozen=True)
class Complexity:
    """Parameters, VGA FLOPs, and memory per input pixel."""

    parameters: int
    flops: int  # multiply-adds and element-wise work by the published rule, for VGA
    live_bytes_per_pixel: float  # largest inputs plus outputs of one layer, float32


# What `counted` says of the known networks, so that listing them loads no torch.
_KNOWN = {
    "scrfd_500m": Complexity(572_741, 508_747_800, 32),
    "scrfd_1g": Complexity(635_565, 982_342_200, 96),
    "scrfd_2.5g": Complexity(671_761, 2_530_565_400, 48),
    "scrfd_10g": Complexity(3_860_225, 9_982_109_400, 112),
    "scrfd_34g": Complexity(9_802_737, 34_136_931_000, 112),
    "scrfd_500m_kps": Complexity(631_410, 584_070_600, 32),
    "scrfd_2.5g_kps": Complexity(819_809, 2_604_880_200, 48),
    "scrfd_10g_kps": Complexity(4_229_905, 10_075_979_400, 112),
    "scrfd_1gbn": Complexity(679_313, 986_273_400, 96),
    "scrfd_1.3g": Complexity(435_253, 1_288_416_600, 32),
}


def complexity(architecture: Architecture) -> Complexity:
    """What the network costs: known for a built-in one, otherwise `counted`."""
    name = architecture.name
    if BUILTIN.get(name) == architecture and name in _KNOWN:
        return _KNOWN[name]
    return counted(architecture)


@cache
def counted(architecture: Architecture) -> Complexity:
    """Count by the rule of the published table.

    That is mmcv's ``get_model_complexity_info`` before version 1.3, which upstream's
    tools/get_flops.py calls: convolutions by multiply-adds plus bias, BatchNorm twice its
    elements, ReLU its elements, pools their input; GroupNorm, additions and upsampling are free.
    """
    import torch

    from scrfdconv.converters.network.model import SCRFD

    height, width = trace_size(architecture)
    with torch.device("meta"):  # no weights are drawn
        model = SCRFD(architecture).eval()
    # Run on the CPU with whatever is in memory: a forward pass on the meta device would take a
    # second to import torch's registrations for it, and only shapes are read here.
    model.to_empty(device="cpu")
    counted: list[tuple[int, int]] = []
    for module in model.modules():
        module.register_forward_hook(
            lambda m, i, o: counted.append((_flops(m, i[0], o), _elements(i[0], o)))
        )
    with torch.inference_mode():
        model(torch.zeros(1, CHANNELS, height, width))
    pixels = height * width
    flops = sum(flops for flops, _ in counted)
    return Complexity(
        sum(p.numel() for p in model.parameters()),
        flops * math.prod(VGA) // pixels,
        max(elements for _, elements in counted) * FLOAT_BYTES / pixels,
    )


def _elements(inputs: Any, outputs: Any) -> int:
    """Elements that are alive while one layer runs; containers count through their children."""
    import torch

    both = (inputs, outputs)
    return sum(x.numel() for x in both) if all(isinstance(x, torch.Tensor) for x in both) else 0


def _flops(module: nn.Module, inputs: Tensor, outputs: Tensor) -> int:
    from torch import nn

    from scrfdconv.converters.network.model import NoPool

    match module:
        case nn.Conv2d():
            kernel = math.prod(module.kernel_size) * module.in_channels // module.groups
            return outputs.numel() * (kernel + (module.bias is not None))
        case nn.BatchNorm2d():
            return 2 * outputs.numel()
        case nn.ReLU():
            return outputs.numel()
        case nn.AvgPool2d() | nn.MaxPool2d() | NoPool():
            return inputs.numel()
        case _:
            return 0
