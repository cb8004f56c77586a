"""Matlab files, read by a process of its own with little memory and time.

scipy's reader is C code that ends the whole process on damaged files (signal 11), and believes
the sizes that a file claims. The content of a file comes back as JSON, which is safe to read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

from scrfdconv.converters.errors import InputFileError

MAX_SECONDS = 20  # the real files take 0.5
MAX_MEMORY = 2 << 30  # bytes of the process; the real files need a tenth
MAX_FILE = 64 << 20  # the real ones have 0.4 MB
# The variables that are read: names, boxes, and which boxes count.
VARIABLES = ("event_list", "file_list", "face_bbx_list", "gt_list")
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def read_mat(path: Path) -> dict[str, Any]:
    """The variables of a WIDER FACE ground truth file, cells as arrays of objects.

    Raises InputFileError for files that cannot be read, whatever happens to the reader.
    """
    try:
        if path.stat().st_size > MAX_FILE:
            raise InputFileError(_sentence(path, f"it has more than {MAX_FILE >> 20} MiB"))
        with path.open("rb"):
            pass
    except OSError as error:
        raise InputFileError(f"{path}: cannot be read ({error.strerror}).") from error
    command = [sys.executable, "-m", __name__, str(path)]
    environment = {**os.environ, **dict.fromkeys(_ONE_THREAD, "1")}
    try:
        ran = subprocess.run(  # noqa: S603 - this module itself, with a path
            command, capture_output=True, timeout=MAX_SECONDS, env=environment, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise InputFileError(_sentence(path, f"it takes over {MAX_SECONDS} s")) from error
    if ran.returncode:
        said = ran.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        reason = said if ran.returncode > 0 else f"the reader ended with signal {-ran.returncode}"
        raise InputFileError(_sentence(path, reason))
    try:
        return {name: _array(value) for name, value in json.loads(ran.stdout).items()}
    except (ValueError, AttributeError, RecursionError) as error:
        raise InputFileError(_sentence(path, str(error))) from error


def _sentence(path: Path, reason: str) -> str:
    return (
        f"{path}: not a WIDER FACE ground truth file ({reason[:200]}); unpack the eval_tools again."
    )


def _array(value: Any) -> Any:
    """Make an array from JSON, the reverse of ``_plain``."""
    match value:
        case {"cells": list(items), "shape": [int(rows), int(columns)]}:
            made = np.empty(len(items), object)
            for place, item in enumerate(items):
                made[place] = _array(item)
            return made.reshape(rows, columns)
        case {"numbers": list(numbers), "shape": list(shape)}:
            return np.array(numbers, np.float64).reshape(shape)
        case {"text": str(text)}:
            return np.array([text])
    raise ValueError("it holds something else than cells, numbers and texts")


# ---------------------------------------------------------------- in the other process


def _plain(value: Any) -> Any:
    """What scipy read, as JSON; raises TypeError for kinds that the ground truth does not have."""
    if not isinstance(value, np.ndarray):
        raise TypeError(f"it holds a {type(value).__name__}")
    if value.dtype == object and value.ndim == 2:  # noqa: PLR2004 - Matlab's cells are matrices
        return {"cells": [_plain(v) for v in value.ravel()], "shape": list(value.shape)}
    if value.dtype.kind in "US" and value.size <= 1:
        return {"text": str(value.ravel()[0]) if value.size else ""}
    if value.dtype.kind in "iuf":
        return {"numbers": value.ravel().tolist(), "shape": list(value.shape)}
    raise TypeError(f"it holds {value.dtype} of shape {value.shape}")


def _limit_memory() -> None:
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    resource.setrlimit(resource.RLIMIT_AS, (MAX_MEMORY, MAX_MEMORY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a signal leaves no file behind


def _main(path: str) -> int:
    from scipy.io import loadmat

    _limit_memory()
    try:
        found = loadmat(path, variable_names=VARIABLES)
        plain = {name: _plain(found[name]) for name in VARIABLES if name in found}
    except BaseException as error:  # a lack of memory raises many kinds of errors
        sys.stderr.write(f"{type(error).__name__}: {error}".partition("\n")[0])
        return 1
    sys.stdout.write(json.dumps(plain))
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1]))
