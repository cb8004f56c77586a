"""Any ONNX graph as a function of arrays, whatever it takes and returns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scrfdconv.converters.errors import ArtifactError, reason_of
from scrfdconv.converters.graph.onnx_runner import interface_of, session_of
from scrfdconv.converters.graph.providers import CPU


@dataclass(frozen=True)
class Argument:
    """An input: its type in ONNX Runtime's words, and its size on each axis, None where free."""

    name: str
    kind: str
    dims: tuple[int | None, ...]

    def __str__(self) -> str:
        """As errors name it: ``ids, tensor(int64) [any, 77]``."""
        return f"{self.name}, {self.kind} [{', '.join(str(d or 'any') for d in self.dims)}]"


class GraphFunction:
    """An ONNX graph in ONNX Runtime, on the CPU."""

    def __init__(self, path: Path) -> None:
        """Raises ArtifactError for a file that does not load."""
        self.path = path
        self._session, _ = session_of(path, None, CPU)
        inputs, outputs, _ = interface_of(self._session, path)
        self.inputs = tuple(
            Argument(each.name, each.type, tuple(_fixed(d) for d in each.shape)) for each in inputs
        )
        self.outputs = tuple(each.name for each in outputs)

    def __call__(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Outputs by name: arrays, and lists or dicts where the graph says so.

        Raises ArtifactError where the graph fails on ``arguments``.
        """
        try:
            values = self._session.run(self.outputs, dict(arguments))
        except Exception as error:  # onnxruntime's exceptions have no common public base
            raise ArtifactError(f"{self.path.name}: fails: {reason_of(error)}.") from error
        return dict(zip(self.outputs, values, strict=True))


def _fixed(size: Any) -> int | None:
    return size if isinstance(size, int) and size > 0 else None
