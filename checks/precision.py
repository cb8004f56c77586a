"""In which precision does a model really compute? Counted from the graph, in multiply-adds.

A file that is called FP16 and computes in float32 is a common accident: flags that a runtime
ignores, a converter that keeps every convolution, weights that are cast back before their use.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scrfdconv.checks.results import CheckResult
from scrfdconv.converters.graph.inference import runs_of
from scrfdconv.converters.graph.interface.forms import form_of
from scrfdconv.converters.graph.interface.preamble import dims_of, input_dtype
from scrfdconv.converters.graph.model_file import image_input, load_onnx
from scrfdconv.converters.graph.number_types import convolutions, precision_in, weight_name
from scrfdconv.converters.metadata import PREFIX
from scrfdconv.converters.network.architecture import CHANNELS, require_shape

if TYPE_CHECKING:
    import onnx

CHECK = "precision"
BITS = {"fp32": 32, "fp16": 16, "int8": 8}
DEFAULT_SHAPE = (640, 640)  # of dynamic models; shares hardly depend on the size


@dataclass(frozen=True)
class Audit:
    """Convolutions and their multiply-adds for one image, by the precision they compute in."""

    claimed: str | None  # by the metadata; None for a foreign file
    precision: str  # the coarsest type of numbers in the graph
    shape: tuple[int, int]
    convolutions: Mapping[str, int]
    multiply_adds: Mapping[str, int]

    def share(self, precision: str) -> float:
        """Part of the multiply-adds that run in ``precision``, 0 to 1; NaN without any."""
        total = sum(self.multiply_adds.values())
        return self.multiply_adds.get(precision, 0) / total if total else math.nan

    def sentence(self) -> str:
        """``97.9 % of 0.73 G multiply-adds in fp16, 2.1 % in fp32 (640x640)``."""
        total = sum(self.multiply_adds.values()) / 1e9
        first, *others = sorted(self.multiply_adds, key=self.share, reverse=True) or ["fp32"]
        rest = "".join(f", {self.share(name):.1%} in {name}" for name in others)
        height, width = self.shape
        return (
            f"{self.share(first):.1%} of {total:.2f} G multiply-adds in {first}{rest} "
            f"({height}x{width})"
        )

    @property
    def overstated(self) -> bool:
        """True if the file claims fewer bits than its numbers have: the saving is not there."""
        return bool(self.claimed) and _bits(self.claimed) < _bits(self.precision)

    def results(self) -> Iterator[CheckResult]:
        """At least one convolution must compute in the file's precision, and in the claimed one.

        A claim of more bits than the numbers have is a line that a converter copied: see `remarks`.
        """
        wanted = self.claimed if self.overstated else self.precision if self.claimed else None
        count = sum(self.convolutions.values())
        if wanted:
            count = self.convolutions.get(wanted, 0)
        yield CheckResult(
            check=CHECK,
            subject="convolutions",
            metric=wanted or "any",
            measured=count,
            limit=1,
            at_least=True,
            detail=self.sentence(),
        )
        if self.overstated:
            detail = f"called {self.claimed}, but its numbers are {self.precision}"
            yield CheckResult(
                check=CHECK, subject="claim", metric="faults", measured=1, limit=0, detail=detail
            )

    def remarks(self) -> Iterator[str]:
        """Stale lines in the metadata, which the converter of the file did not update."""
        if self.claimed and self.claimed != self.precision and not self.overstated:
            yield (
                f"the metadata line {PREFIX}precision says {self.claimed} and is stale: the "
                f"numbers are {self.precision}, and that is what was judged"
            )

    def to_dict(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "claimed": self.claimed,
            "precision": self.precision,
            "shape": list(self.shape),
            "convolutions": dict(self.convolutions),
            "multiply_adds": dict(self.multiply_adds),
            "shares": {name: self.share(name) for name in self.multiply_adds},
        }


def _bits(precision: str | None) -> int:
    """Bits of the number type with that name; 0 for unknown names."""
    return BITS.get(precision or "", 0)


def audit(path: Path, shape: tuple[int, int] | None = None) -> Audit:
    """Count the convolutions of an ONNX file; ``shape`` (H, W) sizes a dynamic one.

    Raises ArtifactError where ONNX Runtime cannot run it.
    """
    if shape:
        require_shape(shape)
    model = load_onnx(path)
    image = _image(model, shape or DEFAULT_SHAPE)
    found, precision = list(convolutions(model)), precision_in(path)
    counts: dict[str, int] = {}
    work: dict[str, int] = {}
    for (_, kind), amount in zip(found, _multiply_adds(model, found, image), strict=True):
        counts[kind] = counts.get(kind, 0) + 1
        work[kind] = work.get(kind, 0) + amount
    claimed = next((p.value for p in model.metadata_props if p.key == PREFIX + "precision"), None)
    _, _, height, width = form_of(model).sizes(image.shape)
    assert height and width
    return Audit(
        claimed=claimed,
        precision=precision,
        shape=(height, width),
        convolutions=counts,
        multiply_adds=work,
    )


def _image(model: onnx.ModelProto, shape: tuple[int, int]) -> np.ndarray:
    """A black image of the model's size, type and layout; its free dimensions are set."""
    given, form = image_input(model), form_of(model)
    free = (1, CHANNELS, *shape)
    sizes = zip(form.sizes(dims_of(given)), free, strict=True)
    image = np.zeros([size or other for size, other in sizes], input_dtype(given))
    return np.asarray(form.laid_out(image))


def _multiply_adds(
    model: onnx.ModelProto, found: list[tuple[onnx.NodeProto, str]], image: np.ndarray
) -> Iterator[int]:
    """For each convolution: its output values times the weights summed up in each value.

    The shapes are those of a run: shape inference loses track of the released models' upsampling.
    """
    import onnx

    if not found:
        return
    asked = [name for node, _ in found for name in (weight_name(node), node.output[0])]
    del model.graph.output[:]
    for i, name in enumerate(asked):
        model.graph.node.append(onnx.helper.make_node("Shape", [name], [f"shape.{i}"]))
        value = onnx.helper.make_tensor_value_info(f"shape.{i}", onnx.TensorProto.INT64, [4])
        model.graph.output.append(value)
    (shapes,) = runs_of(model, lambda: [image])
    for weight, output in zip(shapes[::2], shapes[1::2], strict=True):
        yield math.prod(output.tolist()) * math.prod(weight.tolist()[1:])
