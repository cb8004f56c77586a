"""Opening a file in a process of its own first: some libraries crash on a damaged one.

Their C++ code does not check the sizes that a file states. A crash ends a process without a
message, so another process opens the file first.
"""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import numpy as np

from scrfdconv.converters.artifact import digest_of_files
from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.runner import Runner

_PROBE = 64  # height and width of the image, where the model leaves them open
_SECONDS = 120  # a load takes less than one; 34G at a fixed 2176x3840 takes ten


def require_survival(runner: type[Runner], files: Sequence[Path]) -> None:
    """Raise ArtifactError unless ``runner`` opens and runs the model without a crash.

    ``files`` are the main file, which is opened, and its companions. The class takes ``trial``:
    with False, the first process starts no further process.
    """
    _tried(runner.__module__, runner.__qualname__, files[0], digest_of_files(files))


@cache  # one trial for each content; errors are not remembered
def _tried(module: str, name: str, path: Path, digest: str) -> None:
    command = [sys.executable, "-m", __name__, module, name, str(path)]
    try:
        done = subprocess.run(  # noqa: S603 - ourselves
            command, capture_output=True, text=True, errors="replace", timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        raise ArtifactError(
            f"{path}: was not opened and run within {_SECONDS} s; the file is damaged."
        ) from None
    last = done.stderr.strip().rpartition("\n")[2].rstrip(".")
    if done.returncode == ArtifactError.exit_code:
        raise ArtifactError(f"{last}.")
    if done.returncode > 0 and last:
        raise ArtifactError(f"{path}: cannot be run ({last}).")
    if done.returncode:
        raise ArtifactError(
            f"{path}: the library crashes on this file (exit code {done.returncode}), which is "
            "damaged: convert it again."
        )


def try_out(module: str, name: str, path: Path) -> None:
    """Open and run once on an image of noise."""
    runner: Runner = getattr(importlib.import_module(module), name)(path, trial=False)
    free = runner.interface
    side = max(_PROBE, free.size_multiple)
    shape = (free.batch or 1, free.channels, free.height or side, free.width or side)
    runner.run(np.random.default_rng(0).uniform(-1, 1, shape).astype(np.float32))


if __name__ == "__main__":
    try:
        try_out(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    except ArtifactError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(error.exit_code) from None
