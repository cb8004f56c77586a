"""The checkpoint itself as a format, run by the eager model: the reference of every check."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scrfdconv.converters.checkpoint.loading import Checkpoint, load_checkpoint
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats import Format, Source
from scrfdconv.converters.runner import Interface, Runner, thread_limit


@dataclass(frozen=True)
class PyTorchOptions:
    """A checkpoint is where conversions start; there is nothing to choose."""


class PyTorch(Format):
    """mmdet's ``.pth``, bare state_dicts and ``.safetensors``."""

    name = "pytorch"
    suffix = ".pth"
    sources = ()
    options = PyTorchOptions

    def build(self, source: Source, options: PyTorchOptions) -> bytes:
        """Checkpoints come from training."""
        raise UsageError("A checkpoint is a source; nothing is converted into one.")

    def open(self, path: Path, threads: int | None = None) -> Runner:
        """Load a checkpoint strictly; its architecture is recognised."""
        return EagerRunner(load_checkpoint(path), threads)


class EagerRunner(Runner):
    """A checkpoint's network, run by PyTorch."""

    def __init__(self, checkpoint: Checkpoint, threads: int | None = None) -> None:
        super().__init__(Interface.of(checkpoint.architecture))
        self._model = checkpoint.model()
        self._threads = threads or thread_limit()

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        import torch

        if self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            return [output.numpy() for output in self._model(torch.from_numpy(images))]
