"""The ground truth of WIDER FACE validation: the data set's four .mat files.

An image is named ``EVENT/NAME`` everywhere, such as ``0--Parade/0_Parade_marchingband_1_465``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scrfdconv.checks.widerface.mat_file import read_mat
from scrfdconv.converters.errors import InputFileError

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

SUBSETS = ("easy", "medium", "hard")  # of the faces, not of the images

# Where the .mat files are when the archives are unpacked side by side, or one of them alone.
GROUND_TRUTH_FOLDERS = ("", "ground_truth", "eval_tools/ground_truth", "wider_face_split")


@dataclass(frozen=True)
class ImageTruth:
    """The labelled faces of one image, and which of them count in which subset."""

    name: str  # EVENT/NAME
    boxes: Floats  # (m, 4) x, y, width, height, pixels
    counts: Bools  # (3, m), rows in the order of SUBSETS; the other faces are neither hit nor miss


@dataclass(frozen=True)
class GroundTruth:
    """The labelled faces of a set of images, in the order of the .mat files."""

    images: tuple[ImageTruth, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The images as ``EVENT/NAME``; the file is ``EVENT/NAME.jpg``."""
        return tuple(image.name for image in self.images)

    def first(self, count: int) -> GroundTruth:
        """Keep the first ``count`` images, for a smoke run: its AP compares with no other."""
        return GroundTruth(self.images[:count])


def load_ground_truth(directory: Path) -> GroundTruth:
    """Read the faces of the validation images and the three subsets.

    Finds ``wider_face_val.mat`` and ``wider_{easy,medium,hard}_val.mat`` in ``directory`` or in the
    folders that the data set's archives make. Raises ``InputFileError`` where one is missing,
    unreadable, or does not fit the others.
    """
    faces = _load_mat(directory, "face")
    subsets = [_load_mat(directory, subset) for subset in SUBSETS]
    with _malformed(directory, "wider_face_val.mat"):
        names, boxes = (
            _image_names(faces),
            [_boxes(cell) for cell in _cells(faces["face_bbx_list"])],
        )
    counts = [
        _counting(directory, *pair, names, boxes) for pair in zip(SUBSETS, subsets, strict=True)
    ]
    return GroundTruth(
        tuple(
            ImageTruth(name, image_boxes, np.stack(rows))
            for name, image_boxes, *rows in zip(names, boxes, *counts, strict=True)
        )
    )


def _load_mat(directory: Path, kind: str) -> dict[str, Any]:
    name = f"wider_{kind}_val.mat"
    path = next((p for f in GROUND_TRUTH_FOLDERS if (p := directory / f / name).is_file()), None)
    if path is None:
        raise InputFileError(
            f"{directory}: {name} is not here; unpack the WIDER FACE eval_tools into this folder."
        )
    return read_mat(path)


@contextmanager
def _malformed(directory: Path, name: str) -> Iterator[None]:
    try:
        yield
    # loadmat and a wrong layout fail with almost any exception: struct, zlib, Key, Type, Index ...
    except Exception as error:
        raise InputFileError(
            f"{directory / name}: not a WIDER FACE ground truth file ({error}); "
            "unpack the eval_tools again."
        ) from error


def _cells(column: Any) -> Iterator[Any]:
    """One entry per image of a cell array that is nested as events, then images."""
    for event in column[:, 0]:
        yield from event[:, 0]


def _image_names(content: dict[str, Any]) -> list[str]:
    pairs = zip(content["event_list"][:, 0], content["file_list"][:, 0], strict=True)
    return [f"{event[0]}/{file[0]}" for event, files in pairs for file in files[:, 0]]


def _boxes(cell: Any) -> Floats:
    boxes = np.asarray(cell, dtype=np.float64).reshape(-1, 4)
    if not np.isfinite(boxes).all():
        raise ValueError("a face box is not a number")
    return boxes


def _counting(
    directory: Path, subset: str, content: dict[str, Any], names: list[str], boxes: list[Floats]
) -> list[Bools]:
    """Per image, which of its faces belong to ``subset``: (m,) booleans."""
    with _malformed(directory, f"wider_{subset}_val.mat"):
        if _image_names(content) != names:
            raise ValueError("it lists other images than wider_face_val.mat")
        indices = _cells(content["gt_list"])
        return [_mask(cell, len(faces)) for cell, faces in zip(indices, boxes, strict=True)]


def _mask(cell: Any, faces: int) -> Bools:
    indices = np.asarray(cell, dtype=np.int64).ravel() - 1  # Matlab counts from 1
    if ((indices < 0) | (indices >= faces)).any():
        raise ValueError("it names a face that is not in wider_face_val.mat")
    mask = np.zeros(faces, dtype=np.bool_)
    mask[indices] = True
    return mask
