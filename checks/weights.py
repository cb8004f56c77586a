"""Are the convolutions of an artifact those of the checkpoint, weight by weight?

Outputs on a few images do not see every weight: one that feeds a channel which stays dark can
change unnoticed. So float and FP16 models are compared at rest, too: every convolution of the
artifact must be one of the checkpoint with its BatchNorm folded in, and every one must be there.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scrfdconv.checks.results import CheckResult
from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.formats import format_of
from scrfdconv.converters.graph.convolution import Convolution

if TYPE_CHECKING:
    from torch import nn

CHECK = "weights"


@dataclass(frozen=True)
class Rounding:
    """How far a weight may be from its own value, and below which value that is meant absolutely.

    Biases are differences, so that theirs is relative to the largest one of their convolution.
    """

    limit: float
    smallest: float  # the smallest normal number: below it, values are rounded to its last bit


# The smallest change worth finding is 1e-2 of one weight. Measured on three released networks:
# folding in another order gives 3.4e-7 on weights and 1.3e-6 on biases, FP16 4.9e-4, and converters
# that lift tiny weights to 1e-7 make 1.6e-3 of it.
ROUNDING = {
    "fp32": Rounding(5e-6, float(np.finfo(np.float32).tiny)),
    "fp16": Rounding(2e-3, float(np.finfo(np.float16).tiny)),
}


def compare_weights(
    checkpoint: Checkpoint, path: Path, precision: str = "fp32"
) -> Iterator[CheckResult]:
    """Yield how well the convolutions of the model at ``path`` match those of ``checkpoint``.

    Nothing where the format cannot read its weights: such files are compared by outputs alone.
    """
    rounding, convolutions = ROUNDING[precision], format_of(path).convolutions(path)
    if convolutions is None:
        return
    expected = convolutions_of_checkpoint(checkpoint)
    worst, culprit, found = 0.0, "", set()
    strangers = []
    for convolution in convolutions:
        alike = [c for c in expected if c.weight.shape == convolution.weight.shape]
        if not alike:
            strangers.append(convolution.name)
            continue
        differences = [c.difference(convolution, rounding.smallest) for c in alike]
        difference = min(differences)
        match = alike[differences.index(difference)]
        found.add(match.name)
        if difference > worst:
            worst, culprit = difference, f"{convolution.name} against {match.name}"
    missing = {c.name for c in expected} - found
    detail = ", ".join([*strangers, *sorted(missing)][:3])
    unmatched = len(strangers) + len(missing)
    yield CheckResult(CHECK, "convolutions", "compared", len(found), 1, at_least=True)
    yield CheckResult(CHECK, "convolutions", "unmatched", unmatched, 0, detail=detail)
    yield CheckResult(CHECK, "convolutions", "relative", worst, rounding.limit, detail=culprit)


def convolutions_of_checkpoint(checkpoint: Checkpoint) -> list[Convolution]:
    """Every convolution of the network with its BatchNorm folded in.

    A box convolution stands there once as it is and once with each learned scale that follows
    it, under one name: simplifiers fold the scale in, or leave it to a multiplication.
    """
    from torch import nn
    from torch.nn.utils import fuse_conv_bn_eval

    model = checkpoint.model()
    leaves = [(n, m) for n, m in model.named_modules() if not list(m.children())]
    following = [module for _, module in leaves[1:]] + [None]
    scales = [float(v) for k, v in checkpoint.weights.items() if k.endswith(".scale")]
    found = []
    for (name, module), behind in zip(leaves, following, strict=True):
        if isinstance(module, nn.Conv2d):
            if isinstance(behind, nn.BatchNorm2d):
                module = fuse_conv_bn_eval(module, behind)  # noqa: PLW2901
            factors = [1.0, *scales] if name.startswith("bbox_head.stride_reg.") else [1.0]
            found += [_scaled(name, module, factor) for factor in factors]
    return found


def _scaled(name: str, module: nn.Conv2d, factor: float) -> Convolution:
    bias = np.zeros(module.out_channels) if module.bias is None else module.bias.numpy()
    return Convolution(name, module.weight.numpy() * factor, bias * factor)
