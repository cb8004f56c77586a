"""What a model file declares of its inputs and outputs: what a server's configuration repeats."""

from __future__ import annotations

from dataclasses import dataclass

Dims = tuple[int | None, ...]  # None: free


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One input or output, under the file's own name."""

    name: str
    kind: str  # numpy's name of the type: float32, int64 ...
    dims: Dims

    @property
    def free_batch(self) -> bool:
        """True if the first axis may have any length."""
        return bool(self.dims) and self.dims[0] is None

    def __str__(self) -> str:
        sides = ", ".join("?" if side is None else str(side) for side in self.dims)
        return f"{self.name} {self.kind} ({sides})"


@dataclass(frozen=True, kw_only=True)
class Signature:
    """All inputs and outputs, in the order of the file."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    most_images: int | None = None  # in one run, where the file has a bound

    @property
    def image(self) -> Tensor:
        """The input; SCRFD has one."""
        return self.inputs[0]

    @property
    def free_batch(self) -> bool:
        """True if all inputs and outputs have a free first axis: one run takes several images."""
        return all(tensor.free_batch for tensor in (*self.inputs, *self.outputs))


@dataclass(frozen=True, kw_only=True)
class Serving:
    """How Triton serves the files of a format.

    Source: triton-inference-server, docs/user_guide/model_configuration and model_repository.
    """

    backend: str
    file: str  # the name of the main file in a version's folder
    platform: str = ""  # older servers know this name of the backend; some backends have none
    cpu_only: bool = False  # instances must be asked for on the processor
