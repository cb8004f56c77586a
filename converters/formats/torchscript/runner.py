"""A TorchScript file, opened with torch."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scrfdconv.converters.artifact import readable
from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.metadata import architecture_from_metadata
from scrfdconv.converters.network.architecture import CHANNELS
from scrfdconv.converters.runner import Interface, Runner, canonical_outputs, thread_limit
from scrfdconv.converters.structured import json_as

if TYPE_CHECKING:
    pass

from scrfdconv.converters.formats.torchscript.tracing import METADATA_FILE

_INPUT = re.compile(  # batch and shape of the metadata; no picture has more than 5 digits
    r"dynamic dynamic|(?P<batch>[1-9]\d{0,4}) (?P<height>[1-9]\d{0,4})x(?P<width>[1-9]\d{0,4})"
)
PROBE_SIZE = (128, 128)  # whole cells at every stride up to 128


@contextmanager
def without_deprecation() -> Iterator[None]:
    """Keep torch's one warning about TorchScript away; the README tells of it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit.*", DeprecationWarning)
        warnings.filterwarnings("ignore", r".*torch\.jit.*", FutureWarning)
        yield


class TorchScriptRunner(Runner):
    """A TorchScript module on the CPU."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        import torch

        self._path, self._threads = path, threads or thread_limit()
        extra = {METADATA_FILE: ""}
        try:
            with without_deprecation():
                self._module = torch.jit.load(  # type: ignore[no-untyped-call]
                    str(readable(path)), "cpu", extra
                )
        except (RuntimeError, ValueError) as error:
            raise ArtifactError(f"{path}: is no loadable TorchScript ({_first(error)}).") from error
        text: str | bytes = extra[METADATA_FILE]
        where = f"{path}: its {METADATA_FILE}"
        metadata = json_as(text or "{}", dict[str, str], where, error=ArtifactError)
        super().__init__(self._interface(metadata), metadata)

    @property
    def precision(self) -> str:
        """Float32 is what TorchScript is made in here; no file talks itself into wider limits."""
        return "fp32"

    def _interface(self, metadata: dict[str, str]) -> Interface:
        a = architecture_from_metadata(metadata)
        if a is None:  # a foreign file: only a run tells its outputs
            probe = self._run(np.zeros((1, CHANNELS, *PROBE_SIZE), np.float32))
            return Interface(canonical_outputs([str(i) for i in range(len(probe))], self._path))
        found = _INPUT.fullmatch(f"{metadata.get('batch')} {metadata.get('shape')}")
        if found is None:
            raise ArtifactError(
                f"{self._path}: its metadata name no shape and batch that a model has."
            )
        if found["height"] is None:
            return Interface.of(a)
        batch, height, width = map(int, found.group("batch", "height", "width"))
        return Interface.of(a, batch, (height, width))

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        import torch

        if self._threads:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                return [output.numpy() for output in self._module(torch.from_numpy(images))]
        # AttributeError, TypeError: what it returns is no sequence of tensors
        except (RuntimeError, torch.jit.Error, AttributeError, TypeError) as error:
            raise ArtifactError(
                f"{self._path.name}: fails on images of shape {images.shape} ({_first(error)})."
            ) from error


def _first(error: Exception) -> str:
    """The line that says what went wrong; TorchScript prints its own traceback before it."""
    return str(error).strip().rpartition("\n")[2].rstrip(".")
