"""How a picture becomes the numbers that a network was trained on: a part of what the network is.

A network that was trained on other numbers runs without an error and finds nothing. So whatever
prepares a picture for a network asks the network's `Normalization`, and nothing else does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from scrfdconv.converters.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    UInt8 = npt.NDArray[np.uint8]
    Float32 = npt.NDArray[np.float32]

Color = Literal["rgb", "bgr"]
ByChannel = tuple[float, float, float]

LARGEST = 1e4  # of a mean or a deviation; pixels have 0 to 255
SMALLEST_STD = 1e-3  # pixels divided by less are beyond what FP16 holds
BYTES = 256


def shown(value: ByChannel | str) -> str:
    """``127.5``, ``123.675,116.28,103.53`` or ``rgb``: as options take them."""
    if isinstance(value, str):
        return value
    texts = [f"{number:.10g}" for number in value]
    return texts[0] if len({*texts}) == 1 else ",".join(texts)


@dataclass(frozen=True)
class Normalization:
    """``(x - mean) / std`` of pixels from 0 to 255; one value for each channel.

    ``color`` is the order of the network's channels, and mean and std have this order, as in
    mmcv's ``imnormalize``. The default is what the published networks were trained with.
    """

    mean: ByChannel = (127.5, 127.5, 127.5)
    std: ByChannel = (128.0, 128.0, 128.0)
    color: Color = "rgb"

    def __post_init__(self) -> None:
        if not all(math.isfinite(value) and abs(value) <= LARGEST for value in self.mean):
            raise UsageError(f"A mean of {self.mean} is none of pixels; they have 0 to 255.")
        if not all(SMALLEST_STD <= value <= LARGEST for value in self.std):
            raise UsageError(f"A std of {self.std} is none of pixels: it must be above 0.")
        if self.color not in ("rgb", "bgr"):
            raise UsageError(f"A color of {self.color!r} is unknown: rgb or bgr.")

    def __str__(self) -> str:
        return f"{self.color.upper()}, (x - {shown(self.mean)}) / {shown(self.std)}"

    def to_plain(self) -> dict[str, Any]:
        """For metadata and JSON; one number stands for three equal ones."""
        return {
            "color": self.color.upper(),
            "mean": self.mean[0] if len({*self.mean}) == 1 else list(self.mean),
            "std": self.std[0] if len({*self.std}) == 1 else list(self.std),
        }

    # ------------------------------------------------------------ pictures

    @cached_property
    def table(self) -> Float32:
        """The network's value (3, 256) of every byte in each of its channels.

        The default is exact: a power of two divides halves of small numbers.
        """
        import numpy as np

        by_channel = zip(self.mean, self.std, strict=True)
        values = [(np.arange(BYTES) - mean) / std for mean, std in by_channel]
        return np.array(values).astype(np.float32)

    @property
    def range(self) -> tuple[float, float]:
        """The values that bound every picture: -1 and 1 by default, a little more than needed."""
        import numpy as np

        ends = self.of_unit(np.broadcast_to([[[-1.0, 1.0]]], (3, 1, 2)))
        return float(ends.min()), float(ends.max())

    def write(self, planes: Float32, image: UInt8) -> None:
        """Write a BGR picture (h, w, 3) into the upper left of the network's planes (3, H, W)."""
        import cv2

        height, width = image.shape[:2]
        channels = cv2.split(image)
        if self.color == "rgb":
            channels = channels[::-1]
        # A look-up table turns bytes into floats in one pass over the pixels: 0.2 ms at 640x640 on
        # one core, where cv2.dnn.blobFromImage takes 4 ms.
        for channel, values, plane in zip(channels, self.table, planes, strict=True):
            cv2.LUT(channel, values, dst=plane[:height, :width])

    def fill(self, planes: Float32, byte: int = 0) -> None:
        """Set planes (3, h, w) to pixels of one grey; black is what pads pictures."""
        planes[:] = self.table[:, byte, None, None]

    def of_unit(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """RGB images (..., 3, H, W) in -1 to 1, where the default has black and white, as fed.

        The default changes nothing. Seeded pictures are drawn so, whatever the network wants.
        """
        return STANDARD.converted(images, self)

    def converted(self, images: npt.NDArray[Any], other: Normalization) -> npt.NDArray[Any]:
        """Images (..., 3, H, W) of this normalisation, as ``other`` makes them of their pixels."""
        import numpy as np

        if other == self:
            return images
        own = self if self.color == other.color else self.exchanged()
        ordered = images if own is self else images[..., ::-1, :, :]
        factor = np.divide(own.std, other.std)
        offset = np.subtract(own.mean, other.mean) / other.std
        converted = ordered * factor[:, None, None] + offset[:, None, None]
        return np.ascontiguousarray(converted.astype(images.dtype))

    def exchanged(self) -> Normalization:
        """The same normalisation of channels in the other order."""
        color: Color = "bgr" if self.color == "rgb" else "rgb"
        return Normalization(self.mean[::-1], self.std[::-1], color)

    def whole_bytes(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The nearest images (..., 3, H, W) whose pixels are whole numbers from 0 to 255."""
        import numpy as np

        std, mean = (np.array(values)[:, None, None] for values in (self.std, self.mean))
        pixels = np.clip(np.rint(images * std + mean), 0, BYTES - 1)
        return np.ascontiguousarray(((pixels - mean) / std).astype(images.dtype))


STANDARD = Normalization()


@dataclass(frozen=True)
class NormalizationOptions:
    """What a user says about the normalisation; None: nothing."""

    mean: ByChannel | None = None
    std: ByChannel | None = None
    color: Color | None = None

    @classmethod
    def read(cls, mean: str | None, std: str | None, color: str | None) -> NormalizationOptions:
        """The texts of ``--mean``, ``--std`` and ``--color``; UsageError for impossible ones."""
        if color not in (None, "rgb", "bgr"):
            raise UsageError(f"--color {color}: give rgb or bgr, the order of the channels.")
        found = cls(_read(mean, "mean"), _read(std, "std"), color)  # type: ignore[arg-type]
        for name, value in found.given.items():
            try:
                replace(STANDARD, **{name: value})  # type: ignore[arg-type]
            except UsageError as error:
                raise UsageError(f"--{name} {shown(value)}: {error}") from error
        return found

    @property
    def given(self) -> dict[str, ByChannel | Color]:
        """The values that were given, by the name of their option."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def over(self, stated: Normalization | None, where: str) -> Normalization | None:
        """``stated`` by ``where``, or what the user says where nothing is stated; None: neither.

        Raises UsageError where both say something and differ.
        """
        for name, value in self.given.items():
            said = getattr(stated, name, value)
            if said != value:
                raise UsageError(
                    f"--{name} {shown(value)} contradicts {where}, which says {name} "
                    f"{shown(said)}: leave --{name} out, or correct what is wrong."
                )
        if stated or not self.given:
            return stated
        return replace(STANDARD, **self.given)  # type: ignore[arg-type]


NOTHING_SAID = NormalizationOptions()
ASSUMED = (
    f"nothing says how pictures are normalised, {STANDARD} is assumed: --mean, --std and --color "
    "say another way"
)


def _read(text: str | None, name: str) -> ByChannel | None:
    """``127.5`` or ``123.675,116.28,103.53``."""
    if text is None:
        return None
    parts = text.split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) not in (1, len(STANDARD.mean)):
        raise UsageError(
            f"--{name} {text}: give one number, or three with commas between, in the order of the "
            "network's channels."
        )
    return numbers[0], numbers[len(numbers) // 2], numbers[-1]
