"""Do two models find the same faces? The unit in which users judge a detector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from scrfdconv.checks.faces.decode import LOW_THRESHOLD, Faces, decode
from scrfdconv.checks.faces.images import network_input, read_image
from scrfdconv.checks.faces.matching import Agreement, agreement
from scrfdconv.checks.results import CheckResult
from scrfdconv.converters.runner import Runner

CHECK = "faces"

# Share of the reference's faces that must be found, and of the artifact's faces that must be the
# reference's. Float artifacts differ by rounding only: a face lost or won sits on the threshold.
# TF32 was simulated in its outputs only (tolerances.py): the same allowance as for FP16.
# FP16 kept 1215 of 1215 faces of three trained models on 40 photographs and added none; its scores
# move by up to 1.1e-2, so that one face in a hundred that sits on the threshold is allowed for.
# INT8 keeps 98 to 100 % with photographs for calibration, and kept 3 % in the worst case that was
# met without care; this limit tells the two apart. The budget of `scrfdconv int8` is stricter.
LIMITS = {"fp32": 0.999, "tf32": 0.99, "fp16": 0.99, "int8": 0.95}
# Of few faces one is more than the limit allows, and one that sits on the threshold may always
# change sides where numbers are rounded on purpose. Below ten that would excuse too much.
REDUCED, FEWEST_TO_SPARE = ("fp16", "int8"), 10


def compare_faces(
    reference: Runner,
    artifact: Runner,
    images: Sequence[np.ndarray],
    precision: str,
) -> Iterator[CheckResult]:
    """Yield recall and precision of ``artifact``'s faces with ``reference``'s as truth.

    ``images`` are inputs (3, H, W) as ``model_input`` makes them. No face in the reference is a
    failure: nothing was compared.
    """
    found = agreement(faces_on(reference, artifact, images))
    yield from results_of(found, faces_limit(precision, found.reference_faces))


def faces_limit(precision: str, faces: int) -> float:
    """The smallest recall and precision of an artifact whose reference has so many ``faces``."""
    limit = LIMITS[precision]
    spared = precision in REDUCED and faces >= FEWEST_TO_SPARE
    return min(limit, 1 - 1 / faces) if spared else limit


def results_of(found: Agreement, limit: float) -> Iterator[CheckResult]:
    """The agreement as results: recall and precision are limited, the rest is for information."""
    detail = found.undefined or (
        f"{found.reference_faces} faces on {found.images} images, {found.extra} extra; "
        f"AP50 {found.ap50:.4f}, mean IoU {found.mean_iou:.4f}, "
        f"largest score difference {found.score_difference:.2e}"
    )
    for metric in ("recall", "precision"):
        value = getattr(found, metric)
        yield CheckResult(CHECK, "faces", metric, value, limit, at_least=True, detail=detail)


def faces_on(
    reference: Runner, artifact: Runner, images: Sequence[np.ndarray]
) -> Iterator[tuple[Faces, Faces]]:
    """Faces of both models on each image, in pixels of the input, at the low threshold."""
    for image in images:
        yield detect(reference, image), detect(artifact, image)


def detect(runner: Runner, image: np.ndarray) -> Faces:
    """Faces on one input (3, H, W), before the deployment threshold.

    A model with a fixed batch gets the image in every slot, and the first one counts.
    """
    batch = np.repeat(image[None], runner.interface.batch or 1, axis=0)
    return decode(runner.run(batch), image.shape[1:], threshold=LOW_THRESHOLD)[0]


def model_input(path: Path, size: tuple[int, int]) -> np.ndarray:
    """The photograph at ``path`` as deployment feeds it: (3, H, W) float32."""
    planes, _ = network_input([read_image(path)], size)
    return np.asarray(planes[0])
