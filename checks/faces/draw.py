"""Pictures of found faces, for people to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import cycle

import numpy as np
import numpy.typing as npt

from scrfdconv.checks.faces.decode import Faces

UInt8 = npt.NDArray[np.uint8]
Colour = tuple[int, int, int]

# BGR. The box is green, because skin is not; the points differ in hue from the box and from each
# other, in the order of KEYPOINT_NAMES: the eyes are warm, the mouth corners cold, the nose is
# white. More points than five start over.
BOX_COLOUR: Colour = (80, 220, 60)
KEYPOINT_COLOURS: tuple[Colour, ...] = (
    (60, 60, 255),  # left eye: red
    (0, 200, 255),  # right eye: amber
    (255, 255, 255),  # nose: white
    (255, 120, 40),  # left mouth corner: blue
    (255, 60, 220),  # right mouth corner: magenta
)
OUTLINE: Colour = (0, 0, 0)
LABEL_COLOUR: Colour = (255, 255, 255)

# Shares by eye, on pictures from 160 to 4000 pixels seen at screen size.
LINE_SHARE = 1 / 600  # of the picture's mean side: 1 pixel at 640, 5 at 3000
POINT_SHARE = 1 / 35  # of the face's side, so that a point hides no eye
FONT_SHARE = 1 / 1600  # of the picture's mean side, as OpenCV's font scale
SMALLEST_FONT = 0.35  # digits of 7 pixels: below, an 8 is a blob
WIDEST_LABEL = 0.8  # of the box, where the font does not have to be larger to be legible
PADDING_SHARE = 1 / 4  # of the digits' height: dark ground around a label


def draw_faces(image: UInt8, faces: Faces, class_names: Sequence[str] = ()) -> UInt8:
    """Return a copy of a BGR picture with boxes, scores and keypoints, in the picture's size.

    Lines are thin, points small and labels beside the face, so that the face stays visible.
    The best faces are drawn last and lie on top. Boxes may reach over the edges.
    """
    canvas: UInt8 = np.array(image, np.uint8, order="C")
    side = math.sqrt(image.shape[0] * image.shape[1])
    for index in np.argsort(faces.scores, kind="stable"):
        _draw_box(canvas, faces.boxes[index], max(1, round(side * LINE_SHARE)))
        if faces.keypoints is not None:
            _draw_points(canvas, faces.keypoints[index], faces.boxes[index])
        text = f"{faces.class_of(index, class_names)} {faces.scores[index]:.2f}".strip()
        _draw_label(canvas, faces.boxes[index], text, side * FONT_SHARE)
    return canvas


def _draw_box(canvas: UInt8, box: npt.NDArray[np.float32], thickness: int) -> None:
    import cv2

    x1, y1, x2, y2 = _pixels(canvas, box)
    # Smoothing would only widen lines that are upright and level anyway.
    cv2.rectangle(canvas, (x1, y1), (x2, y2), BOX_COLOUR, thickness, cv2.LINE_8)


def _draw_points(
    canvas: UInt8, points: npt.NDArray[np.float32], box: npt.NDArray[np.float32]
) -> None:
    import cv2

    x1, y1, x2, y2 = _pixels(canvas, box)
    radius = round(math.sqrt(max(0, x2 - x1) * max(0, y2 - y1)) * POINT_SHARE)
    for point, colour in zip(points, cycle(KEYPOINT_COLOURS), strict=False):
        x, y = _pixels(canvas, point)
        if radius > 1:  # an outline tells white from skin, but would hide a small face
            cv2.circle(canvas, (x, y), radius + 1, OUTLINE, cv2.FILLED, cv2.LINE_AA)
        smooth = cv2.LINE_AA if radius else cv2.LINE_8  # a small face's points are single pixels
        cv2.circle(canvas, (x, y), radius, colour, cv2.FILLED, smooth)


def _draw_label(canvas: UInt8, box: npt.NDArray[np.float32], text: str, scale: float) -> None:
    """Write on dark ground above the box; inside it where the picture ends above."""
    import cv2

    font = cv2.FONT_HERSHEY_SIMPLEX
    x1, y1, x2, _ = _pixels(canvas, box)
    (natural, _), _ = cv2.getTextSize(text, font, 1.0, 1)
    scale = max(SMALLEST_FONT, min(scale, WIDEST_LABEL * (x2 - x1) / natural))
    weight = max(1, round(scale))
    (width, height), _ = cv2.getTextSize(text, font, scale, weight)
    padding = max(2, round(height * PADDING_SHARE))
    tall, wide = height + 2 * padding, width + 2 * padding
    top = y1 - tall if y1 >= tall else max(0, y1)
    left = max(0, min(x1, canvas.shape[1] - wide))
    ground = canvas[top : top + tall, left : left + wide]
    ground //= 3  # darkened, not covered: the picture below can be guessed
    at = (left + padding, top + tall - padding)
    cv2.putText(canvas, text, at, font, scale, LABEL_COLOUR, weight, cv2.LINE_AA)


def _pixels(canvas: UInt8, values: npt.NDArray[np.float32]) -> list[int]:
    """Round to pixels; points far outside are moved near, because OpenCV's integers overflow."""
    reach = float(2 * max(canvas.shape[:2]))
    return [round(float(value)) for value in np.clip(values, -reach, 2 * reach)]
