"""A checkpoint's network, run by PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.runner import Interface, Runner, thread_limit


class EagerRunner(Runner):
    """A checkpoint's network, run by PyTorch."""

    def __init__(self, checkpoint: Checkpoint, threads: int | None = None) -> None:
        interface = Interface.of(checkpoint.architecture)
        stated = interface.stated if checkpoint.says_normalization else None
        super().__init__(replace(interface, stated=stated))
        self._model = checkpoint.model()
        self._threads = threads or thread_limit()

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        import torch

        if self._threads:
            torch.set_num_threads(self._threads)
        with torch.inference_mode():
            return [output.numpy() for output in self._model(torch.from_numpy(images))]
