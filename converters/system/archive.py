"""Torch's zip archives, read with bounds: no member claims more bytes than its file can hold.

Readers of zip archives disagree about odd archives (two directories, a member twice, false names).
So torch never gets the file itself: torch gets a new archive of the members that were read and
checked here, and both readers see the same content.
"""

from __future__ import annotations

import io
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from scrfdconv.converters.errors import InputFileError

# The largest SCRFD has 9.8 million weights: 40 MB, 160 MB with the state of a trainer.
MAX_FILE = 512 << 20
# torch writes ten thousand members for the largest trainers, and a directory of 60 bytes each.
MAX_MEMBERS = 50_000
MAX_DIRECTORY = 16 << 20
# Torch compresses only code, and a network has 0.1 MB of code; weights are not compressed.
MAX_EXPANSION = 16 << 20
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ENCRYPTED = 0x1  # bit of a member's flags
_END = struct.Struct("<4s4H2LH")  # end of the central directory, by PKWARE's APPNOTE 4.3.16
_END64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR64 = struct.Struct("<4sLQL")
_COMMENT = 1 << 16  # longest comment behind the end

# Errors that Python's reader raises on damaged or crafted archives.
_BROKEN = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    EOFError,
    ValueError,  # and UnicodeDecodeError, for names
    OverflowError,
    NotImplementedError,
    RuntimeError,
    OSError,
)


def require_size(path: Path) -> None:
    """Raise InputFileError for a file that is larger than any SCRFD."""
    size = path.stat().st_size
    if size > MAX_FILE:
        raise InputFileError(
            f"{path}: has {size >> 20} MiB, and no SCRFD has more than {MAX_FILE >> 20}; save the "
            "weights alone."
        )


def require_directory(path: Path) -> None:
    """Raise InputFileError for a zip archive whose directory would fill the memory."""
    with path.open("rb") as file:
        length = file.seek(0, io.SEEK_END)
        file.seek(max(0, length - _END.size - _COMMENT))
        tail = file.read()
    at = tail.rfind(b"PK\5\6")
    if at < 0 or len(tail) < at + _END.size:
        return  # not an archive: Python's reader reports the fault
    size = _END.unpack_from(tail, at)[5]
    before = at - _LOCATOR64.size - _END64.size
    if before >= 0 and tail[before : before + 4] == b"PK\6\6":
        size = max(size, _END64.unpack_from(tail, before)[8])
    if size > MAX_DIRECTORY and size != (1 << 32) - 1:
        raise InputFileError(f"{path}: the directory of the zip archive has {size} bytes.")


def archive_members(path: Path) -> frozenset[str] | None:
    """Names of the files in a zip archive, without their folders; None for other files.

    Raises InputFileError for archives that are damaged.
    """
    if not zipfile.is_zipfile(path):
        return None
    require_directory(path)
    with _sentences(path), zipfile.ZipFile(path) as archive:
        return frozenset(name.rpartition("/")[2] for name in archive.namelist())


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """Turn failures of Python's reader into errors that name the file."""
    try:
        yield
    except _BROKEN as error:
        first = str(error).partition("\n")[0] or type(error).__name__
        raise InputFileError(
            f"{path}: is a damaged or truncated zip archive ({first}); fetch it again."
        ) from error


def members_of(path: Path) -> dict[str, bytes]:
    """The content of every member, by its name below the archive's top folder.

    Raises InputFileError for archives that are damaged, that expand to more bytes than their file
    can hold, or whose members are stored in a way that torch never uses.
    """
    require_size(path)
    require_directory(path)
    with _sentences(path), zipfile.ZipFile(path) as archive:
        infos = _checked(archive.infolist(), path)
        return {name: archive.read(info) for name, info in infos.items()}


def _checked(infos: list[zipfile.ZipInfo], path: Path) -> dict[str, zipfile.ZipInfo]:
    """The members by their name below the top folder, if torch could have written all of them."""
    if len(infos) > MAX_MEMBERS:
        raise InputFileError(f"{path}: holds {len(infos)} members, at most {MAX_MEMBERS} are read.")
    limit = path.stat().st_size + MAX_EXPANSION
    total = sum(info.file_size for info in infos)
    if total > limit:
        raise InputFileError(
            f"{path}: expands to {total} bytes, which no file of {path.stat().st_size} holds: it "
            "is no model, but made to fill memory."
        )
    found: dict[str, zipfile.ZipInfo] = {}
    tops = {info.filename.partition("/")[0] for info in infos}
    if len(tops) > 1:
        raise InputFileError(f"{path}: holds more than one folder, as torch never writes.")
    for info in infos:
        name = info.filename.partition("/")[2]
        if not _plain(name) or name in found:
            raise InputFileError(f"{path}: holds a member with an odd name, {info.filename!r}.")
        if info.compress_type not in _METHODS or info.flag_bits & _ENCRYPTED:
            raise InputFileError(f"{path}: {info.filename} is compressed as torch never does.")
        found[name] = info
    return found


def _plain(name: str) -> bool:
    printable = name.isascii() and name.isprintable()
    return printable and "\\" not in name and ".." not in name.split("/")


def written_anew(members: Mapping[str, bytes]) -> io.BytesIO:
    """An archive of these members for torch, positioned at its start."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(f"archive/{name}"), content)
    buffer.seek(0)
    return buffer
