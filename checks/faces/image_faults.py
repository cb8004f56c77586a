"""What OpenCV hides when it decodes a picture: broken files, huge ones, and remarks on stderr."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from scrfdconv.converters.errors import InputFileError

# 2**28 pixels are 0.8 GB as BGR. The largest cameras make 150 million, WebP's format ends here,
# and a file that claims more is a mistake or a decompression bomb.
MAX_PIXELS = 2**28
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_SIZE = slice(16, 24)  # width and height open the IHDR chunk, big-endian
_JPEG = b"\xff\xd8"
_JPEG_END, _JPEG_SCAN = 0xD9, 0xDA
_JPEG_BARE = {0x01, *range(0xD0, 0xD8)}  # TEM and restart markers: no length follows
_JPEG_SIZE = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # SOFn; the rest are tables
# Inside a scan 0xFF is followed by 0 (stuffing), a restart marker or another 0xFF (fill).
_JPEG_SCAN_END = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
# The decoders still return a picture after these, part of it grey or noise. Stray bytes in front of
# a marker are no damage: cameras write such bytes, and the picture is whole.
_DAMAGE = re.compile(
    rb"Corrupt JPEG data: (?!\d+ extraneous)|Premature end of JPEG|TIFF_Error|libpng error"
)
_NOISE = re.compile(
    rb"\s*$|libpng |Corrupt JPEG|Premature end of JPEG|Invalid |Unsupported |OpenJPEG2000"
    rb"|\[ ?(?:DEBUG|INFO|WARN|ERROR|FATAL):"
)
_stderr_lock = threading.Lock()


def refuse_broken(path: Path, data: bytes) -> None:
    """Refuse before decoding what OpenCV hides: claims of huge sizes, and JPEGs without an end.

    OpenCV 4.10 fills the rows after a JPEG's break with old memory and reports success.
    """
    if data.startswith(_PNG) and len(data) >= _PNG_SIZE.stop:
        width, height = np.frombuffer(data[_PNG_SIZE], ">u4").tolist()
        refuse_huge(path, width, height)
    if data.startswith(_JPEG):
        last = None
        for last, at in _jpeg_segments(data):
            if last in _JPEG_SIZE and len(data) >= at + 7:
                height, width = np.frombuffer(data[at + 3 : at + 7], ">u2").tolist()
                refuse_huge(path, width, height)
        if last != _JPEG_END:
            raise InputFileError(damaged(path, "it ends before the picture does"))


def refuse_huge(path: Path, width: int, height: int) -> None:
    """Raise InputFileError for a picture of more than ``MAX_PIXELS``."""
    if width * height > MAX_PIXELS:
        raise InputFileError(
            f"{path}: {width}x{height} pixels are more than the {MAX_PIXELS} that are read; "
            "scale the picture down."
        )


def damaged(path: Path, how: str) -> str:
    """Say that a picture is damaged, and what to do."""
    return f"{path}: the picture is damaged, {how}; copy or download it again."


@contextmanager
def decoder_messages(said: list[bytes]) -> Iterator[None]:
    """Collect in ``said`` what the decoders print on stderr, instead of showing it to the user.

    libpng and libjpeg write to file descriptor 2 and offer no other way; these messages are also
    the only sign that a picture is damaged. The descriptor belongs to the process: a lock lets one
    thread in, and what other code writes meanwhile is handed on afterwards.
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


def tell_damage(said: Sequence[bytes]) -> bool:
    """True if the decoders' messages mean that a part of the picture is missing or noise."""
    return any(_DAMAGE.search(line) for line in said)


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
