"""Images that checks feed to models: seeded, so that a result can be repeated anywhere."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np

from scrfdconv.converters.network.architecture import CHANNELS

# Drawn faces come first, so that every batch has some. Trained detectors find them (the three with
# released weights: 12 of 12 at 640x640, scores 0.5 to 0.89): a fault of boxes, keypoints or scores
# shows where it matters, without a photograph.
STIMULI = ("faces", "noise", "portrait", "bright", "dark", "structured")
# Grey levels of a bright and a dark picture with a little noise, in the range [-1, 1].
LEVEL, GRAIN = 0.8, 0.15
EDGE_CELL = 24  # pixels; edges that fall on no stride's grid

STRIP = 0.25  # share of the width of a mosaic that shows no faces: 160 of 640 pixels
# Where faces are drawn: x and y as shares of width and height, half the height of the face as a
# share of the shorter side. At 640x640 each of the strides 8, 16 and 32 is best for some of them;
# in smaller pictures only a portrait is large enough for the coarsest one.
FACES = (
    (0.52, 0.52, 0.31),
    (0.14, 0.14, 0.08),
    (0.87, 0.12, 0.056),
    (0.11, 0.47, 0.047),
    (0.12, 0.67, 0.038),
    (0.87, 0.39, 0.028),
    (0.94, 0.55, 0.022),
    (0.89, 0.66, 0.019),
    (0.94, 0.75, 0.016),
    (0.09, 0.87, 0.031),
    (0.23, 0.92, 0.014),
    (0.88, 0.88, 0.094),
)
PORTRAIT = ((0.5, 0.48, 0.42),)


def stimulus(kind: str, height: int, width: int, seed: int) -> np.ndarray:
    """One normalised image (3, H, W) float32 in [-1, 1]; the channels differ, so a swap shows."""
    key = zlib.crc32(f"{kind}:{height}x{width}:{seed}".encode())
    draw = np.random.Generator(np.random.PCG64(key))
    shape = (CHANNELS, height, width)
    if kind == "noise":
        image = draw.uniform(-1, 1, shape)
    elif kind in ("bright", "dark"):
        level = LEVEL if kind == "bright" else -LEVEL
        image = level + draw.uniform(-GRAIN, GRAIN, shape)
    elif kind == "structured":
        image = _structure(draw, height, width)
    elif kind in ("faces", "portrait"):
        image = _faces(draw, height, width, FACES if kind == "faces" else PORTRAIT)
    else:
        raise ValueError(kind)
    return np.clip(image, -1, 1).astype(np.float32)


def mosaic(height: int, width: int, seed: int, channels: int = CHANNELS) -> np.ndarray:
    """(1, C, H, W) with every other kind in a strip at the left, and faces in all the rest.

    So one run shows all kinds. The strip leaves room for large faces, which the coarsest stride
    finds.
    """
    others = [kind for kind in STIMULI if kind not in ("faces", "portrait")]
    image = np.empty((CHANNELS, height, width), np.float32)
    middle = int(width * STRIP)
    edges = np.linspace(0, height, len(others) + 1).astype(int).tolist()
    for kind, top, bottom in zip(others, edges, edges[1:], strict=False):
        image[:, top:bottom, :middle] = stimulus(kind, bottom - top, middle, seed)
    image[:, :, middle:] = stimulus("faces", height, width - middle, seed)
    return np.resize(image, (channels, height, width))[None]


def stimuli(batch: int, height: int, width: int, seed: int, channels: int = CHANNELS) -> np.ndarray:
    """(N, C, H, W): every slot of the batch has its own content, and kinds take turns."""
    kinds = [STIMULI[(seed + slot) % len(STIMULI)] for slot in range(batch)]
    images = np.stack([stimulus(k, height, width, seed + i) for i, k in enumerate(kinds)])
    return np.resize(images.swapaxes(0, 1), (channels, batch, height, width)).swapaxes(0, 1)


def _structure(draw: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Ramps, blocks and waves of another colour each: smooth areas, edges and texture."""
    y, x = np.ogrid[0:height, 0:width]
    ramps = np.broadcast_arrays(x / width, y / height, (x + y) / (width + height))
    ramp = np.stack(ramps) * 2 - 1
    cells = (height // EDGE_CELL + 1, width // EDGE_CELL + 1)
    blocks = draw.uniform(-1, 1, (CHANNELS, *cells)).repeat(EDGE_CELL, 1).repeat(EDGE_CELL, 2)
    waves = np.sin(x[None] * draw.uniform(0.05, 0.8, (CHANNELS, 1, 1)) + y[None] * 0.1)
    return np.asarray((ramp + blocks[:, :height, :width] + waves) / 3)


# ---------------------------------------------------------------- drawn faces


def _faces(
    draw: np.random.Generator, height: int, width: int, places: Sequence[tuple[float, float, float]]
) -> np.ndarray:
    """Faces from ellipses before a smooth background, with a little noise."""
    y, x = np.ogrid[0:height, 0:width]
    image = np.stack([np.sin(x / 97 + turn) / 2 + (y / height - 0.5) * 0.8 for turn in range(3)])
    for across, down, size in places:
        _draw_face(image, across * width, down * height, size * min(height, width), draw)
    return np.asarray(image + draw.normal(0, 0.02, image.shape))


def _draw_face(
    image: np.ndarray, x: float, y: float, size: float, draw: np.random.Generator
) -> None:
    """One face into ``image`` (3, H, W), RGB in [-1, 1]; ``size`` is half its height, in pixels."""
    skin = np.array([draw.uniform(0.5, 0.85), draw.uniform(0.1, 0.5), draw.uniform(-0.1, 0.3)])
    cloth, hair = draw.uniform(-0.8, 0.6, 3), np.full(3, draw.uniform(-0.9, -0.5))
    white, black, lips = np.full(3, 0.75), np.full(3, -0.85), np.array([0.3, -0.35, -0.35])
    # (dx, dy, half width, half height, colour), in units of ``size``, from back to front.
    parts = [
        (0, 1.5, 1.1, 0.75, cloth),
        (0, 0.9, 0.33, 0.5, skin - 0.2),
        (0, -0.18, 0.8, 0.98, hair),
        (0, 0, 0.74, 1, skin),
        (0, 0.02, 0.61, 0.86, skin + 0.08),
        *(
            part
            for side in (-0.31, 0.31)
            for part in (
                (side, -0.12, 0.18, 0.1, skin - 0.3),
                (side, -0.12, 0.13, 0.06, white),
                (side, -0.12, 0.06, 0.065, black),
                (side, -0.32, 0.19, 0.035, hair),
            )
        ),
        (0, 0.16, 0.07, 0.2, skin + 0.12),
        (0, 0.3, 0.13, 0.06, skin - 0.25),
        (-0.06, 0.32, 0.03, 0.025, black),
        (0.06, 0.32, 0.03, 0.025, black),
        (0, 0.56, 0.25, 0.085, lips),
        (0, 0.55, 0.25, 0.02, lips - 0.4),
    ]
    for dx, dy, across, down, colour in parts:
        _ellipse(image, (x + dx * size, y + dy * size), (across * size, down * size), colour)


def _ellipse(
    image: np.ndarray, centre: tuple[float, float], axes: tuple[float, float], colour: np.ndarray
) -> None:
    """A filled ellipse with soft edges one pixel wide."""
    (x, y), (a, b) = centre, axes
    left, right = max(0, int(x - a - 1)), max(0, int(x + a + 2))
    top, bottom = max(0, int(y - b - 1)), max(0, int(y + b + 2))
    part = image[:, top:bottom, left:right]
    rows, columns = np.ogrid[top : top + part.shape[1], left : left + part.shape[2]]
    reach = np.hypot((columns - x) / a, (rows - y) / b)  # 1 at the edge
    share = np.clip((1 - reach) * min(a, b) + 0.5, 0, 1)
    part += share * (np.clip(colour, -1, 1)[:, None, None] - part)
