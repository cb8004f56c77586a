"""Faces in pictures: any model, from the file to boxes in pixels of the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import numpy.typing as npt

from scrfdconv.checks.faces.decode import DEPLOYMENT_THRESHOLD, NMS_IOU, Faces, decode
from scrfdconv.checks.faces.draw import draw_faces
from scrfdconv.checks.faces.images import AHEAD, find_images, network_input, read_or_error
from scrfdconv.converters.artifact import Artifact, replacing
from scrfdconv.converters.checkpoint.loading import Checkpoint
from scrfdconv.converters.errors import (
    ArtifactError,
    CheckFailed,
    InputFileError,
    OutputError,
    UsageError,
)
from scrfdconv.converters.formats import Source, format_of, formats, open_artifact
from scrfdconv.converters.formats.pytorch.runner import EagerRunner
from scrfdconv.converters.network.architecture import require_shape
from scrfdconv.converters.runner import Interface, Runner
from scrfdconv.converters.system.machine import usable_cores
from scrfdconv.converters.system.permissions import allowing_host_code
from scrfdconv.converters.system.threads import in_order
from scrfdconv.converters.system.workers import THREADS

UInt8 = npt.NDArray[np.uint8]

# The size that the models were deployed with: its anchors fit faces from 16 to 512 pixels.
DEFAULT_SIZE = (640, 640)
FEW = 4  # pictures for each core: for less, opening a model once more takes longer than it saves
# Written at OpenCV's default quality of 95, which keeps thin lines clean.
JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe")


@dataclass(frozen=True)
class DetectOptions:
    """How to look for faces. ``size`` (H, W) is for dynamic models only; 0 faces means all."""

    size: tuple[int, int] | None = None
    threshold: float = DEPLOYMENT_THRESHOLD
    nms_iou: float = NMS_IOU
    max_faces: int = 0


@dataclass(frozen=True)
class Found:
    """The faces of one picture, in its pixels."""

    path: Path
    image: UInt8  # (h, w, 3) BGR, upright
    faces: Faces
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Unreadable:
    """A picture that could not be read, and the sentence that says why."""

    path: Path
    reason: str


class Detector:
    """A model with all steps from pictures to faces, as in deployment."""

    def __init__(self, runner: Runner, options: DetectOptions | None = None) -> None:
        """Raises UsageError for a size that the model cannot take."""
        self.runner = runner
        self.options = options or DetectOptions()
        self.size = input_size(runner.interface, self.options.size)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, where the model says them."""
        return self.runner.interface.class_names

    @property
    def slots(self) -> int:
        """Pictures per run: the size of a fixed batch; 1 if the batch is free."""
        return self.runner.interface.batch or 1

    def detect(self, images: Sequence[UInt8]) -> list[Faces]:
        """Find the faces of at most ``slots`` BGR pictures, in pixels of each picture."""
        filled = [*images, *[images[-1]] * (self.slots - len(images))]
        planes, scales = network_input(filled, self.size, self.runner.interface.normalization)
        faces = decode(
            self.runner.run(planes),
            self.size,
            threshold=self.options.threshold,
            nms_iou=self.options.nms_iou,
            scale=scales,
            max_faces=self.options.max_faces,
            image_size=[image.shape[:2] for image in filled],
        )
        return faces[: len(images)]


def open_runner(source: Source, threads: int | None = None) -> Runner:
    """Open a checkpoint or an artifact of any kind; ``threads`` limits its runtime."""
    if isinstance(source, Checkpoint):
        return EagerRunner(source, threads)
    with allowing_host_code(allowed=source.host_code):
        runner = (
            format_of(source.path).open_on(source.provider, source.path, threads)
            if source.provider
            else open_artifact(source.path, threads)
        )
    runner.state(source.normalization, str(source.path))
    return runner


def input_size(
    interface: Interface, wanted: tuple[int, int] | None = None, option: str = "--size"
) -> tuple[int, int]:
    """The (H, W) that a model runs with: its own if fixed, else ``wanted``, else 640x640."""
    height, width = wanted or DEFAULT_SIZE
    own = (interface.height or height, interface.width or width)
    if wanted and own != wanted:
        raise UsageError(
            f"{option} {height} {width}: the model's input is fixed to {own[0]} {own[1]} "
            f"(height width); leave {option} out, or take the dynamic model."
        )
    if wanted or interface.shape is None:
        require_shape(own, interface.size_multiple, option)
    elif any(side % interface.size_multiple for side in own):
        raise ArtifactError(
            f"The model's fixed input of {own[0]}x{own[1]} is no multiple of "
            f"{interface.size_multiple}, so its outputs have no known places; export it anew."
        )
    return own


@contextmanager
def faults_of(model: str) -> Iterator[None]:
    """Errors about impossible outputs name the model file as the cause."""
    try:
        yield
    except CheckFailed as error:
        raise ArtifactError(f"{model}: {error}") from error


# ---------------------------------------------------------------- many pictures


def list_pictures(paths: Sequence[Path]) -> tuple[list[Path], list[Unreadable]]:
    """The pictures that files, folders and globs name, and the names that match nothing."""
    good: list[Path] = []
    bad: list[Unreadable] = []
    for path in paths:
        try:
            find_images([path])
            good.append(path)
        except InputFileError as error:
            bad.append(Unreadable(path, str(error)))
    return (find_images(good) if good else []), bad


def open_detectors(source: Source, options: DetectOptions, pictures: int) -> list[Detector]:
    """The detectors for a number of pictures: for many, one for each core, on one thread.

    Pictures side by side use all cores all the time, which one run on all of them does not. On a
    device there is one detector, whose memory the others would take.
    """
    cores = usable_cores() if runs_here(source) else 1
    if cores == 1 or pictures < FEW * cores:
        return [Detector(open_runner(source), options)]
    return [Detector(open_runner(source, THREADS), options) for _ in range(cores)]


def runs_here(source: Source) -> bool:
    """Does a model run on this machine's processors, and not on a device?"""
    on_device = isinstance(source, Artifact) and source.provider
    return not on_device and formats()[source.format].runs_on_cpu


def detect_pictures(
    detectors: Sequence[Detector],
    paths: Sequence[Path],
    finish: Callable[[Found], None] = lambda found: None,
) -> Iterator[Found | Unreadable]:
    """Detect many pictures side by side; yield them in their order. A bad one stops no other.

    Each step of one picture (reading, preparing, the run, ``finish``) overlaps with those of its
    neighbours. A detector runs one batch at a time, and at most ``AHEAD`` batches more than there
    are detectors are in memory.
    """
    free: SimpleQueue[Detector] = SimpleQueue()
    for detector in detectors:
        free.put(detector)

    def work(batch: Sequence[Path]) -> list[Found | Unreadable]:
        items = [read_or_error(path) for path in batch]
        good = [(path, item) for path, item in items if not isinstance(item, InputFileError)]
        detector = free.get()
        try:
            faces = detector.detect([image for _, image in good]) if good else []
        finally:
            free.put(detector)
        found = {
            path: Found(path, image, own, detector.class_names)
            for (path, image), own in zip(good, faces, strict=True)
        }
        for one in found.values():
            finish(one)
        return [found.get(path) or Unreadable(path, str(item)) for path, item in items]

    slots = detectors[0].slots
    batches = [paths[at : at + slots] for at in range(0, len(paths), slots)]
    many = len(detectors) + AHEAD
    for results in in_order(work, batches, threads=many, ahead=many):
        yield from results


# ---------------------------------------------------------------- drawing


def plan_drawings(
    folder: Path, paths: Sequence[Path], read: Iterable[Path] = ()
) -> dict[Path, Path]:
    """Where in ``folder`` each picture's drawing goes: its own name, numbered where taken.

    JPEG stays JPEG, everything else becomes PNG. Makes the folder. Raises OutputError where a
    drawing would replace one of the pictures, or another of the files that are ``read``.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"--draw {folder}: cannot be made ({error.strerror}).") from error
    plan: dict[Path, Path] = {}
    taken: set[str] = set()
    sources = {path.resolve() for path in (*paths, *read)}
    for path in paths:
        suffix = path.suffix if path.suffix.lower() in JPEG_SUFFIXES else ".png"
        target = folder / _free_name(path.stem, suffix, taken)
        if target.resolve() in sources:
            raise OutputError(f"--draw {folder}: would replace {target}; give another folder.")
        plan[path] = target
    return plan


def _free_name(stem: str, suffix: str, taken: set[str]) -> str:
    name, number = f"{stem}{suffix}", 1
    while name.lower() in taken:  # file systems that ignore case would mix a.jpg and A.jpg
        number += 1
        name = f"{stem}-{number}{suffix}"
    taken.add(name.lower())
    return name


def draw(found: Found, target: Path) -> None:
    """Write the picture with its faces; an older file is replaced only whole."""
    import cv2

    _, content = cv2.imencode(
        target.suffix.lower(), draw_faces(found.image, found.faces, found.class_names)
    )
    with replacing(target) as part:
        part.write_bytes(content.tobytes())
