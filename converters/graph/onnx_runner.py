"""An ONNX model, opened with ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scrfdconv.converters.artifact import readable
from scrfdconv.converters.errors import ArtifactError, ScrfdconvError
from scrfdconv.converters.graph.inference import SILENT
from scrfdconv.converters.graph.model_file import (
    IMAGE_RANK,
    load_onnx,
)
from scrfdconv.converters.graph.number_types import precision_of
from scrfdconv.converters.metadata import architecture_from_metadata, own_metadata
from scrfdconv.converters.network.architecture import CHANNELS
from scrfdconv.converters.runner import Interface, Runner, canonical_outputs, thread_limit

if TYPE_CHECKING:
    pass


class OnnxRunner(Runner):
    """A model in ONNX Runtime on the CPU.

    ``scrfd=False`` keeps the outputs' own names and takes any model with one image input.
    """

    def __init__(self, path: Path, threads: int | None = None, *, scrfd: bool = True) -> None:
        self._path = path
        self._session = _session(path, threads)
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(inputs[0].shape) != IMAGE_RANK:
            raise ArtifactError(f"{path}: is not an SCRFD: expected one image input (N, 3, H, W).")
        self._input = inputs[0]
        self.output_names = tuple(output.name for output in outputs)
        metadata = own_metadata(self._session.get_modelmeta().custom_metadata_map)
        names = canonical_outputs(self.output_names, path) if scrfd else self.output_names
        batch, channels, height, width = (
            d if isinstance(d, int) and d > 0 else None for d in self._input.shape
        )
        if scrfd and channels not in (CHANNELS, None):
            raise ArtifactError(f"{path}: is not an SCRFD: its input has {channels} channels.")
        a = architecture_from_metadata(metadata)
        multiple = {"size_multiple": a.size_multiple} if a else {}
        super().__init__(
            Interface(names, batch, height, width, channels=channels or CHANNELS, **multiple),
            metadata,
        )

    @cached_property
    def precision(self) -> str:
        """What the graph computes in, not what its metadata claim: foreign files have none."""
        return precision_of(load_onnx(self._path))

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        if self._input.type == "tensor(float16)":
            images = images.astype(np.float16)
        try:
            return list(self._session.run(self.output_names, {self._input.name: images}))
        except Exception as error:  # onnxruntime's exceptions have no common public base
            raise ArtifactError(
                f"{self._path.name}: fails on images of shape {images.shape}: {_first(error)}"
            ) from error


def _session(path: Path, threads: int | None) -> Any:
    import onnxruntime

    onnxruntime.set_default_logger_severity(SILENT)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = SILENT
    threads = threads or thread_limit()
    if threads:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    try:
        return onnxruntime.InferenceSession(
            str(readable(path)), options, providers=["CPUExecutionProvider"]
        )
    except ScrfdconvError:
        raise
    except Exception as error:  # as above
        raise ArtifactError(f"{path}: ONNX Runtime cannot load it: {_first(error)}") from error


def _first(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") + "."
