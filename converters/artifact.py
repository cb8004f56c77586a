"""Model files: their digests, and how a file is replaced as a whole or not at all."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from scrfdconv.converters.errors import InputFileError, MissingError, OutputError
from scrfdconv.converters.normalization import NOTHING_SAID, NormalizationOptions
from scrfdconv.converters.system.scratch import scratch_folder

_CHUNK = 1 << 20  # bytes read at a time
_REMEMBERED = 2  # files: what is converted, and what it becomes
# Clocks of file systems tick every 4 to 10 ms: a file that was written a moment ago may be written
# again without another time.
SETTLED_NS = 100_000_000

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Artifact:
    """A converted model on disk: one file or several that belong together."""

    path: Path  # the main file: the one that is opened
    format: str
    precision: str
    digest: str  # of all files
    parents: tuple[str, ...] = ()  # digests of the sources
    companions: tuple[Path, ...] = ()  # the other files
    provider: str | None = None  # the execution provider that the user asks for
    host_code: bool = False  # the user allows code in the file to run (an engine's runtime)
    # What the user says of its pictures, for a file that says nothing.
    normalization: NormalizationOptions = NOTHING_SAID

    @property
    def name(self) -> str:
        """The main file's stem, from which names of derived artifacts are made."""
        return self.path.stem

    @property
    def files(self) -> tuple[Path, ...]:
        """All files, the main file first."""
        return (self.path, *self.companions)

    @property
    def size(self) -> int:
        """Bytes of all files together."""
        return sum(path.stat().st_size for path in self.files)


def digest_of(path: Path) -> str:
    """sha256 of a file, as 64 hexadecimal digits."""
    import hashlib  # here, because --help needs no digests

    result = hashlib.sha256()
    with readable(path).open("rb") as file:
        while block := file.read(_CHUNK):
            result.update(block)
    return result.hexdigest()


def digest_of_files(files: Sequence[Path]) -> str:
    """One digest for the files of an artifact; for a single file, its sha256.

    For several files: the sha256 over one line per file (suffix and sha256), in the order of the
    suffixes that the format declares. Renaming all files together changes nothing.
    """
    import hashlib

    if len(files) == 1:
        return digest_of(files[0])
    lines = (f"{path.suffix} {digest_of(path)}\n" for path in files)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def readable(path: Path) -> Path:
    """``path``, if it is a file with content that this process may read."""
    try:
        with path.open("rb") as file:
            empty = not file.read(1)
    except FileNotFoundError as error:
        raise InputFileError(f"{path}: there is no such file.") from error
    except IsADirectoryError as error:
        raise InputFileError(f"{path}: is a folder; give a model file.") from error
    except OSError as error:
        raise InputFileError(f"{path}: cannot be read ({error.strerror}).") from error
    if empty:
        raise InputFileError(f"{path}: is empty.")
    return path


def once_per_file(function: Callable[[Path], Answer]) -> Callable[[Path], Answer]:
    """``function``, which answers anew only for a file that is not one of the last it read.

    Several steps of a conversion ask the same of a file. A file is the same while its place on
    the disk, its size and its times are; of one that is still being written nothing is remembered.
    Answers must not be changed, nor depend on other files.
    """

    @functools.lru_cache(maxsize=_REMEMBERED)
    def answer(path: Path, identity: tuple[int, ...]) -> Answer:
        return function(path)

    @functools.wraps(function)
    def ask(path: Path) -> Answer:
        found = readable(path).stat()
        times = (found.st_mtime_ns, found.st_ctime_ns)
        if time.time_ns() - max(times) < SETTLED_NS:
            return function(path)
        return answer(path, (found.st_dev, found.st_ino, found.st_size, *times))

    return ask


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A path beside ``out`` to write to; renamed to ``out`` if the block ends without an error.

    If the block fails, an older ``out`` stays as it was, and no half-written file gets its name.
    The next process removes what killed processes left behind.
    """
    with scratch_beside(out) as folder:
        part = folder / out.name
        yield part
        put_in_place([part], [out])


@contextmanager
def scratch_beside(out: Path) -> Iterator[Path]:
    """An empty folder on the disk of ``out``, removed afterwards.

    Raises OutputError where ``out`` cannot be written.
    """
    with writing_to(out):
        require_folder(out)
        with scratch_folder(out) as folder:
            yield folder


def put_in_place(parts: Sequence[Path], files: Sequence[Path]) -> None:
    """Give finished files their final names, the main file (the first) last."""
    for part in parts:
        with part.open("r+b") as file:  # some systems synchronise only files open for writing
            os.fsync(file.fileno())  # else a crash could leave an empty file under the new name
    for part, final in reversed(list(zip(parts, files, strict=True))):
        part.replace(final)


def require_folder(out: Path) -> None:
    """Raise OutputError unless ``out`` can be a file in an existing folder."""
    with writing_to(out):
        if not out.parent.is_dir():
            raise OutputError(f"{out}: the folder {out.parent} does not exist; create it first.")
        if out.is_dir():
            raise OutputError(f"{out}: is a folder; give a file name.")
        if out.exists() and not out.is_file():  # /dev/null would be replaced by a model
            raise OutputError(f"{out}: is no ordinary file; give another name.")
        if not os.access(out.parent, os.W_OK):
            raise OutputError(f"{out}: no permission to write in {out.parent.resolve()}.")


def require_distinct(written: Iterable[Path], read: Mapping[Path, str]) -> None:
    """Raise OutputError where an output file is also a source, or is named twice.

    ``read`` says what each source is: "the source", "a calibration table".
    """
    known = {path.resolve(): what for path, what in read.items()}
    for path in written:
        if what := known.get(path.resolve()):
            raise OutputError(f"{path}: is {what}; give another output file.")
        known[path.resolve()] = "written already under another option"


@contextmanager
def writing_to(out: Path) -> Iterator[None]:
    """Turn failures of the file system into sentences."""
    import errno

    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise MissingError(
                f"{out}: no space left on the disk; free some and repeat."
            ) from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG):
            raise OutputError(f"{out}: cannot be written ({error.strerror}).") from error
        if error.errno in _in_the_way() and _is_about(error, out):
            raise OutputError(f"{out}: cannot be written ({error.strerror}).") from error
        raise


def _in_the_way() -> tuple[int, ...]:
    """What systems say of a path through a file, over a folder, or in a folder of the kernel."""
    import errno

    return (errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENOTEMPTY, errno.ELOOP)


def _is_about(error: OSError, out: Path) -> bool:
    """True if the failed path lies beside ``out``, below or above: others have other causes."""
    if not isinstance(error.filename, str):
        return False
    failed, place = Path(error.filename).absolute(), out.absolute()
    return failed == place or failed in place.parents or place.parent in failed.parents
