"""How one kind of file is built from another, and opened again.

A format is one file in this folder with one subclass of ``Format``; it is found by being there.
It writes ``build`` and ``open``; the promises (right source, whole file or none, digest,
verification before the final name) are kept by ``convert``, which is never overridden.
"""

from __future__ import annotations

import importlib
import logging
import pkgutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, ClassVar

from scrfdconv.converters.artifact import Artifact, digest_of, replacing, require_kind
from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.runner import Runner

logger = logging.getLogger(__name__)

Source = Checkpoint | Artifact
Verify = Callable[[Path], None]  # raises CheckFailed


class Format(ABC):
    """One kind of model file."""

    name: ClassVar[str]
    suffix: ClassVar[str]
    sources: ClassVar[tuple[str, ...]]  # names of the formats that it is built from
    options: ClassVar[type[Any]]  # a frozen dataclass; its fields are the recipe's keys

    def convert(self, source: Source, out: Path, options: Any, verify: Verify | None) -> Artifact:
        """Build ``out`` from ``source``; it gets its name only if ``verify`` lets it pass."""
        if source.format not in self.sources:
            raise UsageError(
                f"{self.name} is built from {' or '.join(self.sources)}, not from {source.format}."
            )
        with replacing(out) as part:
            part.write_bytes(self.build(source, options))
            with self.companions(source, part, out, options):
                if verify is not None:
                    verify(part)
        return Artifact(out, self.name, self.precision(options), digest_of(out), (source.digest,))

    def precision(self, options: Any) -> str:
        """The precision of what ``options`` build."""
        return "fp32"

    @contextmanager
    def companions(self, source: Source, part: Path, out: Path, options: Any) -> Iterator[None]:
        """Files that go with ``part``, there while it is verified and named when ``out`` is."""
        yield

    @abstractmethod
    def build(self, source: Source, options: Any) -> bytes:
        """The content of the file."""

    @abstractmethod
    def open(self, path: Path, threads: int | None = None) -> Runner:
        """Open an artifact of this format, from here or from elsewhere."""


@cache
def formats() -> dict[str, Format]:
    """All formats by name; heavy libraries load when one is used, not here."""
    found: dict[str, Format] = {}
    for module in pkgutil.iter_modules(__path__):
        contents = vars(importlib.import_module(f"{__name__}.{module.name}")).values()
        for item in contents:
            if isinstance(item, type) and issubclass(item, Format) and item is not Format:
                if not f"{item.__module__}.".startswith(f"{__name__}.{module.name}."):
                    continue
                if item.name in found:
                    raise AssertionError(f"two formats are called {item.name}")
                found[item.name] = item()
    return found


def open_artifact(path: Path, threads: int | None = None) -> Runner:
    """Open any model file by its content: checkpoint, ONNX, TorchScript."""
    return formats()[require_kind(path, *formats())].open(path, threads)
