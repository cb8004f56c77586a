"""Do two ONNX graphs compute the same, whatever they take and return?

Inputs are drawn by type and shape, and outputs compared by name, type, shape and value. An output
that is empty, or has one value for every input, was not judged, and the report says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from scrfdconv.checks.faces.images import network_input, read_image
from scrfdconv.checks.metrics import Errors, errors
from scrfdconv.checks.parity import CHECK
from scrfdconv.checks.results import CheckResult, Report
from scrfdconv.checks.tolerances import limits_for
from scrfdconv.converters.errors import ArtifactError, UsageError
from scrfdconv.converters.graph.function import Argument, GraphFunction
from scrfdconv.converters.normalization import STANDARD, Normalization

# What floats are drawn between: as networks normalise pictures, as bytes, and wider.
_RANGES = ((-1.0, 1.0), (0.0, 1.0), (0.0, 255.0), (-4.0, 4.0))
# Free sizes of the last axes, and bounds of whole numbers, which may be indices of tables: the
# first ones that the source runs with are taken. Other axes are 2, so that a mix-up shows.
_SIZES, _BOUNDS, _MANY = (64, 2, 1, 224), (100, 2, 1), 2
_SPATIAL = 2  # axes at the end whose size is often bound by strides
_IMAGE_RANK, _COLOURS = 4, (1, 3)
_PICTURE_SIDE = 640
_MOST_VALUES = 1 << 26  # of an input: a picture of 4096x4096 in RGB has 2^25.6
_BYTES = Normalization(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
_FLOATS = {"float": np.float32, "double": np.float64, "float16": np.float16}
_WHOLE = {f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_result = partial(CheckResult, CHECK)


def compare_functions(
    source: Path, path: Path, images: Sequence[Path] = (), loosen: float = 1.0
) -> Report:
    """Compare the ONNX graph at ``path`` with the one at ``source``, on ``images``, too.

    Raises ArtifactError for files that do not load, UsageError for ``images`` where no input takes
    pictures.
    """
    want, got = GraphFunction(source), GraphFunction(path)
    faults = [*_unlike(want.outputs, got.outputs), *_unlike(_names(want), _names(got))]
    results = [_result("interface", "faults", len(faults), 0, detail="; ".join(faults))]
    if faults:
        return Report.of(results)
    drawing = _drawing(want, got)
    outputs = {name: _Output(name) for name in want.outputs}
    compared, reason = 0, drawing.reason
    for name, values in _samples(drawing, images):
        try:
            a, b = want(values), got(values)
        except ArtifactError as error:
            results.append(_result(name, "runs", 1, 0, detail=str(error)))
            continue
        compared += 1
        for output in outputs.values():
            output.add(a[output.name], b[output.name], name)
    results.append(_result("samples", "compared", compared, 1, at_least=True, detail=reason))
    if compared:
        judged = [output for output in outputs.values() if output.judged]
        results.append(_result("outputs", "judged", len(judged), 1, at_least=True))
        results += [result for output in outputs.values() for result in output.results(loosen)]
    notes = [output.note for output in outputs.values() if compared and not output.judged]
    return Report.of(results, notes)


def _names(function: GraphFunction) -> tuple[str, ...]:
    return tuple(argument.name for argument in function.inputs)


def _unlike(want: Sequence[str], got: Sequence[str]) -> Iterator[str]:
    yield from (f"missing {name}" for name in want if name not in got)
    yield from (f"extra {name}" for name in got if name not in want)


# ---------------------------------------------------------------- inputs


@dataclass(frozen=True)
class _Drawing:
    """How inputs are drawn; ``reason`` says why they cannot be."""

    inputs: tuple[Argument, ...]
    size: int = 1
    bound: int = 1
    reason: str = ""

    @property
    def values(self) -> int:
        """Numbers in all inputs together."""
        return sum(math.prod(self._shape(each)) for each in self.inputs)

    def sample(self, seed: int) -> dict[str, np.ndarray]:
        draw = np.random.Generator(np.random.PCG64(seed))
        return {each.name: self._drawn(each, draw, seed) for each in self.inputs}

    def _drawn(self, argument: Argument, draw: np.random.Generator, seed: int) -> np.ndarray:
        kind, shape = _kind(argument), self._shape(argument)
        if kind in _FLOATS:
            return draw.uniform(*_RANGES[seed % len(_RANGES)], shape).astype(_FLOATS[kind])
        if kind == "bool":
            return draw.random(shape) < 0.5  # noqa: PLR2004 - one half
        bound = 256 if kind == "uint8" else self.bound  # bytes are pixels
        return draw.integers(0, bound, shape).astype(_WHOLE[kind])

    def _shape(self, argument: Argument) -> tuple[int, ...]:
        rank, few = len(argument.dims), min(self.size, _MANY)
        free = [few] * (rank - _SPATIAL) + [self.size] * _SPATIAL
        if rank != _IMAGE_RANK:
            free = [few] * rank
        elif argument.dims[3] in _COLOURS:  # (N, H, W, C)
            free = [few, self.size, self.size, few]
        return tuple(size or free[axis] for axis, size in enumerate(argument.dims))


def _kind(argument: Argument) -> str:
    return argument.kind.removeprefix("tensor(").removesuffix(")")


def _drawing(want: GraphFunction, got: GraphFunction) -> _Drawing:
    """The first sizes and bounds that the source runs with; sizes that either fixes are kept."""
    fixed = {each.name: each.dims for each in got.inputs}
    inputs = tuple(
        Argument(each.name, each.kind, _common(each.dims, fixed[each.name])) for each in want.inputs
    )
    for each in inputs:
        if _kind(each) not in (*_FLOATS, *_WHOLE, "bool"):
            return _Drawing(inputs, reason=f"nothing can be drawn for the input {each}")
    reason = "too many values"
    for size in _SIZES:
        for bound in _BOUNDS:
            drawing = _Drawing(inputs, size, bound)
            if drawing.values > _MOST_VALUES:
                continue
            try:
                want(drawing.sample(0))
            except ArtifactError as error:
                reason = str(error)
            else:
                return drawing
    return _Drawing(inputs, reason=f"the source runs on no drawn input: {reason}")


def _common(a: Sequence[int | None], b: Sequence[int | None]) -> tuple[int | None, ...]:
    return tuple(x or y for x, y in zip(a, b, strict=True))


def _samples(
    drawing: _Drawing, images: Sequence[Path]
) -> Iterator[tuple[str, Mapping[str, np.ndarray]]]:
    if drawing.reason:
        return
    for seed in range(len(_RANGES)):
        yield f"input {seed}", drawing.sample(seed)
    takers = [each for each in drawing.inputs if _takes_pictures(each)]
    if images and len(takers) != 1:
        listed = "; ".join(map(str, drawing.inputs))
        raise UsageError(f"--images: one input must take pictures, and the inputs are {listed}.")
    for path in images:
        yield path.name, {**drawing.sample(0), takers[0].name: _picture(takers[0], path)}


def _takes_pictures(argument: Argument) -> bool:
    colours = argument.dims[1:4:2] if len(argument.dims) == _IMAGE_RANK else ()
    return any(size in _COLOURS for size in colours) and _kind(argument) in (*_FLOATS, "uint8")


def _picture(argument: Argument, path: Path) -> np.ndarray:
    """The photograph as RGB: bytes as they are, floats by (x - 127.5) / 128."""
    batch, *sizes = argument.dims
    last = sizes[0] not in _COLOURS
    colours = sizes[2] if last else sizes[0]
    height, width = (s or _PICTURE_SIDE for s in (sizes[:2] if last else sizes[1:]))
    kind = _kind(argument)
    wanted = _BYTES if kind == "uint8" else STANDARD
    planes, _ = network_input([read_image(path)], (height, width), wanted)
    planes = np.repeat(planes[:, :colours], batch or 1, axis=0)
    values = planes.transpose(0, 2, 3, 1) if last else planes
    return np.ascontiguousarray(values.astype(_FLOATS.get(kind, np.uint8)))


# ---------------------------------------------------------------- outputs


@dataclass
class _Output:
    """What was seen of one output; it was judged if two of its values differed."""

    name: str
    worst: Errors | None = None
    different: int = 0  # whole numbers and truth values that are not equal
    faults: list[CheckResult] = field(default_factory=list)
    seen: set[float] = field(default_factory=set)  # up to two values

    @property
    def judged(self) -> bool:
        """True if a change of the values would have been seen."""
        return len(self.seen) > 1 or bool(self.faults)

    @property
    def note(self) -> str:
        """Why the output was not judged."""
        value = f"{min(self.seen):g} everywhere" if self.seen else "empty or no tensor"
        return f"not judged: {self.name} is {value} on every input; --images gives photographs"

    def add(self, want: Any, got: Any, where: str) -> None:
        """Compare one pair of values."""
        if not isinstance(want, np.ndarray) or want.dtype.kind not in "fiub":
            return
        if not isinstance(got, np.ndarray) or (want.shape, want.dtype) != (got.shape, got.dtype):
            told = f"another type or shape than {want.dtype} {list(want.shape)}"
            self.faults.append(_result(self.name, "shape", 1, 0, detail=f"{told} on {where}"))
            return
        if want.dtype.kind != "f":
            self.different += int((want != got).sum())
            self._see(want)
            return
        finite = np.isfinite(want)
        if not np.array_equal(want[~finite], got[~finite], equal_nan=True):
            told = f"NaN or infinite on {where}"
            self.faults.append(_result(self.name, "finite", 1, 0, detail=told))
        elif finite.any():
            found = errors(want[finite], got[finite])
            self.worst = self.worst.worst(found) if self.worst else found
            self._see(want[finite])

    def _see(self, values: np.ndarray) -> None:
        if values.size and len(self.seen) < 2:  # noqa: PLR2004 - two values differ
            self.seen |= {float(values.min()), float(values.max())}

    def results(self, loosen: float) -> Iterator[CheckResult]:
        """Measurements of this output, if anything was compared."""
        yield from self.faults
        if self.worst:
            limits = limits_for("fp32", "", loosen)  # the row of unknown units
            for metric in ("cosine", "sqnr"):
                measured, limit = getattr(self.worst, metric), getattr(limits, metric)
                yield _result(self.name, metric, measured, limit, at_least=True)
        elif self.seen:
            yield _result(self.name, "different", self.different, 0)
