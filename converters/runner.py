"""An opened model: images in, named outputs out, whatever kind of file it came from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.input_form import PLAIN, InputForm
from scrfdconv.converters.network.architecture import (
    CHANNELS,
    SIZE_MULTIPLE,
    Architecture,
)
from scrfdconv.converters.network.preprocessing import class_names_in, stated_in
from scrfdconv.converters.normalization import STANDARD, Normalization, NormalizationOptions
from scrfdconv.converters.outputs import (
    MAP_RANK,
    NAME,
    named_by_name,
    named_by_position,
    rows_of_maps,
)

Outputs = dict[str, np.ndarray]

INPUT_NAME = "input.1"  # upstream's name; deployers bind to it


_MATRIX = 2  # rank of outputs without a batch axis, as all models before 2021-10 have


@dataclass(frozen=True)
class Interface:
    """What a model accepts and returns. None stands for a dimension that is free."""

    outputs: tuple[str, ...]  # score_8 ..., in the order of the model
    batch: int | None = None
    height: int | None = None
    width: int | None = None
    size_multiple: int = SIZE_MULTIPLE
    channels: int = CHANNELS
    extras: tuple[str, ...] = ()  # outputs that no SCRFD has, by their own names
    class_names: tuple[str, ...] = ()  # where the model has several and names them
    # Of its network's pictures; None: neither file nor user says it.
    stated: Normalization | None = None
    form: InputForm = PLAIN  # in which the file takes its network's pictures

    @classmethod
    def of(
        cls,
        architecture: Architecture,
        batch: int | None = None,
        shape: tuple[int, int] | None = None,
    ) -> Interface:
        """The interface of a network's artifact, dynamic unless ``shape`` (H, W) is given."""
        height, width = shape or (None, None)
        return cls(
            outputs=architecture.output_names,
            batch=batch,
            height=height,
            width=width,
            size_multiple=architecture.size_multiple,
            stated=architecture.normalization,
            class_names=architecture.class_names,
        )

    @property
    def normalization(self) -> Normalization:
        """How its pictures are prepared: as stated, or else as for the published networks."""
        return self.stated or STANDARD

    def fed(self, images: np.ndarray) -> np.ndarray:
        """Pictures (N, 3, H, W) float32, normalised for the network, as the file takes them."""
        return self.form.fed(images, self.normalization)

    @property
    def shape(self) -> tuple[int, int] | None:
        """Height and width of a fixed-shape model, else None."""
        return (self.height, self.width) if self.height and self.width else None

    @property
    def strides(self) -> tuple[int, ...]:
        """The strides of the outputs, finest first."""
        return tuple(sorted({int(name.rpartition("_")[2]) for name in self.outputs}))

    @property
    def measured_at(self) -> tuple[tuple[int, int, int], ...]:
        """Shapes (N, H, W) at which a comparison must be made; empty: any accepted shape."""
        return ()

    def accepts(self, batch: int, height: int, width: int) -> bool:
        """True if images of this shape fit the fixed dimensions and the stride."""
        fixed = zip((self.batch, self.height, self.width), (batch, height, width), strict=True)
        sizes_fit = height % self.size_multiple == 0 and width % self.size_multiple == 0
        return sizes_fit and all(want is None or want == have for want, have in fixed)


_limit: dict[str, int | None] = {"threads": None}


def limit_threads(threads: int | None) -> None:
    """Set the default number of threads for models that this process opens from now on.

    A number given when a model is opened goes first; None restores the runtimes' own choice.
    """
    _limit["threads"] = threads


def thread_limit() -> int | None:
    """The number of threads for models that are opened without one; None: the runtime's choice."""
    return _limit["threads"]


class Runner(ABC):
    """Runs one model. ``interface`` says what it takes, ``metadata`` what it says of itself."""

    arithmetic_setting: ClassVar[str] = ""  # what a deployer sets to choose the arithmetic
    one_long_sum = False  # norms add a whole map up in one float32 sum: the error grows with size
    face_names: tuple[str, ...] = ()  # the outputs of a file that ends with faces

    def __init__(self, interface: Interface, metadata: Mapping[str, str] | None = None) -> None:
        self.metadata = dict(metadata or {})
        stated = stated_in(self.metadata)
        names = class_names_in(self.metadata)
        self.interface = replace(
            interface,
            stated=stated or interface.stated,
            class_names=names or interface.class_names,
        )
        self.remark = ""  # says which facts about the model are guesses

    def state(self, said: NormalizationOptions, where: str) -> None:
        """Take what a user says of the pictures; raises UsageError if the file contradicts it."""
        interface = self.interface
        if interface.stated is None and interface.form.pixels:
            self.interface = replace(interface, form=interface.form.said(said, where))
        else:
            self.interface = replace(interface, stated=said.over(interface.stated, where))

    @property
    def precision(self) -> str:
        """fp32 unless the model says otherwise."""
        return self.metadata.get("precision", "fp32")

    def precision_of(self, output: str) -> str:
        """The precision that one output is judged by, by its canonical name."""
        return self.precision

    @property
    def computes_in(self) -> str:
        """The arithmetic of the layers that are not quantized."""
        return "fp32"

    def run(self, images: np.ndarray) -> Outputs:
        """Outputs for ``images`` (N, 3, H, W) float32, each (N, rows, width), in canonical names.

        Images are the network's own, as `Interface.normalization` makes them, whatever the file
        takes. Raises ArtifactError where the model refuses the images or fails on them.
        """
        return self.run_fed(self.interface.fed(np.ascontiguousarray(images, dtype=np.float32)))

    def run_fed(self, images: np.ndarray) -> Outputs:
        """The same for images that are in the file's own form already, as `Interface.fed` gives."""
        return self.named(self._run(images), len(images))

    def own_outputs(self, images: np.ndarray) -> Outputs:
        """What programs get that read the file by themselves: its own names and shapes.

        ``images`` are the network's own, as for `run`.
        """
        values = self._run(self.interface.fed(images))
        return dict(zip(self.interface.outputs, values, strict=True))

    def faces_and_rows(
        self, images: np.ndarray, threshold: float | None = None
    ) -> tuple[Outputs, Outputs]:
        """The faces of a file that ends with faces, and the rows of the same run.

        ``images`` are the network's own; ``threshold`` replaces that of the file. Raises
        ArtifactError for a file that ends with rows.
        """
        raise ArtifactError("The model does not end with faces.")

    def named(self, values: Sequence[np.ndarray], images: int) -> Outputs:
        """The values of the model's own outputs for a number of images, as `run` returns them."""
        names = self.interface.outputs
        if len(values) != len(names):
            raise ArtifactError(
                f"The model returns {len(values)} outputs, where {len(names)} are declared."
            )
        found = dict(zip(names, map(np.asarray, values), strict=True))
        if all(value.ndim == MAP_RANK for value in found.values()):
            found = rows_of_maps(found)
        return {name: _by_image(value, name, images) for name, value in found.items()}

    def twin(self) -> Runner | None:
        """The same file in the other arithmetic that this machine offers; None if there is none.

        A runtime may compute float32 models in bfloat16 because the processor can.
        """
        return None

    @abstractmethod
    def _run(self, images: np.ndarray) -> Sequence[np.ndarray]:
        """The outputs in the order of ``interface.outputs``, for images in the file's form."""


def is_output_name(name: str) -> bool:
    """True for ``score_8`` and its like."""
    return NAME.fullmatch(name) is not None


def _by_image(value: np.ndarray, name: str, images: int) -> np.ndarray:
    """``value`` as (images, rows, width); raises ArtifactError without a batch axis."""
    if value.ndim == _MATRIX and images == 1:
        return value[None]
    if value.ndim <= _MATRIX or len(value) != images:
        raise ArtifactError(
            f"{name} has the shape {list(value.shape)} for {images} images: its first axis is no "
            "batch. A model that was exported for one image does not become one for several by "
            "renaming an axis: export anew from the checkpoint."
        )
    return value


def canonical_outputs(names: Sequence[str], where: Path) -> tuple[str, ...]:
    """The names ``score_8 ...`` for outputs of which nothing but names and order is known.

    Our names and those of upstream's export are kept; others are replaced by position. Raises
    ArtifactError for a count that no SCRFD has.
    """
    return (named_by_name(names) or named_by_position(names, where)).canonical


def order_faults(expected: Sequence[str], names: Sequence[str]) -> list[str]:
    """What is wrong with the order of outputs: many consumers take them by position."""
    return [] if tuple(expected) == tuple(names) else [f"outputs come as {' '.join(names)}"]
