"""An ncnn network on the CPU, in float32 arithmetic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.formats.ncnn.reading import NcnnNetwork, read_network
from scrfdconv.converters.network.architecture import OUTPUT_KINDS, SIZE_MULTIPLE
from scrfdconv.converters.runner import (
    Interface,
    Runner,
    canonical_outputs,
    is_output_name,
    thread_limit,
)
from scrfdconv.converters.system.libraries import library
from scrfdconv.converters.trial import require_survival

_MATRIX = 2  # dimensions of an output: rows and values
_MAP = 3  # channels, height, width


@dataclass(frozen=True)
class NcnnInterface(Interface):
    """The interface of a .param, which states the input size only if the size was written there."""

    @property
    def measured_at(self) -> tuple[tuple[int, int, int], ...]:
        """Five sizes: pnnx guesses from only two sizes which numbers depend on the size."""
        return (
            (1, 640, 640),
            (2, 320, 256),
            (3, 64, 96),
            (1, 480, 640),
            (1, 96, 352),
        )


class NcnnRunner(Runner):
    """A network in ncnn on the CPU; one picture at a time, a batch is a loop."""

    def __init__(
        self,
        path: Path,
        threads: int | None = None,
        *,
        trial: bool = True,
        keep_blobs: bool = False,  # every blob can be read after a run, which costs memory
    ) -> None:
        self._path, self._network = path, read_network(path)
        self._ncnn = library("ncnn", "ncnn", "ncnn")
        super().__init__(_interface(self._network))
        if trial:
            require_survival(type(self), (path, path.with_suffix(".bin")))
        self._net = self._opened(threads or thread_limit(), keep_blobs=keep_blobs)

    @property
    def precision(self) -> str:
        """The precision of the stored weights; the arithmetic is float32 here."""
        return self._network.precision

    def _opened(self, threads: int | None, *, keep_blobs: bool) -> Any:
        net = self._ncnn.Net()
        options = net.opt
        options.use_vulkan_compute = False
        options.use_fp16_packed = options.use_fp16_storage = False
        options.use_fp16_arithmetic = options.use_bf16_storage = False
        options.lightmode = not keep_blobs
        if threads:
            options.num_threads = threads
        weights = self._path.with_suffix(".bin")
        if net.load_param(str(self._path)) or net.load_model(str(weights)):
            raise ArtifactError(f"{self._path}: ncnn cannot load it with {weights.name}.")
        return net

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        rows = [self.blobs(image, self.output_names) for image in images]
        return [np.stack(values) for values in zip(*rows, strict=True)]

    def blobs(
        self, image: np.ndarray, names: Sequence[str], given: Mapping[str, np.ndarray] | None = None
    ) -> list[np.ndarray]:
        """The values of blobs for one picture (3, H, W), where those ``given`` are not computed."""
        extractor = self._net.create_extractor()
        fed = {self._network.inputs[0].outputs[0]: image, **(given or {})}
        for name, value in fed.items():
            extractor.input(name, self._ncnn.Mat(np.ascontiguousarray(value)).clone())
        found = []
        for name in names:
            failed, value = extractor.extract(name)
            array = None if failed else np.array(value, np.float32)
            if array is None or array.ndim not in (_MATRIX, _MAP):
                raise ArtifactError(
                    f"{self._path.name}: gives neither rows nor a map for {name} on an image of "
                    f"shape {image.shape}."
                )
            found.append(array)
        return found

    @property
    def output_names(self) -> tuple[str, ...]:
        """The blobs of the outputs, in the order of all formats."""
        return _sorted(self._network.output_names)


def _interface(network: NcnnNetwork) -> NcnnInterface:
    """The interface, from the names of the blobs; the input layer states a fixed size."""
    if len(network.inputs) != 1:
        raise ArtifactError(f"{network.path}: is not an SCRFD: expected one image input.")
    names = canonical_outputs(_sorted(network.output_names), network.path)
    (image,) = network.inputs
    width, height = image.number(0) or None, image.number(1) or None
    strides = (int(name.rpartition("_")[2]) for name in names)
    multiple = max(SIZE_MULTIPLE, *strides)
    return NcnnInterface(
        outputs=names, batch=None, height=height, width=width, size_multiple=multiple
    )


def _sorted(names: Sequence[str]) -> tuple[str, ...]:
    """``names`` in the order of all formats; a .param lists blobs in the order of layers."""
    if not all(map(is_output_name, names)):
        return tuple(names)

    def place(name: str) -> tuple[int, int]:
        kind, _, stride = name.partition("_")
        return OUTPUT_KINDS.index(kind), int(stride)

    return tuple(sorted(names, key=place))
