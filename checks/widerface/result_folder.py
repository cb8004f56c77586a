"""A folder of detections that grows image by image and belongs to one model.

A run that was interrupted continues where it stopped: finished images are whole files. The stamp
says which model and which mode they come from, so that another model never inherits them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scrfdconv.checks.widerface.result_files import Floats, load_result, write_results
from scrfdconv.converters.artifact import replacing
from scrfdconv.converters.errors import InputFileError, OutputError
from scrfdconv.converters.structured import read_json
from scrfdconv.converters.system.scratch import remove_abandoned

# Not .txt, so that readers of the standard layout ignore the stamp.
STAMP_FILE = "scrfdconv.json"


class ResultFolder:
    """Detections by image name, kept in a folder; without one, only in memory."""

    def __init__(self, directory: Path | None, stamp: dict[str, Any]) -> None:
        """Open or make the folder; raises OutputError where it holds something else."""
        self.directory = directory
        self._found: dict[str, Floats] = {}
        if directory is not None:
            self._claim(directory, stamp)

    def finished(self, name: str) -> bool:
        """True if the image was run before, here or by an earlier run."""
        if name not in self._found and self.directory is not None:
            before = load_result(self.directory, name)
            if before is not None:
                self._found[name] = before
        return name in self._found

    def add(self, name: str, detections: NDArray[np.floating]) -> None:
        """Take in one image; on disk it appears whole."""
        if self.directory is not None:
            write_results({name: detections.astype(np.float64)}, self.directory)
        self._found[name] = detections.astype(np.float64)

    def results(self, names: tuple[str, ...]) -> dict[str, Floats]:
        """The detections of ``names``, which are all finished."""
        return {name: self._found[name] for name in names}

    def _claim(self, directory: Path, stamp: dict[str, Any]) -> None:
        path = directory / STAMP_FILE
        if path.is_file():
            if _read(path) != stamp:
                raise OutputError(
                    f"{directory}: holds the detections of another model or mode; give another "
                    "folder, or remove this one."
                )
            _remove_halves(directory)
            return
        if directory.is_dir() and any(p.name[0] != "." for p in directory.iterdir()):
            raise OutputError(
                f"{directory}: is not empty and not from a run of this command; give another "
                "folder. Detections of other programs are scored without a MODEL."
            )
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"{directory}: cannot be made ({error.strerror}).") from error
        with replacing(path) as part:
            part.write_text(json.dumps(stamp, indent=2) + "\n", encoding="utf-8")


def _read(path: Path) -> Any:
    try:
        return read_json(path, dict[str, Any])
    except InputFileError:
        return None  # an unreadable stamp equals none


def _remove_halves(directory: Path) -> None:
    """Remove what a killed run was writing; two runs at once in one folder are not supported."""
    remove_abandoned(directory)
    for part in directory.glob("*/.*.part"):
        part.unlink(missing_ok=True)
