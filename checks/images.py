"""Pictures as the models want them: found, read, letterboxed and normalised.

The protocol is the one the networks are deployed with (deepinsight/insightface,
detection/scrfd/tools/scrfd.py): OpenCV's BGR pictures, scaled to fit and pasted top-left on
black, then ``(x - 127.5) / 128`` in RGB. The WIDER FACE protocol differs and lives elsewhere.
"""

from __future__ import annotations

import glob
import os
import re
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from scrfdconv.converters.errors import InputFileError

UInt8 = npt.NDArray[np.uint8]
Float32 = npt.NDArray[np.float32]

# What a folder is searched for: still pictures that every OpenCV build reads. A file that is
# named outright is tried whatever its suffix.
_PHOTOGRAPHS = (".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".dib", ".webp", ".tif", ".tiff", ".jp2")
SUFFIXES = frozenset((*_PHOTOGRAPHS, ".ppm", ".pgm", ".pbm", ".pnm"))
# 2**28 pixels are 0.8 GB as BGR. The largest cameras make 150 million, WebP's format ends here,
# and a file that claims more is a mistake or a decompression bomb.
MAX_PIXELS = 2**28
# Training normalised with mean 127.5 and deviation 128, so black is -0.99609375.
MEAN = 127.5
DEVIATION = 128.0

_GLOB = re.compile(r"[*?\[]")
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_SIZE = slice(16, 24)  # width and height open the IHDR chunk, big-endian
_JPEG = b"\xff\xd8"
_JPEG_END, _JPEG_SCAN = 0xD9, 0xDA
_JPEG_BARE = {0x01, *range(0xD0, 0xD8)}  # TEM and restart markers: no length follows
_JPEG_SIZE = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOFn; the rest are tables
# Inside a scan 0xFF is followed by 0 (stuffing), a restart marker or another 0xFF (fill).
_JPEG_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
# The decoders still return a picture after these, part of it grey or noise. Stray bytes in
# front of a marker are not among them: cameras write those, and the picture is whole.
_DAMAGE = re.compile(
    rb"Corrupt JPEG data: (?!\d+ extraneous)|Premature end of JPEG|TIFF_Error|libpng error"
)
_NOISE = re.compile(
    rb"\s*$|libpng |Corrupt JPEG|Premature end of JPEG|Invalid |Unsupported |OpenJPEG2000"
    rb"|\[ ?(?:DEBUG|INFO|WARN|ERROR|FATAL):"
)
_stderr_lock = threading.Lock()


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
    colour below a transparent pixel shows). Other than there, the path may have any characters,
    and a damaged file is an error where OpenCV returns what it got so far.

    Raises `InputFileError` for everything that is not a whole picture of at most `MAX_PIXELS`.
    """
    path = Path(path)
    data = _file_bytes(path)
    _refuse_broken(path, data)
    image = _decoded(path, data)
    _refuse_huge(path, image.shape[1], image.shape[0])
    return image


def letterbox(image: UInt8, size: tuple[int, int]) -> tuple[UInt8, float]:
    """Scale a picture to fit ``size`` = (H, W), top-left on black, keeping its aspect.

    Returns the (H, W, 3) canvas and the scale; divide boxes by it to go back. The free side is
    truncated, and the one scale for both axes is new height / old height, as in tools/scrfd.py.
    A side that would vanish (a picture of 20000x20) becomes one pixel.
    """
    import cv2

    height, width = image.shape[:2]
    new_height, new_width = _fitted(height, width, size)
    canvas: UInt8 = np.zeros((*size, 3), np.uint8)
    canvas[:new_height, :new_width] = cv2.resize(
        image, (new_width, new_height), interpolation=cv2.INTER_LINEAR
    )
    return canvas, new_height / height


def normalise(canvases: UInt8) -> Float32:
    """Turn BGR canvases into the models' input: float32 (N, 3, H, W), RGB, (x - 127.5) / 128.

    ``canvases`` is (N, H, W, 3) or one (H, W, 3), uint8. Every value is exact in float32.
    """
    import cv2

    batch = canvases if canvases.ndim == 4 else canvases[None]  # noqa: PLR2004 - N, H, W, C
    count, height, width, channels = batch.shape
    planes: Float32 = np.empty((count, channels, height, width), np.float32)
    # Multiplying first makes one pass of the type conversion; powers of two round nothing, so
    # the bits are those of (x - 127.5) / 128. 0.43 ms at 640x640 on one core, where
    # cv2.dnn.blobFromImage takes 5.4 ms.
    for canvas, target in zip(batch, planes, strict=True):
        for channel, plane in zip(reversed(cv2.split(canvas)), target, strict=True):
            np.multiply(channel, np.float32(1 / DEVIATION), out=plane, dtype=np.float32)
    planes -= np.float32(MEAN / DEVIATION)
    return planes


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


def _refuse_broken(path: Path, data: bytes) -> None:
    """Find out before decoding what OpenCV hides: size claims, and JPEGs without an end.

    OpenCV 4.10 fills the rows after a JPEG's break with old memory and reports success.
    """
    if data.startswith(_PNG) and len(data) >= _PNG_SIZE.stop:
        width, height = np.frombuffer(data[_PNG_SIZE], ">u4").tolist()
        _refuse_huge(path, width, height)
    if data.startswith(_JPEG):
        last = None
        for last, at in _jpeg_segments(data):
            if last in _JPEG_SIZE and len(data) >= at + 7:
                height, width = np.frombuffer(data[at + 3 : at + 7], ">u2").tolist()
                _refuse_huge(path, width, height)
        if last != _JPEG_END:
            raise InputFileError(_damaged(path, "it ends before the picture does"))


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
    """Walk a JPEG's markers (ITU T.81, annex B): the marker and where its length field is.

    Segments are skipped by their length, so that the end marker of an EXIF thumbnail is not
    taken for the picture's. Stops behind the first end marker: phones append more data there.
    """
    at = len(_JPEG)
    while (at := data.find(b"\xff", at)) >= 0:
        while at < len(data) and data[at] == 0xFF:  # noqa: PLR2004 - fill bytes
            at += 1
        if at >= len(data):
            return
        marker, at = data[at], at + 1
        yield marker, at
        if marker == _JPEG_END:
            return
        if marker not in _JPEG_BARE:
            at += int.from_bytes(data[at : at + 2], "big")
        if marker == _JPEG_SCAN:
            end = _JPEG_SCAN_END.search(data, at)
            at = end.start() if end else len(data)


def _refuse_huge(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise InputFileError(
            f"{path}: {width}x{height} pixels are more than the {MAX_PIXELS} that are read; "
            "scale the picture down."
        )


def _decoded(path: Path, data: bytes) -> UInt8:
    import cv2

    said: list[bytes] = []
    try:
        with _decoder_messages(said):
            # Not imread: on Windows it only opens paths of the current code page.
            image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except (cv2.error, MemoryError) as error:
        reason = "too large for OpenCV" if "PIXELS" in str(error) else "OpenCV cannot decode it"
        raise InputFileError(
            f"{path}: {reason}; scale the picture down or convert it to JPEG or PNG."
        ) from None
    if any(_DAMAGE.search(line) for line in said):
        raise InputFileError(_damaged(path, "OpenCV can decode only a part of it"))
    if image is None:
        raise InputFileError(
            f"{path}: not a picture that OpenCV can read, or a damaged one; "
            "convert it to JPEG or PNG, or leave it out."
        )
    decoded: UInt8 = image
    return decoded


def _damaged(path: Path, how: str) -> str:
    return f"{path}: the picture is damaged, {how}; copy or download it again."


@contextmanager
def _decoder_messages(said: list[bytes]) -> Iterator[None]:
    """Collect in ``said`` what the decoders print on stderr, instead of showing it to the user.

    libpng and libjpeg write to file descriptor 2 and offer no other way; it is also the only
    place where they tell that a picture is damaged. The descriptor belongs to the process: a
    lock lets one thread in, and what other code writes meanwhile is handed on afterwards.
    """
    with _stderr_lock, tempfile.TemporaryFile() as sink:
        try:
            stderr = os.dup(2)
        except OSError:  # a service without stderr: nothing to keep clean
            yield
            return
        try:
            os.dup2(sink.fileno(), 2)
            yield
        finally:
            os.dup2(stderr, 2)
            sink.seek(0)
            said.extend(sink.read().splitlines(keepends=True))
            for line in said:
                if not _NOISE.match(line):
                    os.write(stderr, line)
            os.close(stderr)
