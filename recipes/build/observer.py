"""What a build measures besides its checks: error histograms, faces to look at, latency."""

from __future__ import annotations

import base64
import time
from pathlib import Path

import numpy as np

from scrfdconv.checks.faces.decode import DEPLOYMENT_THRESHOLD, Faces, decode
from scrfdconv.checks.faces.images import letterbox, read_image
from scrfdconv.checks.parity import Sample, common_shapes
from scrfdconv.checks.reports.outcome import FaceBox, FacesOn, Histogram, Latency, Picture
from scrfdconv.checks.tolerances import limits_for
from scrfdconv.converters.network.architecture import CHANNELS, OUTPUT_KINDS
from scrfdconv.converters.runner import Outputs, Runner

# From equality in float32 to a whole stride; four bins a decade show the shape and fit a phone.
DECADES, BINS_PER_DECADE = (-9, 2), 4
EDGES = np.logspace(*DECADES, (DECADES[1] - DECADES[0]) * BINS_PER_DECADE + 1)

MOST_PICTURES = 6  # shown pictures; verification uses all pictures
THUMBNAIL_SIDE, JPEG_QUALITY = 360, 70  # pixels, percent: a picture adds about 20 kB to the page

# A median of a few rounds is within 5 % on an idle machine; 34G takes 2 s for a pair.
LATENCY_SECONDS, FEWEST_ROUNDS, MOST_ROUNDS = 2.0, 3, 15


class Observer:
    """Sees every pair of outputs of a verification and keeps what reports show."""

    def __init__(self) -> None:
        self.faces: list[FacesOn] = []
        self.pictures: list[Picture] = []
        self._counts: dict[str, np.ndarray] = {}
        self._below: dict[str, int] = {}

    def __call__(self, sample: Sample, want: Outputs, got: Outputs) -> None:
        """Count the errors of a sample; draw the faces of a photograph."""
        for name in want.keys() & got.keys():
            if want[name].shape == got[name].shape:
                self._count(name, np.abs(want[name] - got[name]).ravel())
        if sample.path and len(self.pictures) < MOST_PICTURES:
            self._look(sample, sample.path, want, got)

    def histograms(self, precision: str, loosen: float = 1.0) -> tuple[Histogram, ...]:
        """One histogram for each output, with the limit on its largest error."""
        return tuple(
            Histogram(
                output=name,
                edges=tuple(EDGES.tolist()),
                counts=tuple(counts.tolist()),
                below=self._below[name],
                limit=limits_for(precision, name, loosen).max_abs,
            )
            for name, counts in sorted(self._counts.items(), key=_by_kind_and_stride)
        )

    def _count(self, name: str, error: np.ndarray) -> None:
        clipped = np.minimum(error, EDGES[-1])
        counts, _ = np.histogram(clipped, EDGES)
        self._counts[name] = self._counts.get(name, 0) + counts
        self._below[name] = self._below.get(name, 0) + int((error < EDGES[0]).sum())

    def _look(self, sample: Sample, path: Path, want: Outputs, got: Outputs) -> None:
        image = read_image(path)
        size = (sample.images.shape[2], sample.images.shape[3])
        _, scale = letterbox(image, size)
        self.pictures.append(_thumbnail(sample.name, image))
        reference, artifact = (
            _boxes(decode(outputs, size, threshold=DEPLOYMENT_THRESHOLD, scale=scale)[0])
            for outputs in (want, got)
        )
        self.faces.append(FacesOn(sample.name, reference, artifact))


def _by_kind_and_stride(item: tuple[str, np.ndarray]) -> tuple[int, int]:
    kind, _, stride = item[0].partition("_")
    return OUTPUT_KINDS.index(kind), int(stride)


def _boxes(faces: Faces) -> tuple[FaceBox, ...]:
    rounded = np.round(faces.boxes.astype(float), 2)
    return tuple(
        FaceBox(x1=x1, y1=y1, x2=x2, y2=y2, score=round(float(score), 4))
        for (x1, y1, x2, y2), score in zip(rounded.tolist(), faces.scores, strict=True)
    )


def _thumbnail(name: str, image: np.ndarray) -> Picture:
    import cv2

    height, width = image.shape[:2]
    factor = min(1.0, THUMBNAIL_SIDE / max(height, width))
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    _, content = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    encoded = base64.b64encode(content.tobytes()).decode()
    return Picture(name, width, height, f"data:image/jpeg;base64,{encoded}")


def latency(reference: Runner, artifact: Runner) -> Latency:
    """Time both models in turns on noise; ratios are taken within a round, so drift cancels out."""
    shape = common_shapes(reference.interface, artifact.interface)[0]  # 640x640 if shapes are free
    images = np.random.default_rng(0).uniform(-1, 1, (shape[0], CHANNELS, *shape[1:]))
    pair, rounds = (reference, artifact), list[list[float]]()
    images = images.astype(np.float32)
    fed = [runner.interface.fed(images) for runner in pair]  # what deployers have at hand
    for runner, own in zip(pair, fed, strict=True):
        runner.run_fed(own)
    begun = time.perf_counter()
    while len(rounds) < FEWEST_ROUNDS or (
        len(rounds) < MOST_ROUNDS and time.perf_counter() - begun < LATENCY_SECONDS
    ):
        rounds.append([_seconds(runner, own) for runner, own in zip(pair, fed, strict=True)])
    first, second = np.array(rounds).T
    ratio = float(np.median(second / first))
    return Latency(
        round(float(np.median(first)) * 1e3, 3),
        round(float(np.median(second)) * 1e3, 3),
        round(ratio, 4),
        shape,
    )


def _seconds(runner: Runner, fed: np.ndarray) -> float:
    begun = time.perf_counter()
    runner.run_fed(fed)
    return time.perf_counter() - begun
