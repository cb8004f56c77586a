"""In which form a file takes the pictures of its network: numbers, layout, channels.

Everything here works on the network's own picture, (N, 3, H, W) in float32, normalised as the
network wants it. So the same picture goes to a checkpoint and to a file that takes bytes, and
callers never ask which of them they have.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from scrfdconv.converters.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    from scrfdconv.converters.normalization import (
        Float32,
        Normalization,
        NormalizationOptions,
    )

InputType = Literal["float", "uint8"]
Layout = Literal["nchw", "nhwc"]

T = TypeVar("T")
_TO_LAST, TO_FIRST = (0, 2, 3, 1), (0, 3, 1, 2)  # permutations of the axes


@dataclass(frozen=True)
class InputForm:
    """What a file takes in place of the network's own picture; the default is that picture."""

    type: InputType = "float"
    layout: Layout = "nchw"
    # How a photograph becomes what the file takes; None: as its network wants it.
    pixels: Normalization | None = None
    exchanged: bool = False  # the graph exchanges red and blue before its network

    def normalization(self, network: Normalization) -> Normalization:
        """How a photograph becomes what the file takes, for a network that wants ``network``."""
        if self.pixels:
            return self.pixels
        return network.exchanged() if self.exchanged else network

    def fed(self, images: Float32, network: Normalization) -> npt.NDArray[Any]:
        """The network's own pictures (N, 3, H, W) as this file takes them.

        Where the file takes bytes, values are rounded to the nearest pixel.
        """
        import numpy as np

        values = network.converted(images, self.normalization(network))
        if self.type == "uint8":
            values = np.clip(np.rint(values), 0, 255).astype(np.uint8)
        return np.ascontiguousarray(self.laid_out(values))

    def laid_out(self, values: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """An array (N, 3, H, W) in the layout of this form."""
        return values.transpose(_TO_LAST) if self.layout == "nhwc" else values

    def said(self, options: NormalizationOptions, where: str) -> InputForm:
        """The form with the order of channels that a user says, where the graph leaves it open.

        Raises UsageError for a mean or a std: the graph has its own.
        """
        if not self.pixels or not options.given:
            return self
        for name in options.given.keys() - {"color"}:
            raise UsageError(
                f"--{name}: the graph of {where} normalises its pictures itself; leave it out."
            )
        assert options.color
        pixels = replace(self.pixels, color=options.color)
        if self.exchanged:
            pixels = replace(pixels, color=pixels.exchanged().color)
        return replace(self, pixels=pixels)

    def sizes(self, dims: tuple[T, ...]) -> tuple[T, ...]:
        """Batch, channels, height and width from the dimensions of the file's input."""
        return tuple(dims[i] for i in TO_FIRST) if self.layout == "nhwc" else dims

    def dims(self, sizes: tuple[T, ...]) -> tuple[T, ...]:
        """The dimensions of the file's input from batch, channels, height and width."""
        return tuple(sizes[i] for i in _TO_LAST) if self.layout == "nhwc" else sizes

    def words(self, network: Normalization) -> str:
        """``uint8 NHWC, BGR, (x - 0) / 1``, for people."""
        return f"{self.type} {self.layout.upper()}, {self.normalization(network)}"


PLAIN = InputForm()
