"""Photographs in memory as small as possible: letterboxed bytes, normalised one at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from scrfdconv.checks.faces.images import UInt8, letterbox, normalise, read_image
from scrfdconv.checks.stimuli import STIMULI, stimulus
from scrfdconv.converters.errors import InputFileError
from scrfdconv.converters.runner import Interface

# Ranges stop growing long before; 400 canvases of 640x640 are 0.5 GB as bytes, 2 GB as floats.
MOST_PICTURES = 400
MOSAIC_SIDES = (2, 4)  # tiles in a row
_BLUR = 1.5  # standard deviation in pixels: a photograph out of focus
SYNTHETIC_PICTURES = 8  # the fewest that calibration takes without a warning
SYNTHETIC_SIZE = (480, 640)  # H, W; letterboxed like a photograph
_NAMED = 3


@dataclass(frozen=True)
class Pictures:
    """Letterboxed photographs, and what happened to the others."""

    paths: tuple[Path, ...]
    canvases: tuple[UInt8, ...]  # (H, W, 3) BGR each
    skipped: tuple[str, ...] = ()  # one sentence for each unreadable file, with the reason
    left_out: int = 0  # number of pictures beyond MOST_PICTURES

    def __len__(self) -> int:
        return len(self.canvases)

    @property
    def digest(self) -> str:
        """sha256 over the canvases: equal for equal pictures, whatever they are called."""
        result = hashlib.sha256()
        for canvas in self.canvases:
            result.update(canvas.tobytes())
        return result.hexdigest()

    def take(self, which: Sequence[int]) -> Pictures:
        """The pictures at the given indices."""
        return Pictures(tuple(self.paths[i] for i in which), tuple(self.canvases[i] for i in which))

    def notes(self) -> list[str]:
        """What a user must know about pictures that were not used."""
        told = []
        if self.skipped:
            first = "; ".join(text.rstrip(".") for text in self.skipped[:_NAMED])
            more = " ..." if len(self.skipped) > _NAMED else ""
            told.append(f"{len(self.skipped)} unreadable files skipped: {first}{more}")
        if self.left_out:
            told.append(f"{self.left_out} pictures left out: {len(self)} of them suffice")
        return told


def load_pictures(
    paths: Sequence[Path],
    size: tuple[int, int],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Pictures:
    """Read and letterbox ``paths`` to ``size`` (H, W); unreadable files are skipped and noted.

    Raises InputFileError where nothing is readable.
    """
    wanted = spread(paths, MOST_PICTURES)
    kept: list[tuple[Path, UInt8]] = []
    skipped: list[str] = []
    for done, path in enumerate(wanted, 1):
        try:
            kept.append((path, letterbox(read_image(path), size)[0]))
        except InputFileError as error:
            skipped.append(str(error))
        progress(done, len(wanted))
    if not kept:
        raise InputFileError(
            f"None of the {len(skipped)} pictures can be read: {skipped[0] if skipped else ''}"
        )
    names, canvases = zip(*kept, strict=True)
    return Pictures(names, canvases, tuple(skipped), len(paths) - len(wanted))


def batches(canvases: Sequence[UInt8], interface: Interface) -> Callable[[], Iterator[np.ndarray]]:
    """Model inputs (N, 3, H, W), one picture in all slots of each, as often as asked for."""

    def images() -> Iterator[np.ndarray]:
        for canvas in canvases:
            image = normalise(canvas, interface.normalization)
            yield np.repeat(image, interface.batch or 1, axis=0)

    return images


def views(canvas: UInt8) -> list[UInt8]:
    """The picture, its mirror image, at half size, darkened and blurred: more faces to judge by.

    For the network, each view shows new faces: a face may get lost in one view and stay in others.
    """
    import cv2

    half = np.zeros_like(canvas)
    height, width = canvas.shape[0] // 2, canvas.shape[1] // 2
    half[:height, :width] = cv2.resize(canvas, (width, height), interpolation=cv2.INTER_AREA)
    mirrored = np.ascontiguousarray(canvas[:, ::-1])
    dark = canvas // 2
    blurred = np.asarray(cv2.GaussianBlur(canvas, (0, 0), _BLUR))
    return [canvas, mirrored, half, dark, blurred]


def spread(paths: Sequence[Path], most: int) -> tuple[Path, ...]:
    """At most ``most`` pictures, evenly spread: folders are sorted by kind of picture."""
    places = np.linspace(0, len(paths) - 1, min(len(paths), most)).astype(int)
    return tuple(paths[i] for i in places)


def mosaics(canvases: Sequence[UInt8]) -> list[UInt8]:
    """Canvases tiled with the pictures at half and at quarter size, each picture once at each size.

    They show small faces and fine texture, which crops of faces lack. Measured with eight
    portraits as the only pictures: the recall of 500M_KPS rises from 0.94 to 0.98.
    """
    return [
        _tiled(canvases, first, side)
        for side in MOSAIC_SIDES
        for first in range(0, max(len(canvases), side * side), side * side)
    ]


def _tiled(canvases: Sequence[UInt8], first: int, side: int) -> UInt8:
    """``side`` x ``side`` pictures from the ``first`` on, starting over where they end."""
    import cv2

    result = np.zeros_like(canvases[0])
    height, width = result.shape[0] // side, result.shape[1] // side
    for place in range(side * side):
        tile = cv2.resize(
            canvases[(first + place) % len(canvases)],
            (width, height),
            interpolation=cv2.INTER_AREA,
        )
        row, column = divmod(place, side)
        top, left = row * height, column * width
        result[top : top + height, left : left + width] = tile
    return result


def synthetic_pictures(folder: Path) -> tuple[Path, ...]:
    """Pictures to calibrate untrained networks on, where there are no photographs.

    Seeded noise, bright, dark and structured ones, as verification uses them.
    """
    import cv2

    folder.mkdir()
    paths = []
    for i in range(SYNTHETIC_PICTURES):
        pixels = stimulus(STIMULI[i % len(STIMULI)], *SYNTHETIC_SIZE, i) * 127.5 + 127.5
        paths.append(folder / f"synthetic{i}.png")
        cv2.imwrite(str(paths[-1]), np.round(pixels).astype(np.uint8).transpose(1, 2, 0))
    return tuple(paths)
