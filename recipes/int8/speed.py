"""Is INT8 faster here? The float and the INT8 model side by side, with one thread and with all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from scrfdconv.checks.benchmark import Workload, measure, ratio
from scrfdconv.converters.artifact import Artifact
from scrfdconv.converters.formats import open_artifact
from scrfdconv.converters.runner import Interface

RUNS, WARM_UP = 12, 2  # 3 s for 2.5G_KPS; the median of ratios is within 3 % on an idle machine


@dataclass(frozen=True)
class SpeedWithThreads:
    """Medians of both models for one number of threads, and their ratio, round by round."""

    threads: int | None  # None: the runtime chooses
    float_ms: float
    int8_ms: float
    speedup: float

    @property
    def name(self) -> str:
        """``1 thread`` or ``all threads``."""
        return f"{self.threads} thread" if self.threads else "all threads"


@dataclass(frozen=True)
class Speed:
    """How fast both models are at one input shape, with one thread and with all."""

    shape: tuple[int, int]
    batch: int
    paces: tuple[SpeedWithThreads, ...]

    def lines(self) -> Iterator[str]:
        """Lines for people, with a warning if INT8 is slower than float."""
        for pace in self.paces:
            yield (
                f"{pace.name}: float {pace.float_ms:.1f} ms, int8 {pace.int8_ms:.1f} ms, "
                f"{pace.speedup:.2f} times as fast ({self.batch}x3x{self.shape[0]}x{self.shape[1]})"
            )
        if any(pace.speedup < 1 for pace in self.paces):
            yield "WARNING: the INT8 model is SLOWER than the float model on this machine."

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "shape": list(self.shape),
            "batch": self.batch,
            "paces": [
                {
                    "threads": p.threads,
                    "float_ms": p.float_ms,
                    "int8_ms": p.int8_ms,
                    "speedup": p.speedup,
                }
                for p in self.paces
            ],
        }


def measured_speed(reference: Artifact, int8: Path, size: tuple[int, int]) -> Speed:
    """Time a float artifact against an INT8 one on this machine; ``size`` is for dynamic ones."""
    paces, workload = [], None
    for threads in (1, None):
        pace, workload = _pace(reference.path, int8, threads, size)
        paces.append(pace)
    assert workload is not None
    return Speed(workload.shape, workload.batch, tuple(paces))


def _pace(
    path: Path, int8: Path, threads: int | None, size: tuple[int, int]
) -> tuple[SpeedWithThreads, Workload]:
    def choose(interfaces: Mapping[str, Interface]) -> Workload:
        first = interfaces["float"]
        return Workload(first.batch or 1, first.shape or size, RUNS, WARM_UP)

    models = {
        name: partial(open_artifact, file, threads)
        for name, file in (("float", path), ("int8", int8))
    }
    (first, second), done = measure(models, choose, threads)
    speedup = 1 / ratio(second, first).median
    return SpeedWithThreads(threads, first.median * 1e3, second.median * 1e3, speedup), done
