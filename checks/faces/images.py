"""Pictures as the models want them: found, read, letterboxed and normalised.

The protocol is the one the networks are deployed with (deepinsight/insightface,
detection/scrfd/tools/scrfd.py): OpenCV's BGR pictures, scaled to fit and pasted top-left on
black, then normalised as the network's `Normalization` says. The WIDER FACE protocol differs and
lives elsewhere.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scrfdconv.checks.faces.image_faults import (
    damaged,
    decoder_messages,
    refuse_broken,
    refuse_huge,
    tell_damage,
)
from scrfdconv.converters.errors import InputFileError
from scrfdconv.converters.normalization import Normalization
from scrfdconv.converters.system.threads import in_order

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

# Suffixes that folders are searched for: still pictures that every OpenCV build reads. A file that
# is named outright is tried whatever its suffix.
_PHOTOGRAPHS = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".jp2")
SUFFIXES = frozenset((*_PHOTOGRAPHS, ".ppm", ".pgm", ".pbm", ".pnm"))

AHEAD = 2  # pictures: one is read while another waits; 8K pictures take 100 MB each

_GLOB = re.compile(r"[*?\[]")


def image_files(places: Sequence[Path | str] | None) -> tuple[Path, ...]:
    """The pictures that an option names, as `find_images` lists them; none if it was not given."""
    return tuple(find_images(places)) if places else ()


def find_images(paths: Sequence[Path | str]) -> list[Path]:
    """List the pictures that files, folders and globs name, sorted, each one once.

    Folders are searched recursively for image suffixes, without hidden files (macOS leaves
    ``._photo.jpg`` beside ``photo.jpg``). A named file is listed whatever its suffix. A file
    that is reached by two names, or through a link, counts once. Raises `InputFileError`
    for a path that does not exist, and for a folder or glob without a picture.
    """
    once: dict[Path, Path] = {}
    for found in sorted(image for path in paths for image in _expand(path)):
        once.setdefault(found.resolve(), found)
    return list(once.values())


def read_image(path: Path | str) -> UInt8:
    """Read a picture as OpenCV deploys it: (h, w, 3) uint8, BGR, upright.

    The rules are those of ``cv2.imread(path, IMREAD_COLOR)``, because that is what the models
    meet in deployment: the EXIF orientation is applied, grey becomes three equal channels, 16 bit
    keeps the upper 8, CMYK is converted, and transparency is **dropped**, not composited (the
    colour below a transparent pixel shows). Unlike with ``cv2.imread``, the path may have any
    characters, and a damaged file is an error: OpenCV would return the part that it could decode.

    Raises `InputFileError` for everything that is not a whole picture, and for huge ones.
    """
    path = Path(path)
    data = _file_bytes(path)
    refuse_broken(path, data)
    image = _decoded(path, data)
    refuse_huge(path, image.shape[1], image.shape[0])
    return image


def read_ahead(paths: Iterable[Path]) -> Iterator[tuple[Path, UInt8 | InputFileError]]:
    """Read pictures in their order, the next ones while the caller works on one.

    Yields the picture, or the error of one that cannot be read. At most ``AHEAD`` pictures wait,
    so that any number of them takes the same memory.
    """
    # One thread: OpenCV decodes outside of Python's lock, but one picture at a time
    # (`decoder_messages`).
    yield from in_order(read_or_error, paths, threads=1, ahead=AHEAD)


def read_or_error(path: Path) -> tuple[Path, UInt8 | InputFileError]:
    """The path with its picture, or with the error of one that cannot be read."""
    try:
        return path, read_image(path)
    except InputFileError as error:
        return path, error


def letterbox(image: UInt8, size: tuple[int, int]) -> tuple[UInt8, float]:
    """Scale a picture to fit ``size`` = (H, W), top-left on black, keeping its aspect.

    Returns the (H, W, 3) canvas and the scale; divide boxes by it to go back. The free side is
    truncated, and the one scale for both axes is new height / old height, as in tools/scrfd.py.
    A side that would vanish (a picture of 20000x20) becomes one pixel.
    """
    scaled = _scaled(image, size)
    canvas: UInt8 = np.zeros((*size, 3), np.uint8)
    canvas[: scaled.shape[0], : scaled.shape[1]] = scaled
    return canvas, len(scaled) / len(image)


def normalise(canvases: UInt8, normalization: Normalization) -> Float32:
    """Turn BGR canvases into a model's input, float32 (N, 3, H, W).

    ``canvases`` is (N, H, W, 3) or one (H, W, 3), uint8.
    """
    batch = canvases if canvases.ndim == 4 else canvases[None]  # noqa: PLR2004 - N, H, W, C
    count, height, width, channels = batch.shape
    planes: Float32 = np.empty((count, channels, height, width), np.float32)
    for canvas, target in zip(batch, planes, strict=True):
        normalization.write(target, canvas)
    return planes


def network_input(
    images: Sequence[UInt8], size: tuple[int, int], normalization: Normalization
) -> tuple[Float32, list[float]]:
    """Letterbox and normalise BGR pictures: (N, 3, H, W) and the scale of each.

    Equal bit by bit to ``normalise(letterbox(...))``, but without the canvas in between, for speed.
    """
    planes: Float32 = np.empty((len(images), 3, *size), np.float32)
    scales = []
    for image, target in zip(images, planes, strict=True):
        scaled = _scaled(image, size)
        height, width = scaled.shape[:2]
        normalization.fill(target[:, height:])
        normalization.fill(target[:, :height, width:])
        normalization.write(target, scaled)
        scales.append(height / len(image))
    return planes, scales


def _scaled(image: UInt8, size: tuple[int, int]) -> UInt8:
    import cv2

    height, width = _fitted(image.shape[0], image.shape[1], size)
    scaled: UInt8 = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    return scaled


def _fitted(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    """Return the height and width of a picture that was scaled to fit ``size``."""
    ratio = height / width
    if ratio > size[0] / size[1]:
        return size[0], max(1, int(size[0] / ratio))
    return max(1, int(size[1] * ratio)), size[1]


def _expand(path: Path | str) -> Iterable[Path]:
    try:
        mode = Path(path).stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        # A file may be called photo[1].jpg: only a name that is no file is a pattern.
        if isinstance(error, FileNotFoundError) and _GLOB.search(str(path)):
            return _matches(str(path))
        raise InputFileError(_unreadable(path, error)) from None
    return _images_below(Path(path)) if stat.S_ISDIR(mode) else [Path(path)]


def _matches(pattern: str) -> list[Path]:
    matches = [Path(match) for match in glob.glob(pattern, recursive=True)]  # noqa: PTH207 - absolute patterns
    files = [match for match in matches if match.is_file()]
    if "**" not in pattern:  # which already has the folders' files
        files += [image for match in matches if match.is_dir() for image in _images_below(match)]
    if not files:
        raise InputFileError(
            f"{pattern}: no file matches this pattern; check the folder and the quotes around it."
        )
    return files


def _images_below(folder: Path) -> list[Path]:
    def stop(error: OSError) -> None:
        raise InputFileError(_unreadable(error.filename or folder, error)) from None

    images = [
        Path(parent, name)
        for parent, _, names in os.walk(folder, onerror=stop)
        for name in names
        if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")
    ]
    if not images:
        raise InputFileError(
            f"{folder}: no picture in this folder; give one that has {' '.join(sorted(SUFFIXES))}."
        )
    return images


def _unreadable(path: Path | str, error: OSError | ValueError) -> str:
    match error:
        case FileNotFoundError():
            return f"{path}: this picture or folder does not exist; check the path."
        case PermissionError():
            return f"{path}: no permission to read this; change its mode or its owner."
        case OSError():
            return f"{path}: cannot be read ({error.strerror}); check the path and the disk."
    return f"{str(path)!r}: this is not a file name ({error}); check the path."


def _file_bytes(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            raise InputFileError(f"{path}: is a folder, not a picture; name a file in it.")
        if not stat.S_ISREG(mode):  # a pipe or device would be read for ever
            raise InputFileError(f"{path}: is no regular file; give a picture.")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise InputFileError(_unreadable(path, error)) from None
    if not data:
        raise InputFileError(f"{path}: the file is empty; copy or download it again.")
    return data


def _decoded(path: Path, data: bytes) -> UInt8:
    import cv2

    said: list[bytes] = []
    try:
        with decoder_messages(said):
            # Not imread: on Windows it only opens paths of the current code page.
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, MemoryError) as error:
        reason = "too large for OpenCV" if "PIXELS" in str(error) else "OpenCV cannot decode it"
        raise InputFileError(
            f"{path}: {reason}; scale the picture down or convert it to JPEG or PNG."
        ) from None
    if tell_damage(said):
        raise InputFileError(damaged(path, "OpenCV can decode only a part of it"))
    if image is None:
        raise InputFileError(
            f"{path}: not a picture that OpenCV can read, or a damaged one; "
            "convert it to JPEG or PNG, or leave it out."
        )
    decoded: UInt8 = image
    return decoded
