"""Ranges of activations, measured one picture at a time, so that memory does not grow with them.

The library's calibrators keep the activations of all pictures before they summarise them. Here the
first pass takes each tensor's extremes and each channel's mean, inside ONNX Runtime. For the
methods that need histograms, a second pass takes them, in a fixed size, and the library's own rules
choose the ranges from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from scrfdconv.converters.graph.interface.forms import outputs_of
from scrfdconv.converters.graph.interface.preamble import preamble_of
from scrfdconv.converters.graph.model_file import opset_of
from scrfdconv.converters.precision.int8.float_nodes import OPERATORS
from scrfdconv.converters.precision.int8.quantization import Ranges
from scrfdconv.converters.structured import read_json, write_json

if TYPE_CHECKING:
    import onnx

Calibrator = Literal["minmax", "entropy", "percentile"]
CALIBRATORS: tuple[Calibrator, ...] = get_args(Calibrator)
Images = Callable[[], Iterable[np.ndarray]]  # (N, 3, H, W) float32 each, the same ones every time

LARGEST_SIZE = 1 << 15  # pixels of a picture's side; a table of more was not measured
LARGEST_VALUE = 3.4028235e38  # of float32, in which ranges are measured
# Bins of the histograms. The library's default for entropy, 128 of 128 levels, leaves its rule
# nothing to choose; with 512 it tries 192 widths, in 0.05 s for each tensor.
_BINS = {"entropy": 512, "percentile": 2048}
_LEVELS = 128  # to which entropy reduces a histogram
_PERCENTILE = 99.999
# What is measured of an activation (N, C, H, W), and over which axes.
_MEASURES = {"ReduceMin": [0, 1, 2, 3], "ReduceMax": [0, 1, 2, 3], "ReduceMean": [0, 2, 3]}


@dataclass(frozen=True)
class CalibrationTable:
    """The measurements of one model: enough to quantize the model again without pictures."""

    source_sha256: str  # of the checkpoint or model that was given
    images_sha256: str
    images: int
    shape: tuple[int, int]
    calibrator: Calibrator
    ranges: dict[str, tuple[float, float]]  # of activations
    means: dict[str, list[float]] = field(default_factory=dict)  # of their channels
    version: Literal[2] = 2

    def __post_init__(self) -> None:
        if not all(0 < size <= LARGEST_SIZE for size in self.shape) or self.images < 0:
            raise ValueError(
                f"a table of {self.images} images of {self.shape} pixels is impossible"
            )
        for name, (low, high) in self.ranges.items():
            if not -LARGEST_VALUE <= low <= high <= LARGEST_VALUE:
                raise ValueError(f"range of {name}: {low} to {high}")
        for name, means in self.means.items():
            if not all(-LARGEST_VALUE <= value <= LARGEST_VALUE for value in means):
                raise ValueError(f"means of {name}: beyond float32")

    def save(self, path: Path) -> None:
        """Write the table as JSON; reading the file gives the same numbers."""
        write_json(path, self)


def load_table(path: Path) -> CalibrationTable:
    """Read a calibration table; raises InputFileError for other files."""
    return read_json(
        path,
        CalibrationTable,
        "calibration table of scrfdconv",
        "make one with `scrfdconv int8 --save-calibration`",
        keys="all",
    )


# ---------------------------------------------------------------- extremes


@dataclass(frozen=True)
class Extremes:
    """The smallest and largest value of every measured activation, and its channels' means."""

    low: dict[str, float]
    high: dict[str, float]
    mean: dict[str, np.ndarray]  # (C,)

    def ranges(
        self, image: str, every_picture: tuple[float, float]
    ) -> dict[str, tuple[float, float]]:
        """All ranges; the tensor ``image`` has that of ``every_picture``, not of those seen."""
        return {k: (low, self.high[k]) for k, low in self.low.items()} | {image: every_picture}


def extremes(model: onnx.ModelProto, images: Images) -> list[Extremes]:
    """The extremes of a quantizable model's activations on each batch of ``images``."""
    names = [n.output[0] for n in model.graph.node if n.op_type in OPERATORS]
    probed = _with_extremes(model, names)
    found = []
    for values in outputs_of(probed, images):
        low, high, mean = (values[i :: len(_MEASURES)] for i in range(len(_MEASURES)))
        found.append(
            Extremes(
                {name: float(value) for name, value in zip(names, low, strict=True)},
                {name: float(value) for name, value in zip(names, high, strict=True)},
                dict(zip(names, mean, strict=True)),
            )
        )
    return found


def widest(parts: Iterable[Extremes]) -> Extremes:
    """The extremes over all of ``parts``, and the means of their means."""
    found = list(parts)
    names = found[0].low.keys()
    return Extremes(
        {name: min(part.low[name] for part in found) for name in names},
        {name: max(part.high[name] for part in found) for name in names},
        {name: np.mean([part.mean[name] for part in found], axis=0) for name in names},
    )


def _with_extremes(model: onnx.ModelProto, names: list[str]) -> onnx.ModelProto:
    """The model with three outputs for each of the named tensors, and no others."""
    import onnx
    from onnx import helper, numpy_helper

    result = onnx.ModelProto()
    result.CopyFrom(model)
    graph = result.graph
    axes_are_inputs = opset_of(model) >= 18  # noqa: PLR2004 - ReduceMin-18 and ReduceMax-18
    del graph.output[:], graph.value_info[:]
    for operator, axes in _MEASURES.items():
        graph.initializer.append(numpy_helper.from_array(np.array(axes, np.int64), f"{operator}."))
    # The last nodes first: ONNX Runtime walks back from the outputs in turn. In the other order,
    # the whole network would run before the first measurement, with every activation in memory
    # (5.2 instead of 0.9 GiB for 34G).
    for name in reversed(names):
        for operator, axes in _MEASURES.items():
            output = f"{name}.{operator}"
            inputs = [name, f"{operator}."] if axes_are_inputs else [name]
            node = helper.make_node(operator, inputs, [output], keepdims=0)
            if not axes_are_inputs:
                node.attribute.append(helper.make_attribute("axes", axes))
            graph.node.append(node)
    for name in (f"{name}.{operator}" for name in names for operator in _MEASURES):
        graph.output.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    return result


# ---------------------------------------------------------------- ranges


def chosen_ranges(
    model: onnx.ModelProto, extreme: Ranges, calibrator: Calibrator, images: Images
) -> dict[str, tuple[float, float]]:
    """Ranges by one of the library's rules, within ``extreme``; minmax returns ``extreme``."""
    if calibrator == "minmax":
        return dict(extreme)
    from onnxruntime.quantization.calibrate import HistogramCollector

    bins = _BINS[calibrator]
    collector = HistogramCollector(
        method=calibrator,
        symmetric=False,
        num_bins=bins,
        num_quantized_bins=_LEVELS,
        percentile=_PERCENTILE,
        scenario="same",
    )
    image = preamble_of(model).image
    counted = {name: limits for name, limits in extreme.items() if name != image}
    for name, (counts, reach) in _histograms(model, counted, bins, images).items():
        edges = np.linspace(-reach, reach, bins + 1, dtype=np.float32)
        low, high = map(np.float32, counted[name])
        collector.histogram_dict[name] = (counts, edges, low, high, np.float32(reach))
    with redirect_stdout(StringIO()):  # the library prints its progress there
        chosen = collector.compute_collection_result()
    result = {name: _within(data[:2], counted[name]) for name, data in chosen.items()}
    return dict(extreme) | result


def _within(chosen: Iterable[Any], limits: tuple[float, float]) -> tuple[float, float]:
    """``chosen`` cut to the measured ``limits``: symmetric rules waste half of a ReLU's range."""
    low, high = (float(value) for value in chosen)
    return max(low, limits[0]), min(high, limits[1])


def _histograms(
    model: onnx.ModelProto, limits: Ranges, bins: int, images: Images
) -> dict[str, tuple[np.ndarray, float]]:
    """Counts over (-reach, reach) of each tensor, in ``bins``, and its reach."""
    import onnx

    probed = onnx.ModelProto()
    probed.CopyFrom(model)
    del probed.graph.output[:], probed.graph.value_info[:]
    for name in limits:
        value = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
        probed.graph.output.append(value)
    reaches = {name: max(-low, high) or 1.0 for name, (low, high) in limits.items()}
    counts = {name: np.zeros(bins, np.int64) for name in limits}
    for values in outputs_of(probed, images):
        for name, value in zip(limits, values, strict=True):
            scaled = (value.ravel() + np.float32(reaches[name])) * (bins / (2 * reaches[name]))
            index = np.minimum(scaled.astype(np.int32), bins - 1)
            counts[name] += np.bincount(np.maximum(index, 0), minlength=bins)
    return {name: (counts[name], reaches[name]) for name in limits}
