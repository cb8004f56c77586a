"""A model as a chain of layers: what each gives, in a whole run or from given inputs.

A layer is a convolution, or one output of the model with all that stands between it and the
convolutions before. A model that is cut behind every convolution takes the value of each from
outside, so that an error of one layer does not reach the next one.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scrfdconv.converters.graph.convolution import Convolution
from scrfdconv.converters.runner import Runner


@dataclass(frozen=True, kw_only=True)
class Layer:
    """One convolution, or one output: then ``convolution`` is None."""

    name: str  # as the file calls the convolution, or ``score_8`` ...
    value: str  # the name of what the layer gives
    convolution: Convolution | None = None
    activated: bool = False  # the convolution is fused with the ReLU behind


class Layers(ABC):
    """The layers of one file, in the order in which they run, outputs last."""

    path: Path
    runner: Runner
    all: tuple[Layer, ...]

    @abstractmethod
    def values(self, images: np.ndarray) -> dict[str, np.ndarray]:
        """What every layer gives for ``images`` (N, 3, H, W), by the name of the layer.

        Convolutions give (N, C, h, w), outputs (N, rows, width).
        """

    @abstractmethod
    def values_from(
        self, images: np.ndarray, given: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The same, where all that reads a layer of ``given`` reads that value instead."""

    @abstractmethod
    def operators(self, name: str, given: Mapping[str, np.ndarray]) -> Counter[str]:
        """The operators between a layer and the layers of ``given`` that the layer reads.

        They have the names that ONNX gives them.
        """
