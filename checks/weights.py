"""Are the convolutions of an artifact those of the checkpoint, weight by weight?

Outputs on a few images do not depend on every weight: a weight of a channel that stays inactive can
change unnoticed. So the stored weights of every convolution are compared, too, each in the number
type of its storage: float weights exactly, FP16 and INT8 weights within their own rounding,
whatever the rest of the model is. Every convolution of the artifact must be a convolution of the
checkpoint with its BatchNorm folded in, or several of them joined, and none may be missing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scrfdconv.checks.results import CheckResult
from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.formats import format_of
from scrfdconv.converters.graph.convolution import Convolution
from scrfdconv.converters.graph.interface.inputs import as_trained
from scrfdconv.converters.input_form import PLAIN, InputForm

if TYPE_CHECKING:
    from torch import nn

CHECK = "weights"


@dataclass(frozen=True)
class Rounding:
    """How far a stored weight may be from its own value: a share, absolute below ``smallest``.

    Biases are differences, so their distance is relative to the largest bias of their convolution.
    """

    limit: float
    smallest: float  # the smallest normal number: values below lose bits, and may become zero


# The smallest change worth finding is 1e-2 of one weight. Measured on three released networks:
# folding in another order gives 3.4e-7 on weights and 1.3e-6 on biases, FP16 4.9e-4, and converters
# that lift tiny weights to 1e-7 make 1.6e-3 of it.
ROUNDING = {
    "fp32": Rounding(5e-6, float(np.finfo(np.float32).tiny)),
    "fp16": Rounding(2e-3, float(np.finfo(np.float16).tiny)),
}
# INT8 is measured in steps: a weight lies half a step from its own value, and the scale itself was
# rounded, too. Measured on two tiny seeded networks and 500M_KPS, both arrangements: 0.49999.
INT8_STEPS = 0.51
_MOST = 0.5  # share of the weights of a convolution


@dataclass(frozen=True)
class Match:
    """The convolution of the checkpoint that fits best."""

    name: str
    difference: float
    singly: int = 0  # weights that differ while most others are the same


@dataclass(frozen=True, kw_only=True)
class AtRest:
    """What a comparison of all convolutions found, by the number type of their weights."""

    compared: int
    unmatched: tuple[str, ...]  # convolutions of one side only
    worst: Mapping[str, Match]  # by precision
    singly: int  # weights that were changed, and not arranged in another way
    readable: bool = True

    @property
    def differ(self) -> bool:
        """True if the weights are not those of the checkpoint."""
        return not all(result.passed for result in self.results())

    def results(self) -> Iterator[CheckResult]:
        """The measurements, each with its limit; none where nothing can be read."""
        if not self.readable:
            return
        detail = ", ".join(self.unmatched[:3])
        yield CheckResult(
            check=CHECK,
            subject="convolutions",
            metric="compared",
            measured=self.compared,
            limit=1,
            at_least=True,
        )
        yield CheckResult(
            check=CHECK,
            subject="convolutions",
            metric="unmatched",
            measured=len(self.unmatched),
            limit=0,
            detail=detail,
        )
        for precision, match in self.worst.items():
            yield _result(precision, match)

    def remark(self) -> str:
        """The note on weights that differ but give the same function."""
        first = next(result for result in self.results() if not result.passed)
        told = f" ({first.detail})" if first.detail else ""
        return (
            "the weights are arranged in another way than the reference's, but every output "
            f"agrees to float accuracy: {first.subject} {first.metric} "
            f"{first.text(first.measured)}{told}"
        )


_UNREAD = AtRest(compared=0, unmatched=(), worst={}, singly=0, readable=False)


def compare_weights(
    checkpoint: Checkpoint, path: Path, precision: str = "fp32", form: InputForm = PLAIN
) -> AtRest:
    """How well the convolutions of the model at ``path`` match those of ``checkpoint``.

    ``precision`` is used for weights whose number type the format does not tell, ``form`` is that
    of the pictures, which the first convolution absorbed. Where the format
    cannot read weights, nothing is compared: such files are compared by outputs alone.
    """
    convolutions = format_of(path).convolutions(path)
    if convolutions is None:
        return _UNREAD
    expected = convolutions_of_checkpoint(checkpoint)
    network = checkpoint.architecture.normalization
    worst: dict[str, Match] = {}
    found: set[str] = set()
    strangers: list[str] = []
    singly = 0
    for convolution in convolutions:
        convolution = as_trained(convolution, form, network)  # noqa: PLW2901
        if not convolution.precision:
            convolution = convolution.stored_in(precision)  # noqa: PLW2901
        if convolution.precision not in (*ROUNDING, "int8"):
            return _UNREAD
        matches = matches_of(convolution, expected)
        found.update(match.name for match in matches)
        if not matches:
            if not _is_mean(convolution, checkpoint.architecture.box_bins):
                strangers.append(convolution.name)
            continue
        match = max(matches, key=lambda m: m.difference)
        singly += sum(m.singly for m in matches)
        before = worst.get(convolution.precision)
        if before is None or match.difference > before.difference:
            told = f"{convolution.name} against {match.name}"
            worst[convolution.precision] = Match(told, match.difference)
    missing = {c.name for c in expected} - found
    return AtRest(
        compared=len(found),
        unmatched=(*strangers, *sorted(missing)),
        worst=worst,
        singly=singly,
    )


def _is_mean(convolution: Convolution, bins: int) -> bool:
    """True for the mean over bins (DFL): MNN makes a convolution of the matrix product."""
    weight = convolution.weight.ravel()
    return bool(bins) and np.array_equal(weight, np.arange(bins)) and not convolution.bias.any()


def _result(precision: str, worst: Match) -> CheckResult:
    subject = "convolutions" if precision == "fp32" else f"convolutions in {precision}"
    metric = "steps" if precision == "int8" else "relative"
    limit = limit_at_rest(precision)
    return CheckResult(
        check=CHECK,
        subject=subject,
        metric=metric,
        measured=worst.difference,
        limit=limit,
        detail=worst.name,
    )


def limit_at_rest(precision: str) -> float:
    """The largest ``difference_at_rest`` of a right convolution that is stored in ``precision``."""
    return INT8_STEPS if precision == "int8" else ROUNDING[precision].limit


# ---------------------------------------------------------------- one of them against all


def matches_of(convolution: Convolution, expected: Sequence[Convolution]) -> list[Match]:
    """The expected convolutions that ``convolution`` is: one, or several joined; else none.

    Graphs for byte kernels fill channels up, take pools in and join heads
    (`precision.int8.arrangement`); the best fit counts.
    """
    readings = []
    for form in convolution.forms():
        readings += [[match] for match in _alike(form, expected)]
        if any(match.difference <= limit_at_rest(convolution.precision) for (match,) in readings):
            break
    else:
        readings += filter(None, (_joined(form, expected) for form in convolution.forms()))
    return min(readings, key=lambda found: max(m.difference for m in found), default=[])


def _alike(form: Convolution, expected: Sequence[Convolution]) -> Iterator[Match]:
    """All expected convolutions of the same shape."""
    for one in expected:
        if one.weight.shape == form.weight.shape:
            yield Match(one.name, difference_at_rest(form, one), _changed_singly(form, one))


def _joined(form: Convolution, expected: Sequence[Convolution]) -> list[Match]:
    """The rows of a joined convolution, one expected convolution after the other."""
    total, start = len(form.weight), 0
    parts = [
        c for c in expected if c.weight.shape[1:] == form.weight.shape[1:] and len(c.weight) < total
    ]
    found: list[Match] = []
    while start < total:
        fitting = [c for c in parts if start + len(c.weight) <= total]
        if not fitting:
            return []
        rows = [(c, form.part(slice(start, start + len(c.weight)))) for c in fitting]
        best = min(
            (Match(c.name, difference_at_rest(part, c)) for c, part in rows),
            key=lambda m: m.difference,
        )
        start += next(len(c.weight) for c in fitting if c.name == best.name)
        found.append(best)
    return found


def difference_at_rest(convolution: Convolution, own: Convolution) -> float:
    """How far ``convolution`` is from ``own``: relative, or in steps where it is INT8."""
    if convolution.precision == "int8":
        return _steps(convolution, own)
    weights = _away(convolution, own)
    biases = np.abs(own.bias - convolution.bias) / (np.abs(own.bias).max() or 1.0)
    return float(max(weights.max(), biases.max()))


def _away(convolution: Convolution, own: Convolution) -> Any:
    """The relative distance of each weight; none of numbers too small for the storage.

    Some converters (pnnx) store zero for what lies below the smallest normal number.
    """
    smallest = ROUNDING[convolution.precision].smallest * convolution.storage.factor
    size = np.abs(own.weight)
    away = np.abs(own.weight - convolution.weight) / np.maximum(size, smallest)
    flushed = (convolution.weight == 0) & (size < smallest)
    return np.where(flushed, 0.0, away)


def _changed_singly(convolution: Convolution, own: Convolution) -> int:
    """Weights that differ while most of the others are the same, and no whole channel does.

    Scaling, permuting or filling up channels changes all weights of a channel. A single weight that
    differs was changed, even if no picture shows the change.
    """
    if convolution.precision == "int8":
        return 0
    rounding = ROUNDING[convolution.precision]
    differ = _away(convolution, own) > rounding.limit
    if differ.mean() >= _MOST:
        return 0
    ratio = convolution.weight / np.where(own.weight == 0, 1, own.weight)
    by_kernel = np.ptp(ratio, axis=(2, 3)) > rounding.limit * np.abs(ratio).max(axis=(2, 3))
    rows, columns = differ.all(axis=(1, 2, 3)), differ.all(axis=(0, 2, 3))
    whole = (rows[:, None] | columns[None]) & ~by_kernel
    return int((differ & ~whole[:, :, None, None]).sum())


def _steps(convolution: Convolution, own: Convolution) -> float:
    """The largest distance of a weight in steps of its channel.

    A bias may have been corrected for the shift of its output's mean by rounding, by no more than
    the rounding errors of its channel times the largest value of the input. Any larger correction
    counts in steps.
    """
    stored, tiny = convolution.storage, float(np.finfo(np.float32).tiny)
    away = own.weight.astype(np.float64) - convolution.weight
    weights = float((np.abs(away) / np.maximum(stored.step, tiny)).max())
    room = np.abs(away.sum(axis=(2, 3))).sum(axis=1) * stored.reach + stored.bias_step
    room += np.abs(own.bias).max() * ROUNDING["fp32"].limit + tiny
    return max(weights, float((np.abs(own.bias - convolution.bias) / room).max()) * INT8_STEPS)


# ---------------------------------------------------------------- of checkpoints and files


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
