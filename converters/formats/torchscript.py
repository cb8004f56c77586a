"""TorchScript: traced, frozen, one file that loads with torch alone.

torch deprecates it: a DeprecationWarning in 2.13, a FutureWarning in 2.15. It still runs
everywhere that libtorch runs, so it stays, and the one warning is kept away on purpose.
"""

from __future__ import annotations

import io
import json
import re
import warnings
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scrfdconv.converters.artifact import readable
from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.checkpoint.metadata import metadata_for
from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.formats import Format, Source
from scrfdconv.converters.metadata import architecture_from_metadata
from scrfdconv.converters.network.architecture import CHANNELS, require_shape, trace_size
from scrfdconv.converters.runner import Interface, Runner, canonical_outputs, thread_limit
from scrfdconv.converters.structured import json_as

if TYPE_CHECKING:
    import torch

METADATA_FILE = "scrfdconv.json"  # inside the archive, read through `_extra_files`
_INPUT = re.compile(  # batch and shape of the metadata; no picture has more than 5 digits
    r"dynamic dynamic|(?P<batch>[1-9]\d{0,4}) (?P<height>[1-9]\d{0,4})x(?P<width>[1-9]\d{0,4})"
)
PROBE_SIZE = (128, 128)  # whole cells at every stride up to 128


@dataclass(frozen=True)
class TorchScriptOptions:
    """Dynamic unless ``shape`` (H, W) is given; then ``batch`` images of that shape."""

    shape: tuple[int, int] | None = None
    batch: int = 1


class TorchScript(Format):
    """A traced and frozen module."""

    name = "torchscript"
    suffix = ".pt"
    sources = ("pytorch",)
    options = TorchScriptOptions

    def build(self, source: Source, options: TorchScriptOptions) -> bytes:
        """Trace the network; it reads sizes from its input, unless the shape is fixed."""
        import torch

        assert isinstance(source, Checkpoint)
        a = source.architecture
        if options.shape:
            require_shape(options.shape, a.size_multiple)
        # A batch of 2: tracing does not tell a size of 1 from a constant in every operator.
        images = torch.zeros(2, CHANNELS, *trace_size(a))
        metadata = metadata_for(source, "fp32", options.shape, options.batch)
        buffer = io.BytesIO()
        with warnings.catch_warnings(), torch.inference_mode():
            # Deprecation is known, and what the tracer suspects the checks at several sizes find.
            warnings.simplefilter("ignore")
            module = torch.jit.trace(  # type: ignore[no-untyped-call]
                source.model(), images, check_trace=False
            )
            if options.shape:
                shape = (options.batch, CHANNELS, *options.shape)
                module = _of_one_shape(module, shape)
            frozen = torch.jit.freeze(module.eval())
            torch.jit.save(frozen, buffer, {METADATA_FILE: json.dumps(metadata)})
        return _without_paths(buffer)

    def open(self, path: Path, threads: int | None = None) -> Runner:
        """Load a TorchScript file with the outputs of an SCRFD."""
        return TorchScriptRunner(path, threads)


def _without_paths(saved: io.BytesIO) -> bytes:
    """The archive without its optional debug files: they hold the paths of this machine."""
    stripped = io.BytesIO()
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(stripped, "w") as new:
        for name in old.namelist():
            if not name.endswith(".debug_pkl"):
                new.writestr(zipfile.ZipInfo(name), old.read(name))
    return stripped.getvalue()


def _of_one_shape(traced: Any, shape: tuple[int, ...]) -> Any:
    """``traced`` that refuses images of another shape, as a fixed ONNX model does.

    Around the dynamic trace, so that a fixed model of any size costs no memory to make.
    """
    import torch

    class OneShape(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = traced
            self.shape = list(shape)

        # TorchScript finds the type of what is returned, and reads every comment behind `def`.
        def forward(self, images: torch.Tensor):  # type: ignore[no-untyped-def]
            if list(images.shape) != self.shape:
                raise ValueError(f"images must have the shape {self.shape}")
            return self.model(images)

    return torch.jit.script(OneShape().eval())


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
