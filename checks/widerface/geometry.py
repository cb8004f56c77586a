"""How the published WIDER FACE evaluation treats an image: size, padding, and the way back.

The protocol is that of SCRFD's own ``tools/test_widerface.py``. It differs from deployment
(``checks/faces/images.py``) in rounding, in the colour of the padding, and in NMS.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scrfdconv.checks.faces.decode import Faces, candidates, nms
from scrfdconv.converters.errors import InputFileError, UsageError
from scrfdconv.converters.normalization import Normalization
from scrfdconv.converters.runner import Interface, Runner

IMAGE_FOLDERS = ("WIDER_val/images", "images", "")

# The published modes: 0 is the one of the published table, a large number is a square size.
VGA = 0
MULTI_SCALE = 1
ORIGINAL = 2
VGA_SIZE = 640
LONG_SIDE, SHORT_SIDE = 1650, 1100  # mode 1
MULTIPLE = 32  # the coarsest stride; five-level models need 128

# The published test keeps scores above 0.02, as float32: the first number that is above.
SCORE_ABOVE = float(np.nextafter(np.float32(0.02), np.float32(1)))
NMS_IOU = 0.45  # and its NMS measures continuous boxes, without the +1 of deployment
NMS_OFFSET = 0.0


def find_events(directory: Path) -> Path:
    """Find the folder that holds ``EVENT/NAME.jpg``, wherever the data set was unpacked."""
    for folder in IMAGE_FOLDERS:
        if any((directory / folder).glob("*--*/*.jpg")):
            return directory / folder
    raise InputFileError(
        f"{directory}: the WIDER FACE images are not here; unpack WIDER_val.zip into this folder."
    )


@dataclass(frozen=True)
class EvalGeometry:
    """How an image is scaled and padded before the model sees it. All sizes are (height, width)."""

    image: tuple[int, int]
    resized: tuple[int, int]
    padded: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """Resized pixels per image pixel, along y and along x: rounding makes them differ."""
        return self.resized[0] / self.image[0], self.resized[1] / self.image[1]


def parse_mode(text: str) -> int:
    """Translate ``vga``, ``original`` or a number into a mode."""
    names = {"vga": VGA, "original": ORIGINAL}
    if text.lower() in names:
        return names[text.lower()]
    if text.isdecimal():
        return int(text)
    raise UsageError(f"Mode '{text}' is unknown; give vga, original, or a size such as 640.")


def eval_geometry(
    image_size: tuple[int, int], mode: int = VGA, multiple: int = MULTIPLE
) -> EvalGeometry:
    """Plan the resizing and padding of an image of (height, width) for a mode.

    0 (the published table) fits it into 640x640, 1 into 1650 by 1100 in either orientation, 2 keeps
    its size, a larger number N fits it into NxN. The image stays top left, and the padded size is a
    multiple of ``multiple``. Raises ``UsageError`` where N is not.

    The published script takes 640 for every N up to 30, too, which would hide mistakes here. Its
    mode 1 pads to 1100x1650, which no decoder of this model can read and which fails on upright
    images; here it is the next multiples in the orientation of the image.
    """
    box = _bounding_box(image_size, mode, multiple)
    if box is None:
        return EvalGeometry(image_size, image_size, _round_up(image_size, multiple))
    height, width = image_size
    # The published pipeline fits the long side into the long side, the short into the short.
    scale = min(max(box) / max(image_size), min(box) / min(image_size))
    # The pipeline rounds half up, where the demo truncates. At least 1: OpenCV cannot resize to 0.
    resized = max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))
    return EvalGeometry(image_size, resized, _round_up(box, multiple))


def _bounding_box(image_size: tuple[int, int], mode: int, multiple: int) -> tuple[int, int] | None:
    """Choose what the image has to fit into, (height, width); None keeps its size."""
    if mode < 0:
        raise UsageError(f"Mode {mode} is unknown; give vga, original, or a size such as 640.")
    if mode == ORIGINAL:
        return None
    if mode == VGA:
        return VGA_SIZE, VGA_SIZE
    if mode == MULTI_SCALE:
        upright = image_size[0] > image_size[1]
        return (LONG_SIDE, SHORT_SIDE) if upright else (SHORT_SIDE, LONG_SIDE)
    if mode % multiple:
        below = mode // multiple * multiple
        nearest = " or ".join(str(n) for n in (below, below + multiple) if n)
        raise UsageError(f"Size {mode} is not a multiple of {multiple}; take {nearest}.")
    return mode, mode


def _round_up(size: tuple[int, int], multiple: int) -> tuple[int, int]:
    height, width = (-(-side // multiple) * multiple for side in size)
    return height, width


def prepare(
    image: NDArray[np.uint8],
    normalization: Normalization,
    mode: int = VGA,
    multiple: int = MULTIPLE,
) -> tuple[NDArray[np.float32], EvalGeometry]:
    """Turn an OpenCV image, (H, W, 3) BGR uint8, into the input of the published evaluation.

    Returns the model's input, (1, 3, H, W) float32, and the geometry for ``restore``. Padding is
    added after the normalisation and therefore the mean's grey, not black as in ``detect``; models
    with GroupNorm see the difference.
    """
    import cv2

    geometry = eval_geometry((image.shape[0], image.shape[1]), mode, multiple)
    height, width = geometry.resized
    resized = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    tensor = np.zeros((1, 3, *geometry.padded), np.float32)
    normalization.write(tensor[0], resized)
    return tensor, geometry


def restore(boxes: NDArray[Any], geometry: EvalGeometry) -> NDArray[Any]:
    """Bring boxes of the model's input back to pixels of the image: (n, 4) xyxy both ways.

    They are clipped to the resized image without its padding. Do this before NMS, as the published
    pipeline does: the two axes have slightly different scales, and IoU sees it.
    """
    height, width = geometry.resized
    y, x = geometry.scale
    limits = np.array([width, height, width, height], boxes.dtype)
    restored: NDArray[Any] = np.clip(boxes, 0, limits) / np.array([x, y, x, y], boxes.dtype)
    return restored


# ---------------------------------------------------------------- detections


def mode_name(mode: int) -> str:
    """``vga``, ``original``, or the number."""
    return {VGA: "vga", ORIGINAL: "original"}.get(mode, str(mode))


def is_square(mode: int) -> bool:
    """True if a mode pads all images to one size, so that they fit into one batch."""
    return mode not in (MULTI_SCALE, ORIGINAL)


def require_mode(interface: Interface, mode: int) -> None:
    """Raise UsageError unless a model can see images as ``mode`` wants them."""
    box = _bounding_box((1, 1), mode, interface.size_multiple)
    batch = interface.batch or 1
    free = interface.height is None and interface.width is None
    square = box if is_square(mode) else None
    if free or (square and interface.accepts(batch, *square)):
        return
    fixed = f"{interface.height or 'any'}x{interface.width or 'any'}"
    raise UsageError(
        f"The model's input is fixed to {fixed} (height x width), and mode {mode_name(mode)} needs "
        f"{f'{square[0]}x{square[1]}' if square else 'the size of each image'}; "
        "take the checkpoint or a dynamic model, or --mode N for a model of NxN."
    )


def detections_on(
    runner: Runner, images: Sequence[NDArray[np.uint8]], mode: int = VGA, label: int | None = None
) -> list[NDArray[np.float32]]:
    """Detect as the published numbers do: (n, 5) x, y, w, h, score for each image, best first.

    ``images`` are at most the model's batch, OpenCV's BGR; empty slots of a fixed batch see the
    last image again. Of a model with several classes only ``label`` counts.
    """
    interface = runner.interface
    slots = interface.batch or 1
    assert 1 <= len(images) <= slots, (len(images), slots)
    prepared = [
        prepare(image, interface.normalization, mode, interface.size_multiple) for image in images
    ]
    tensors = [tensor for tensor, _ in prepared]
    tensors += tensors[-1:] * (slots - len(tensors))
    outputs = runner.run(np.concatenate(tensors))
    found = candidates(outputs, prepared[0][1].padded, SCORE_ABOVE)
    found = [_of_class(faces, label) for faces in found]
    return [_result(faces, geometry) for faces, (_, geometry) in zip(found, prepared, strict=False)]


def _of_class(faces: Faces, label: int | None) -> Faces:
    """The faces of one class; the data set knows but faces."""
    if faces.labels is None:
        if label:
            raise UsageError(f"--class {label}: the model has one class; leave the option out.")
        return faces
    if label is None:
        raise UsageError("The model has several classes: say with --class which one is the face.")
    return faces.take(faces.labels == label)


def _result(faces: Faces, geometry: EvalGeometry) -> NDArray[np.float32]:
    boxes = restore(faces.boxes, geometry)
    kept = nms(boxes, faces.scores, NMS_IOU, NMS_OFFSET)
    corners, sides = boxes[kept, :2], boxes[kept, 2:] - boxes[kept, :2]
    rows: NDArray[np.float32] = np.concatenate((corners, sides, faces.scores[kept, None]), axis=1)
    return rows
