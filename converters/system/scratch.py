"""Temporary files: removed after use; the next process removes what a killed process left.

Only the kernel knows whether the owner of a file still lives: the owner locks the file, and the
lock is released however the process ends. A process number says nothing: numbers are used again,
and each container on a shared volume counts its own.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from scrfdconv.converters.system.interruption import finish_first

_PREFIX = "scrfdconv-"
_FOLDER = re.compile(rf"\.?{_PREFIX}[a-z0-9_]{{8}}")  # the eight characters of tempfile.mkdtemp
_LOCK, _FILES = ".scrfdconv-lock", "files"  # inside such a folder


@contextmanager
@finish_first  # not what its block does
def scratch_folder(beside: Path | None = None) -> Iterator[Path]:
    """An empty folder, removed with all its content after the block.

    With ``beside`` it is hidden in the folder of that file, so that its files can be renamed to
    where they belong; else it is where the system keeps temporary files. Abandoned folders of
    killed processes are removed first. Raises OSError where no folder can be made.
    """
    import tempfile  # here, because --help writes nothing

    parent = Path(tempfile.gettempdir()) if beside is None else beside.parent
    remove_abandoned(parent)
    folder, lock = _new_folder(parent, _PREFIX if beside is None else f".{_PREFIX}")
    try:
        files = folder / _FILES
        files.mkdir()
        yield files
    finally:
        _remove(folder)
        os.close(lock)


@contextmanager
def temporary_files_in(folder: Path) -> Iterator[None]:
    """Put temporary files into ``folder``, which whoever starts this process removes."""
    import tempfile

    before, tempfile.tempdir = tempfile.tempdir, str(folder)
    try:
        yield
    finally:
        tempfile.tempdir = before


def remove_abandoned(parent: Path) -> None:
    """Remove the temporary folders in ``parent`` whose processes were killed."""
    with suppress(OSError):
        for folder in parent.iterdir():
            if _FOLDER.fullmatch(folder.name) and folder.is_dir() and not folder.is_symlink():
                _remove_if_free(folder)


# ---------------------------------------------------------------- folders


def _new_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    import tempfile

    while True:
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        # An empty folder is removed as abandoned; then another one is made.
        with suppress(FileNotFoundError):
            return folder, _hold(folder / _LOCK)


def _remove_if_free(folder: Path) -> None:
    """Remove an abandoned folder; without a lock in it, it is removed only if it is empty."""
    with suppress(OSError):
        folder.rmdir()
    lock = _taken(folder / _LOCK)
    if lock is not None:
        _remove(folder)
        os.close(lock)


def _remove(folder: Path) -> None:
    """Remove the lock last: a kill in between leaves a folder that is known as abandoned."""
    shutil.rmtree(folder / _FILES, ignore_errors=True)
    with suppress(OSError):
        (folder / _LOCK).unlink()
        folder.rmdir()


# ---------------------------------------------------------------- locks


def _hold(path: Path) -> int:
    """Make the file ``path`` if it is missing, and lock it until the descriptor is closed.

    Returns the descriptor. Waits for another holder. Raises OSError where ``path`` cannot be
    opened, as in a folder that is gone.
    """
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        try:
            _lock(descriptor, wait=True)
            if _is_still(path, descriptor):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)  # the file was removed as abandoned before it was locked


def _taken(path: Path) -> int | None:
    """A descriptor that locks an abandoned file; None where there is none, or it is in use."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # removed in the meantime, or another user's
        return None
    if _lock(descriptor, wait=False) and _is_still(path, descriptor):
        return descriptor
    os.close(descriptor)
    return None


def _lock(descriptor: int, *, wait: bool) -> bool:
    """Lock an open file; False where another process has the lock.

    On file systems without locks the owner goes on without one, and nothing is ever removed.
    """
    import fcntl  # not on Windows

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
