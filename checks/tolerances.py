"""How far an artifact may be from its reference: one row per precision and output, with a reason.

Scores are probabilities, bbox and kps are distances in stride units (1 at stride 8 is 8 pixels).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from scrfdconv.converters.errors import UsageError


@dataclass(frozen=True)
class Limits:
    """Limits on ``metrics.Errors``; the first three are upper, the last two lower limits."""

    max_abs: float
    mean_abs: float
    p999_abs: float
    cosine: float
    sqnr: float
    reason: str

    def loosened(self, factor: float) -> Limits:
        """Limits for errors ``factor`` times as large; the reason says so."""
        return Limits(
            max_abs=self.max_abs * factor,
            mean_abs=self.mean_abs * factor,
            p999_abs=self.p999_abs * factor,
            cosine=1 - (1 - self.cosine) * factor**2,
            sqnr=self.sqnr - 20 * math.log10(factor),
            reason=f"{self.reason}; loosened {factor:g} times on request",
        )


# Measured over the ten known networks with seeded weights, ONNX and TorchScript against PyTorch, on
# every stimulus and shape, and three with released weights on 40 photographs at 640x640, too.
# Worst: score 1.8e-5 and 89.5 dB, bbox 1.2e-4 and 99 dB, kps 7.8e-5 and 97 dB. The worst decibels
# come from TorchScript on photographs without a face, where all scores are near zero: folding
# normalisation into weights, as freezing does, rounds every weight once more. The limits leave a
# factor of three for other processors and photographs. One weight of one conv changed by 1 % gives
# 59 to 105 dB: see also checks/weights.py.
_FLOAT_REASON = "rounding of float32 in another order of summation"
# Simulated on the CPU: the ten known networks with seeded weights, inputs and weights of every
# convolution rounded to TF32's 10-bit mantissa, at 160x160. Worst: score 5.7e-3 and 46 dB, bbox
# 2.9e-2 and 54 dB, kps 2.9e-2 and 45 dB. The limits are about three times that; nothing was
# measured on a GPU.
_TF32_REASON = "convolutions of TF32: float32 with mantissas of 10 bits"
_TF32_LIMITS = {
    ("tf32", "score"): Limits(1.5e-2, 2e-3, 1.2e-2, 1 - 5e-5, 40, _TF32_REASON),
    ("tf32", "bbox"): Limits(8e-2, 1.5e-2, 8e-2, 1 - 1e-5, 48, _TF32_REASON),
    ("tf32", "kps"): Limits(8e-2, 1.5e-2, 7e-2, 1 - 5e-5, 40, _TF32_REASON),
}
# Measured with everything in FP16, as foreign conversions are: the ten known networks with seeded
# weights on every stimulus, with every value between two nodes rounded as FP16 hardware stores it
# (score 1.4e-2, 40 dB), and three released ones on 40 photographs at 640x640. Worst: score 1.9e-2
# and 27 dB, bbox 2.5e-1 and 34 dB, kps 1.4e-1 and 31 dB, and still no face was lost or new. The
# limits are 1.6 to 2 times that. The nodes that `fp16` keeps in float32 halve the errors: 1.1e-2,
# 9.8e-2, 7.7e-2.
_FP16_REASON = "weights and values of 11 significant bits"
_FP16_LIMITS = {
    ("fp16", "score"): Limits(3e-2, 3e-3, 3e-2, 1 - 2.5e-3, 21, _FP16_REASON),
    ("fp16", "bbox"): Limits(5e-1, 4e-2, 4e-1, 1 - 3e-4, 28, _FP16_REASON),
    ("fp16", "kps"): Limits(3e-1, 3e-2, 2.5e-1, 1 - 1e-3, 25, _FP16_REASON),
}
# Measured over five networks with seeded weights and three with released weights, calibrated on 18
# photographs, on every stimulus and 12 photographs at 640x640. Worst: score 0.21 and 9 dB, bbox 1.4
# and 17 dB, kps 1.5 and 13 dB, most on noise that no photograph is like; an untrained tiny network
# calibrated on two photographs came to two thirds of the limits below, and 34G with seeded weights
# at 160x160 to 0.52 on average in its boxes. The limits catch a dead or cut-off output, which has 0
# dB. Only a comparison of faces shows whether an INT8 model is good (recipes/int8/search.py,
# `verify --images`).
_INT8_REASON = "weights and activations of 8 bits"
_INT8_LIMITS = {
    ("int8", "score"): Limits(7e-1, 1.5e-1, 6e-1, 1 - 3e-1, 2, _INT8_REASON),
    ("int8", "bbox"): Limits(4, 8e-1, 3, 1 - 2e-2, 11, _INT8_REASON),
    ("int8", "kps"): Limits(4, 5e-1, 3, 1 - 8e-2, 6, _INT8_REASON),
}
LIMITS: dict[tuple[str, str], Limits] = {
    ("fp32", "score"): Limits(5e-5, 2e-6, 5e-5, 1 - 1.5e-9, 80, _FLOAT_REASON),
    ("fp32", "bbox"): Limits(4e-4, 5e-5, 3.5e-4, 1 - 1.5e-10, 90, _FLOAT_REASON),
    ("fp32", "kps"): Limits(2.5e-4, 2e-5, 1.6e-4, 1 - 2.5e-10, 88, _FLOAT_REASON),
    **_TF32_LIMITS,
    **_FP16_LIMITS,
    **_INT8_LIMITS,
}


@dataclass(frozen=True)
class BiasLimits:
    """Limits on ``metrics.Bias``; scores in logits, weighted by the score of the anchor."""

    slope: float
    offset: float
    reason: str
    # No limits on these where that of the slope says as much.
    growth: float = math.inf
    skew: float = math.inf

    def loosened(self, factor: float) -> BiasLimits:
        """Limits for biases ``factor`` times as large; the reason says so."""
        said = f"{self.reason}; loosened {factor:g} times on request"
        return BiasLimits(
            self.slope * factor,
            self.offset * factor,
            said,
            growth=self.growth * factor,
            skew=self.skew * factor,
        )


# Rounding errors cancel out. Measured on every stimulus and with 40 photographs besides: three
# trained models at 640x640 and 320x320, ten networks with seeded weights at 160x160, in FP16 (also
# with everything in FP16) and in INT8 (calibrated on 24 photographs, and on eight portraits).
# Largest:
#   FP16  bbox 0.0022 and 0.0024, kps 0.0051 and 0.0037, score 0.0013 and 0.0028
#   INT8  bbox 0.016  and 0.024,  kps 0.040  and 0.021,  score 0.042  and 0.058
# Tiny seeded networks that were calibrated on few or other pictures came to offsets of 0.07, 0.08
# and 0.12 and, at stride 32 with a dozen anchors, to slopes of 0.064 (bbox) and 0.067 (kps).
# The limits are 1.6 to 5 times the largest values above, and below faults that must be found: boxes
# that are 10 % too large have a slope of 0.1 and an offset of 0.2 or more, exchanged eyes an offset
# above 1, a score power of 1.3 a slope of 0.3.
# INT8 draws the distances of an output towards their mean, by up to 5 %, and not away from it: 10 %
# too much shows by growth, and in one keypoint alone by skew. Largest with weights of 7 bits:
# growth 0 (500M_KPS at 320x320, arranged for ONNX Runtime and for OpenVINO), skew 0.022 (two
# trained models).
# float32 alone, ONNX against PyTorch: three trained models at 640x640 with six photographs, 500M
# and 1G with seeded weights at 160x160. Largest: slope 2.2e-6 (score of 1G), 5.3e-7 (bbox), 1.7e-6
# (kps), offset 1.1e-6. The limit is 45 times that, and 1000 times below the faults: runtimes that
# add up in another order (Winograd) were not measured alone.
_NO_SIDE = "rounding takes no side: errors cancel out over anchors"
BIASES: dict[tuple[str, str], BiasLimits] = {
    ("fp32", "score"): BiasLimits(1e-4, 1e-4, _NO_SIDE),
    ("fp32", "bbox"): BiasLimits(1e-4, 1e-4, _NO_SIDE),
    ("fp32", "kps"): BiasLimits(1e-4, 1e-4, _NO_SIDE),
    ("tf32", "score"): BiasLimits(1e-2, 1e-2, _NO_SIDE),
    ("tf32", "bbox"): BiasLimits(1e-2, 1e-2, _NO_SIDE),
    ("tf32", "kps"): BiasLimits(1.5e-2, 1e-2, _NO_SIDE),
    ("fp16", "score"): BiasLimits(1e-2, 1e-2, _NO_SIDE),
    ("fp16", "bbox"): BiasLimits(1e-2, 1e-2, _NO_SIDE),
    ("fp16", "kps"): BiasLimits(1.5e-2, 1e-2, _NO_SIDE),
    ("int8", "score"): BiasLimits(8e-2, 2.5e-1, _NO_SIDE),
    ("int8", "bbox"): BiasLimits(7.5e-2, 1.2e-1, _NO_SIDE, growth=6e-2, skew=5.5e-2),
    ("int8", "kps"): BiasLimits(8e-2, 1.2e-1, _NO_SIDE, growth=6e-2, skew=5.5e-2),
}
# The units of a model that is no SCRFD are unknown: only relative measures mean something.
_UNKNOWN_UNITS = Limits(math.inf, math.inf, math.inf, 1 - 2e-10, 90, _FLOAT_REASON)


# ONNX Runtime's InstanceNormalization adds all values of a group up in one float32 sum. Measured
# for 1G with seeded weights against PyTorch: 640x640 is within the limits; 2176x3840, 20 times as
# many pixels, needs 4 (max_abs of bbox) to 9 times (mean_abs of bbox) the limits.
_WITHOUT_GROWTH = 640 * 640  # pixels


def growth_of_one_sum(pixels: int) -> float:
    """The factor on limits of float32 where one model adds whole maps up and the other does not."""
    return max(1.0, pixels / _WITHOUT_GROWTH)


def limits_for(precision: str, output: str, loosen: float = 1.0) -> Limits:
    """The row for an output such as ``score_8``, looser by ``loosen`` if the user asked for it."""
    _require_loosening(loosen)
    row = LIMITS.get((precision, output.partition("_")[0]), _UNKNOWN_UNITS)
    return row if loosen == 1 else row.loosened(loosen)


def bias_limits_for(precision: str, output: str, loosen: float = 1.0) -> BiasLimits | None:
    """The row of `BIASES` for an output such as ``score_8``; None for unknown outputs."""
    _require_loosening(loosen)
    row = BIASES.get((precision, output.partition("_")[0]))
    return row if row is None or loosen == 1 else row.loosened(loosen)


def _require_loosening(factor: float) -> None:
    if not 1 <= factor < math.inf:
        raise UsageError(
            f"--loosen {factor:g}: must be a number, 1 or more; limits are only ever loosened."
        )
