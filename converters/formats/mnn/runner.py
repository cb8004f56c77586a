"""An MNN model on the CPU, with precision "high" and small Winograd tiles.

MNN's large tiles round more than float32 has to: on 2.5G_KPS with seeded weights scores move by
4e-4 and keypoints by 3e-3 of a stride, where small tiles stay within 4e-6 and 2e-5, in about the
same time. So only small tiles show whether a file computes its model. Large and small tiles cannot
be measured in one process: all open models share the library's choice.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.formats.mnn.reading import MnnNetwork, read_network
from scrfdconv.converters.graph.interface.kinds import output_kind
from scrfdconv.converters.graph.model_file import IMAGE_RANK
from scrfdconv.converters.metadata import architecture_from_metadata
from scrfdconv.converters.network.architecture import CHANNELS, SIZE_MULTIPLE
from scrfdconv.converters.runner import Interface, Runner, canonical_outputs, thread_limit
from scrfdconv.converters.system.libraries import library
from scrfdconv.converters.system.machine import usable_cores
from scrfdconv.converters.trial import require_survival

_CPU = 0  # MNN_FORWARD_CPU
_WINOGRAD_LEVEL = 3  # Interpreter::HintMode, WINOGRAD_MEMORY_LEVEL
_SMALL_TILES = 1  # the library's own choice is 3
_STDOUT = 1


class MnnRunner(Runner):
    """A model in MNN on the CPU."""

    def __init__(self, path: Path, threads: int | None = None, *, trial: bool = True) -> None:
        self._path, self._network = path, read_network(path)
        # MNN's own choice is one thread, which is not what other runtimes make of "all".
        self._threads = threads or thread_limit() or usable_cores()
        with _without_chatter():
            self._mnn = library("MNN", "MNN", "mnn")
        super().__init__(_interface(self._network), self._network.metadata)
        if trial:
            require_survival(type(self), (path,))
        with _without_chatter():
            self._module = self._opened()

    @property
    def precision(self) -> str:
        """The precision of the stored weights; the arithmetic is float32 here."""
        return self._network.precision

    def _opened(self) -> Any:
        settings = {"precision": "high", "backend": _CPU, "numThread": self._threads}
        nn, network = self._mnn.nn, self._network
        try:
            self._manager = nn.create_runtime_manager((settings,))
            self._manager.set_hint(_WINOGRAD_LEVEL, _SMALL_TILES)
            return nn.load_module_from_file(
                str(self._path),
                [network.input_name],
                list(network.outputs),
                runtime_manager=self._manager,
            )
        except (RuntimeError, ValueError, TypeError) as error:
            raise ArtifactError(f"{self._path}: MNN cannot load it ({error}).") from error

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        expr = self._mnn.expr
        with _without_chatter():
            image = expr.const(images, list(images.shape), expr.NCHW, expr.float)
            found = self._module.forward([image])
            values = [np.array(value.read(), np.float32) for value in found]
        if any(not value.size for value in values):
            raise ArtifactError(
                f"{self._path.name}: gives nothing for images of shape {images.shape}."
            )
        return values


def _interface(network: MnnNetwork) -> Interface:
    names = canonical_outputs(network.outputs, network.path)
    dims = network.input_dims
    if len(dims) != IMAGE_RANK or dims[1] not in (CHANNELS, -1):
        raise ArtifactError(
            f"{network.path}: is not an SCRFD: its input {network.input_name} is {list(dims)}, "
            "expected (N, 3, H, W)."
        )
    height, width = (side if side > 0 else None for side in dims[2:])
    a = architecture_from_metadata(network.metadata)
    # A file with a free batch says 1, too; where the size is fixed, so is the batch.
    single = output_kind(network.metadata) == "flat"
    batch = dims[0] if height or single else None
    multiple = a.size_multiple if a else SIZE_MULTIPLE
    return Interface(outputs=names, batch=batch, height=height, width=width, size_multiple=multiple)


@contextmanager
def _without_chatter() -> Iterator[None]:
    """Send C++ output for stdout to stderr: ``--json`` promises one JSON object on stdout."""
    if sys.platform == "win32":  # each C library has its own stdout there
        yield
        return
    standard = ctypes.CDLL(None)
    sys.stdout.flush()
    kept = os.dup(_STDOUT)
    silent = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(silent, _STDOUT)
        yield
    finally:
        standard.fflush(None)
        os.dup2(kept, _STDOUT)
        os.close(kept)
        os.close(silent)
