"""Images that checks feed to models: seeded, so that a result can be repeated anywhere."""

from __future__ import annotations

import zlib

import numpy as np

from scrfdconv.converters.network.architecture import CHANNELS

STIMULI = ("noise", "bright", "dark", "structured")
# Grey levels of a bright and a dark picture with a little noise, in the range [-1, 1].
LEVEL, GRAIN = 0.8, 0.15
EDGE_CELL = 24  # pixels; edges that fall on no stride's grid


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
    else:
        raise ValueError(kind)
    return np.clip(image, -1, 1).astype(np.float32)


def mosaic(height: int, width: int, seed: int, channels: int = CHANNELS) -> np.ndarray:
    """(1, C, H, W) with one kind in each quarter: all of them for the price of one run."""
    top, left = height // 2, width // 2
    image = np.empty((CHANNELS, height, width), np.float32)
    places = [
        (y, x)
        for y in (slice(0, top), slice(top, height))
        for x in (slice(0, left), slice(left, width))
    ]
    for kind, (y, x) in zip(STIMULI, places, strict=True):
        image[:, y, x] = stimulus(kind, y.stop - y.start, x.stop - x.start, seed)
    return np.resize(image, (channels, height, width))[None]


def stimuli(batch: int, height: int, width: int, seed: int, channels: int = CHANNELS) -> np.ndarray:
    """(N, C, H, W): every slot of the batch has its own content, and kinds take turns."""
    kinds = [STIMULI[(seed + slot) % len(STIMULI)] for slot in range(batch)]
    images = np.stack([stimulus(k, height, width, seed + i) for i, k in enumerate(kinds)])
    return np.resize(images.swapaxes(0, 1), (channels, batch, height, width)).swapaxes(0, 1)


def _structure(draw: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Ramps, blocks and waves of another colour each: smooth areas, edges and texture."""
    y, x = np.mgrid[0:height, 0:width]
    ramp = np.stack([x / width, y / height, (x + y) / (width + height)]) * 2 - 1
    cells = (height // EDGE_CELL + 1, width // EDGE_CELL + 1)
    blocks = draw.uniform(-1, 1, (CHANNELS, *cells)).repeat(EDGE_CELL, 1).repeat(EDGE_CELL, 2)
    waves = np.sin(x[None] * draw.uniform(0.05, 0.8, (CHANNELS, 1, 1)) + y[None] * 0.1)
    return np.asarray((ramp + blocks[:, :height, :width] + waves) / 3)
