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
            self.max_abs * factor, self.mean_abs * factor, self.p999_abs * factor,
            1 - (1 - self.cosine) * factor**2, self.sqnr - 20 * math.log10(factor),
            f"{self.reason}; loosened {factor:g} times on request",
        )  # fmt: skip


# Measured over the ten known networks with seeded weights and three with released weights, on
# every stimulus at 320x320 against PyTorch: the worst max error was 4e-6 for scores, 3e-5 for bbox
# and kps, the lowest SQNR 98 dB for scores and 109 dB for the others. The limits leave a factor
# for other processors and photographs. One weight of one conv changed by 1 % gives 59 to 105 dB.
_FLOAT_REASON = "rounding of float32 in another order of summation"
LIMITS: dict[tuple[str, str], Limits] = {
    ("fp32", "score"): Limits(2e-5, 2e-6, 1e-5, 1 - 1e-9, 92, _FLOAT_REASON),
    ("fp32", "bbox"): Limits(1e-4, 2e-5, 8e-5, 1 - 1e-10, 105, _FLOAT_REASON),
    ("fp32", "kps"): Limits(1e-4, 2e-5, 8e-5, 1 - 1e-10, 102, _FLOAT_REASON),
}
PRECISIONS = tuple(dict.fromkeys(precision for precision, _ in LIMITS))


def limits_for(precision: str, output: str, loosen: float = 1.0) -> Limits:
    """The row for an output such as ``score_8``; ``loosen`` must be asked for by the user."""
    if loosen < 1:
        raise UsageError(f"--loosen {loosen:g}: must be 1 or more; limits are only ever loosened.")
    row = LIMITS[precision, output.partition("_")[0]]
    return row if loosen == 1 else row.loosened(loosen)
