"""A TorchScript file, opened with torch."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.formats.torchscript.archive import Archive, open_archive, refusal
from scrfdconv.converters.formats.torchscript.safety import UnsafeError, require_safe_graph
from scrfdconv.converters.network.architecture import CHANNELS
from scrfdconv.converters.outputs import named_by_position, named_by_shape, require_rows
from scrfdconv.converters.runner import Interface, Runner, thread_limit

PROBE_SIZE = (128, 128)  # whole cells at every stride up to 128


@contextmanager
def without_deprecation() -> Iterator[None]:
    """Suppress torch's one warning about TorchScript; the README mentions it."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".*torch\.jit.*", DeprecationWarning)
        warnings.filterwarnings("ignore", r".*torch\.jit.*", FutureWarning)
        yield


def module_of(archive: Archive) -> Any:
    """The module in an archive, loaded and not run; raises ArtifactError where torch refuses.

    The module's graph, as torch reads it, is compared with the list of operators again.
    """
    import torch

    try:
        with without_deprecation():
            module = torch.jit.load(archive.stream(), "cpu")  # type: ignore[no-untyped-call]
        require_safe_graph(module.inlined_graph)
    except UnsafeError as error:
        raise refusal(archive.path, error) from error
    except (RuntimeError, ValueError, AttributeError) as error:
        raise ArtifactError(
            f"{archive.path}: is no loadable TorchScript ({_first(error)})."
        ) from error
    return module


class TorchScriptRunner(Runner):
    """A TorchScript module on the CPU, once its code is known to be arithmetic only."""

    def __init__(self, path: Path, threads: int | None = None) -> None:
        self._path, self._threads = path, threads or thread_limit()
        archive = open_archive(path)
        self._module = module_of(archive)
        super().__init__(archive.interface or self._probed(), archive.metadata)

    @property
    def precision(self) -> str:
        """Always fp32, in which TorchScript is made here: no metadata earn a file wider limits."""
        return "fp32"

    def _probed(self) -> Interface:
        """The interface of a foreign file without declared outputs: only a run tells them."""
        probe = self._called(np.zeros((1, CHANNELS, *PROBE_SIZE), np.float32))
        names, shapes = [str(i) for i in range(len(probe))], [v.shape for v in probe]
        naming = named_by_shape(shapes, PROBE_SIZE)
        if naming is None or None in naming.names:  # the module cannot return only some outputs
            require_rows(names, shapes, self._path)
            naming = named_by_position(names, self._path)
        return Interface(naming.canonical)

    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """Raises ArtifactError for images of another shape than the metadata fix."""
        i = self.interface
        fixed = (i.batch, i.channels, i.height, i.width)
        if any(want not in (None, have) for want, have in zip(fixed, images.shape, strict=True)):
            shape = ", ".join(str(size or "any") for size in fixed)
            raise ArtifactError(
                f"{self._path.name}: images must have the shape [{shape}], as its metadata say, "
                f"and have {list(images.shape)}."
            )
        return self._called(images)

    def _called(self, images: np.ndarray) -> Sequence[np.ndarray]:
        import torch

        if self._threads:
            torch.set_num_threads(self._threads)
        try:
            with torch.inference_mode():
                return [output.numpy() for output in self._module(torch.from_numpy(images))]
        # AttributeError, TypeError: the module returns no sequence of tensors
        except (RuntimeError, torch.jit.Error, AttributeError, TypeError) as error:
            raise ArtifactError(
                f"{self._path.name}: fails on images of shape {images.shape} ({_first(error)})."
            ) from error


def _first(error: Exception) -> str:
    """The line that says what went wrong; TorchScript prints its own traceback before it."""
    return str(error).strip().rpartition("\n")[2].rstrip(".")
