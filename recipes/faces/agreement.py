"""Do two models find the same faces on photographs that nobody labelled?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from scrfdconv.checks.faces.compare import faces_on_canvas
from scrfdconv.checks.faces.decode import Faces
from scrfdconv.checks.faces.images import letterbox, read_ahead
from scrfdconv.checks.faces.matching import Agreement, agreement
from scrfdconv.converters.errors import InputFileError, UsageError
from scrfdconv.converters.runner import Runner
from scrfdconv.recipes.artifacts.conversion import SourceOptions, open_source
from scrfdconv.recipes.faces.detection import DEFAULT_SIZE, open_runner


def score_agreement(
    model: str,
    reference: str,
    options: SourceOptions,
    images: Sequence[Path],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Agreement:
    """Compare the faces of two models on photographs, without labels: the reference is the truth.

    The options' provider is the model's. Raises CheckFailed where the reference finds no face.
    """
    plain = replace(options, provider=None)
    truth, measured = (
        open_runner(open_source(name, chosen))
        for name, chosen in ((reference, plain), (model, options))
    )
    size = _common_size([truth, measured])

    def pairs() -> Iterator[tuple[Faces, Faces]]:
        for done, (_, image) in enumerate(read_ahead(images), start=1):
            if isinstance(image, InputFileError):
                raise image
            canvas, _ = letterbox(image, size)
            yield faces_on_canvas(truth, canvas), faces_on_canvas(measured, canvas)
            progress(done, len(images))

    found = agreement(pairs())
    found.require_defined()
    return found


def _common_size(runners: Sequence[Runner]) -> tuple[int, int]:
    """The size that both models run with: that of a fixed one, else 640x640."""
    fixed = [runner.interface.shape for runner in runners if runner.interface.shape]
    if len(set(fixed)) > 1:
        first, second = (f"{height}x{width}" for height, width in sorted(set(fixed)))
        raise UsageError(
            f"The models are fixed to {first} and {second} (height x width), so they never see "
            "the same image; compare with the checkpoint."
        )
    size = fixed[0] if fixed else DEFAULT_SIZE
    for interface in (runner.interface for runner in runners):
        if not interface.accepts(interface.batch or 1, *size):
            raise UsageError(
                f"A model cannot take images of {size[0]}x{size[1]} (height x width): it is fixed "
                f"to another size, or needs multiples of {interface.size_multiple}."
            )
    return size
