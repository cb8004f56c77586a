"""The checkpoint itself as a format, run by the eager model: the reference of every check."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats import Format, Source

if TYPE_CHECKING:
    from scrfdconv.converters.runner import Runner


class PyTorch(Format):
    """mmdet's ``.pth``, bare state_dicts and ``.safetensors``."""

    name = "pytorch"
    title = "PyTorch"
    summary = ""
    suffixes = (".pth",)
    source = None
    libraries = ("torch",)
    modules = ("torch",)

    def recognises(self, path: Path, head: bytes) -> bool:
        """True for torch's zip archives and pickles, and for safetensors."""
        from scrfdconv.converters.checkpoint.files import is_checkpoint

        return is_checkpoint(path, head)

    def build(self, source: Source, options: Any, out: Path, precision: str) -> None:
        """Raise UsageError: checkpoints come from training."""
        raise UsageError("A checkpoint is a source; nothing is converted into one.")

    def open(self, path: Path, threads: int | None = None) -> Runner:
        """Load a checkpoint strictly; its architecture is recognised."""
        from scrfdconv.converters.checkpoint.loading import load_checkpoint
        from scrfdconv.converters.formats.pytorch.runner import EagerRunner

        return EagerRunner(load_checkpoint(path), threads)
