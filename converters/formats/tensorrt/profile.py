"""Optimization profiles: the image shapes that a dynamic engine accepts, and is tuned for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.network.architecture import CHANNELS

Shape = tuple[int, int, int]  # images, height, width
Free = tuple[int | None, int | None, int | None]  # the same of a model; None where it is free

_TEXT = re.compile(r"(\d+)x(\d+)x(\d+)")
_AXES = ("batch", "height", "width")

# From a small picture to four HD frames, tuned for the size that the models were trained at.
DEFAULT_MIN: Shape = (1, 320, 320)
DEFAULT_OPT: Shape = (1, 640, 640)
# The first size that fits into memory is taken; the last one where none fits.
DEFAULT_MAX: tuple[Shape, ...] = ((4, 1280, 1280), (2, 1280, 1280), (1, 1280, 1280), (1, 640, 640))


@dataclass(frozen=True)
class Profile:
    """Smallest, preferred and largest shape; every shape between min and max is accepted."""

    min: Shape
    opt: Shape
    max: Shape

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The shapes to verify at, the preferred one first, each once."""
        return tuple(dict.fromkeys((self.opt, self.min, self.max)))

    def accepts(self, shape: Shape) -> bool:
        """True if images of this shape fit."""
        limits = zip(self.min, shape, self.max, strict=True)
        return all(low <= size <= high for low, size, high in limits)

    def __str__(self) -> str:
        return " .. ".join(shape_text(shape) for shape in (self.min, self.opt, self.max))


def shape_text(shape: Shape) -> str:
    """(1, 640, 640) as ``1x640x640``."""
    return "x".join(map(str, shape))


def nchw(shape: Shape) -> tuple[int, int, int, int]:
    """The shape of the tensor with these images."""
    return (shape[0], CHANNELS, shape[1], shape[2])


def profiles_for(
    model: Free,
    multiple: int,
    low: Sequence[str],
    best: Sequence[str],
    high: Sequence[str],
    bytes_per_pixel: float = 0.0,
    memory: int | None = None,
) -> tuple[Profile, ...]:
    """The profiles for a model with these free axes; none for one of a fixed shape.

    ``low``, ``best`` and ``high`` are ``NxHxW`` texts, one of each per profile; where none are
    given, the defaults that fit into ``memory`` bytes are taken. Raises UsageError for shapes
    that contradict each other, the model or ``multiple``.
    """
    given = bool(low or best or high)
    if None not in model:
        if given:
            raise UsageError(
                f"--min, --opt and --max are for dynamic models; this one takes {_of(model)} alone."
            )
        return ()
    if not len(low) == len(best) == len(high):
        raise UsageError(
            f"A profile is one --min, one --opt and one --max; given are {len(low)}, {len(best)} "
            f"and {len(high)}."
        )
    if not given:
        return (_default(model, multiple, bytes_per_pixel, memory),)
    triples = zip(low, best, high, strict=True)
    profiles = [Profile(*(_parse(text) for text in triple)) for triple in triples]
    for profile in profiles:
        _require_valid(profile, model, multiple)
    return tuple(profiles)


def _default(model: Free, multiple: int, bytes_per_pixel: float, memory: int | None) -> Profile:
    def fitted(shape: Shape) -> Shape:
        images, height, width = shape
        whole = (images, -(-height // multiple) * multiple, -(-width // multiple) * multiple)
        own = [fixed or size for fixed, size in zip(model, whole, strict=True)]
        return (own[0], own[1], own[2])

    def fits(shape: Shape) -> bool:
        images, height, width = fitted(shape)
        return memory is None or images * height * width * bytes_per_pixel <= memory

    high = next((shape for shape in DEFAULT_MAX if fits(shape)), DEFAULT_MAX[-1])
    return Profile(fitted(DEFAULT_MIN), fitted(DEFAULT_OPT), fitted(high))


def _parse(text: str) -> Shape:
    match = _TEXT.fullmatch(text.strip())
    if not match:
        raise UsageError(
            f"{text}: a profile shape is NxHxW (images x height x width), such as 1x640x640."
        )
    return _shape(match.groups())


def _shape(numbers: Iterable[Any]) -> Shape:
    images, height, width = (int(number) for number in numbers)
    return (images, height, width)


def _require_valid(profile: Profile, model: Free, multiple: int) -> None:
    for shape in (profile.min, profile.opt, profile.max):
        if shape[0] < 1:
            raise UsageError(f"{shape_text(shape)}: at least one image.")
        for size in shape[1:]:
            if size < 1 or size % multiple:
                near = max(multiple, size // multiple * multiple)
                raise UsageError(
                    f"{shape_text(shape)}: {size} is not a multiple of {multiple}; the nearest are "
                    f"{near} and {near + multiple}."
                )
        for axis, fixed, size in zip(_AXES, model, shape, strict=True):
            if fixed and fixed != size:
                raise UsageError(f"{shape_text(shape)}: the model's {axis} is fixed to {fixed}.")
    for axis, low, best, high in zip(_AXES, profile.min, profile.opt, profile.max, strict=True):
        if not low <= best <= high:
            raise UsageError(
                f"Profile {profile}: {axis} must not shrink from min over opt to max, but is "
                f"{low}, {best}, {high}."
            )


def _of(model: Free) -> str:
    return "x".join(str(size or "any") for size in model)
