"""Weights for an untrained network: deterministic, with activations like a trained one's.

Errors measured on a dead or saturated network mean nothing. So BatchNorm statistics are those of
a seeded picture's activations, norms and scales are non-trivial, and the predictors are set to
the score and distance distributions of trained detectors.

Deterministic across machines: draws are integer arithmetic (PCG64), the calibration runs in
float64, and its measurements are rounded to a coarse grid, so that the last bits of a BLAS vanish.
"""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

    from scrfdconv.converters.network.architecture import Architecture

MEASURED_BITS = 10  # grid of measured statistics: 0.1 %, where float64 BLAS differ by 1e-12
CALIBRATION_SIDE = 256  # pixels; 64 cells remain at stride 32
SMALLEST_VARIANCE = 1e-3  # of a channel that the picture leaves constant

# Logits of trained SCRFDs: background far below zero, some percent of the anchors above.
# Distances of trained SCRFDs in stride units: boxes around 2, keypoints around 0.
PREDICTORS = {"cls": (-3.0, 1.5), "reg": (2.0, 0.7), "kps": (0.0, 1.2)}  # mean, deviation
# Learned factors of released models lie between 0.80 and 1.99.
SCALE_RANGE = (0.8, 2.0)
GAMMA_RANGE = (0.5, 1.5)
# Centred on 1, most of a ReLU's inputs are positive. Centred on 0, a deep random network is
# chaotic: rounding grew to 5e-4 at the outputs of 500M_KPS, against 2e-5 centred on 1, and 1e-5
# trained.
BETA_RANGE = (0.5, 1.5)


def seeded_weights(architecture: Architecture, seed: int) -> dict[str, Tensor]:
    """A complete float32 state_dict for ``architecture``, the same on every machine."""
    import torch

    from scrfdconv.converters.network.model import SCRFD

    with torch.random.fork_rng(devices=[]):  # torch's own initialisation must not disturb callers
        model = SCRFD(architecture).double().eval()
    for name, tensor in model.state_dict().items():
        tensor.copy_(_drawn(name, tuple(tensor.shape), seed))
    with torch.inference_mode():
        pictures = architecture.normalization.of_unit(seeded_pictures(seed))
        _calibrate(model, torch.from_numpy(pictures))
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
    return {name: tensor.float() for name, tensor in state.items()}


def seeded_pictures(seed: int) -> np.ndarray:
    """One picture with structure at every scale, as photographs have, and one of white noise.

    (2, 3, S, S) in [-1, 1]. Without the noise, channels that detect fine detail would be measured
    as silent, and explode on the noise that checks use.
    """
    side = CALIBRATION_SIDE
    draw = _generator("picture", seed)
    total = np.zeros((3, side, side))
    cell = side // 4
    while cell >= 1:
        noise = draw.random((3, side // cell, side // cell)) - 0.5
        total += noise.repeat(cell, 1).repeat(cell, 2)
        cell //= 2
    noise = draw.random((3, side, side)) * 2 - 1
    return np.stack([np.clip(total, -1, 1), noise])


def _generator(name: str, seed: int) -> np.random.Generator:
    """One stream per tensor, so that a change of one layer leaves the others alone."""
    key = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return np.random.Generator(np.random.PCG64(int.from_bytes(key)))


def _drawn(name: str, shape: tuple[int, ...], seed: int) -> Tensor:
    import torch

    uniform = _generator(name, seed).random(shape)
    kind = name.rpartition(".")[2]
    if kind == "scale":
        low, high = SCALE_RANGE
    elif kind == "weight" and len(shape) > 1:
        # uniform with variance 2 / fan-in (He): activations keep their size through ReLUs
        high = math.sqrt(6 / math.prod(shape[1:]))
        low = -high
    elif kind == "weight":
        low, high = GAMMA_RANGE
    elif kind == "bias":
        low, high = BETA_RANGE
    else:  # statistics and counters: measured below
        low = high = 1.0
    return torch.from_numpy(np.asarray(low + (high - low) * uniform))


def _calibrate(model: nn.Module, picture: Tensor) -> None:
    """Set every BatchNorm's statistics and every predictor's range from one forward pass."""
    import torch
    from torch import nn

    def measure(norm: nn.BatchNorm2d, inputs: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3), correction=0)
        assert norm.running_mean is not None
        assert norm.running_var is not None
        norm.running_mean.copy_(_rounded(mean))
        norm.running_var.copy_(_rounded(variance).clamp(min=SMALLEST_VARIANCE))

    done: set[nn.Module] = set()

    def spread(conv: nn.Conv2d, inputs: tuple[Tensor]) -> None:
        if conv in done:  # a shared head is set at its finest stride
            return
        done.add(conv)
        _set_range(conv, inputs[0], *PREDICTORS[kinds[conv]])

    hooks, kinds = [], {}
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(measure))
        elif name.startswith("bbox_head.stride_") and isinstance(module, nn.Conv2d):
            kinds[module] = name.removeprefix("bbox_head.stride_")[:3]
            hooks.append(module.register_forward_pre_hook(spread))
    model(picture)
    for hook in hooks:
        hook.remove()


def _set_range(conv: nn.Conv2d, x: Tensor, mean: float, deviation: float) -> None:
    """Scale and shift ``conv`` so that its outputs on ``x`` have this mean and deviation."""
    import torch

    weight, bias = conv.weight, conv.bias
    assert bias is not None
    bias.zero_()
    variance, centre = torch.var_mean(conv(x), (0, 2, 3), correction=0)
    factor = deviation / _rounded(variance.sqrt()).clamp(min=SMALLEST_VARIANCE)
    weight.mul_(factor[:, None, None, None])
    bias.copy_(mean - _rounded(centre) * factor)


def _rounded(values: Tensor) -> Tensor:
    """To ``MEASURED_BITS`` significant bits, by exact arithmetic."""
    import torch

    mantissa, exponent = torch.frexp(values)
    return torch.ldexp(torch.round(mantissa * 2**MEASURED_BITS), exponent - MEASURED_BITS)
