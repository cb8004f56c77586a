"""Do two models find the same faces on photographs that nobody labelled?

The photographs are judged in parts by worker processes, here or on a Dask cluster. The tallies of
parts add up exactly: neither the workers nor the size of a part change a digit.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from scrfdconv.checks.faces.compare import faces_on_canvas
from scrfdconv.checks.faces.decode import DEPLOYMENT_THRESHOLD
from scrfdconv.checks.faces.images import letterbox, read_ahead
from scrfdconv.checks.faces.matching import MATCH_IOU, Agreement, Tally
from scrfdconv.converters.errors import InputFileError, UsageError
from scrfdconv.converters.formats import Source
from scrfdconv.converters.runner import Runner
from scrfdconv.converters.system.workers import on_this_machine
from scrfdconv.recipes.artifacts.sources import SourceOptions, open_source
from scrfdconv.recipes.cluster import on_dask
from scrfdconv.recipes.faces.detection import DEFAULT_SIZE, faults_of
from scrfdconv.recipes.faces.shared_model import SharedModel, common_to_run, default_workers

# Photographs of one task: a second or so of work, which is what a lost worker costs.
PART = 32

Part = tuple[int, tuple[Path, ...]]  # its place among the parts, and its photographs


@dataclass(frozen=True)
class AgreementJob:
    """What a worker needs to know."""

    reference: SharedModel
    model: SharedModel
    size: tuple[int, int]  # height, width


@dataclass(frozen=True)
class Spread:
    """Who judges the photographs, as the command line's options of the same names."""

    workers: int | None = None  # None: one for each core
    scheduler: str | None = None  # address of a Dask cluster


def score_agreement(
    model: str,
    reference: str,
    options: SourceOptions,
    images: Sequence[Path],
    progress: Callable[[int, int], None] = lambda done, total: None,
    spread: Spread | None = None,
) -> Agreement:
    """Compare the faces of two models on photographs, without labels: the reference is the truth.

    The options' provider is the model's. Raises CheckFailed where the reference finds no face, and
    InputFileError for a photograph that cannot be read.
    """
    plain = replace(options, provider=None)
    sources = (open_source(reference, plain), open_source(model, options))
    truth = SharedModel.of(reference, sources[0], plain)
    judged = SharedModel.of(model, sources[1], options)
    job = AgreementJob(truth, judged, _common_size([truth.runner(), judged.runner()]))
    tallies: dict[int, Tally] = {}
    done = 0
    with closing(_run(job, images, spread or Spread(), sources)) as finished:
        for (place, _), tally in finished:
            tallies[place] = tally
            done += tally.images
            progress(done, len(images))
    total = _empty()
    for place in sorted(tallies):  # equal scores are ranked in the order of the photographs
        total.take_in(tallies.pop(place))
    found = total.agreement()
    found.require_defined()
    return found


def judge_part(job: AgreementJob, part: Part) -> Tally:
    """Compare both models on the photographs of one part; workers run this function."""
    reference, model = job.reference.runner(), job.model.runner()
    tally = _empty()
    for _, image in read_ahead(part[1]):
        if isinstance(image, InputFileError):
            raise image
        canvas, _ = letterbox(image, job.size)
        with faults_of(job.reference.name):
            truth = faces_on_canvas(reference, canvas)
        with faults_of(job.model.name):
            found = faces_on_canvas(model, canvas)
        tally.add(truth, found)
    whole = _empty()
    whole.take_in(tally)
    return whole


def _empty() -> Tally:
    return Tally(DEPLOYMENT_THRESHOLD, 0.0, MATCH_IOU)


def _run(
    job: AgreementJob, images: Sequence[Path], spread: Spread, sources: Sequence[Source]
) -> Generator[tuple[Part, Tally]]:
    if spread.scheduler:
        parts = _parts([image.absolute() for image in images])
        return on_dask(spread.scheduler, judge_part, job, parts, common_to_run(*sources))
    workers = spread.workers or default_workers(*sources)
    return on_this_machine(judge_part, job, _parts(images), workers)


def _parts(images: Sequence[Path]) -> list[Part]:
    starts = range(0, len(images), PART)
    return [(place, tuple(images[at : at + PART])) for place, at in enumerate(starts)]


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
