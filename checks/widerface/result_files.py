"""Detections on WIDER FACE as the standard text files: read from a folder or a .zip, and written.

One file ``EVENT/NAME.txt`` for each image: its name, the number of detections, and a line
``x y w h score`` for each, in pixels of the image.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from scrfdconv.converters.errors import CheckFailed, InputFileError, OutputError

Floats = NDArray[np.float64]

# Detections by image: (n, 5) x, y, width, height in pixels of the image, then the score.
Results = Mapping[str, Floats]

COLUMNS = 5  # x y w h score
QUOTED = 60  # characters of a bad line in a message: enough to recognise it


def load_results(path: Path) -> dict[str, Floats]:
    """Read a result set: a folder or a .zip of ``EVENT/NAME.txt`` files, without unpacking it.

    A file holds a line with the image's name (not used: the file's own name counts, as in the
    original tools), the number of detections, and one line ``x y w h score`` for each. Only the
    innermost folders are events, so a folder around all of them or a note beside them does no harm.
    The lines may be in any order. Raises ``InputFileError`` that names the file and the line.
    """
    entries = list(_zip_entries(path) if path.is_file() else _folder_entries(path))
    outer = {folder for name, _ in entries for folder in name.parent.parents}
    results: dict[str, Floats] = {}
    for name, content in entries:
        if name.parent in outer:
            continue
        image = f"{name.parent.name}/{name.stem}"
        if image in results:
            raise InputFileError(f"{path}: there are two result files for {image}; keep one.")
        results[image] = _parse(content, f"{path}: {name}")
    if not results or any(image.startswith("/") for image in results):
        raise InputFileError(f"{path}: no result files here; they are named EVENT/NAME.txt.")
    return results


def load_result(directory: Path, name: str) -> Floats | None:
    """Read the detections of one image from a folder that ``write_results`` filled.

    None where there are none, or where a crash of the machine left no whole file: a cut number
    is still a number, but then the end of the last line is missing.
    """
    path = directory / f"{name}.txt"
    try:
        content = path.read_bytes()
        return _parse(content, str(path)) if content.endswith(b"\n") else None
    except (OSError, InputFileError):
        return None


def _is_result(name: PurePosixPath) -> bool:
    # macOS adds __MACOSX/._NAME.txt to every archive.
    return name.suffix.lower() == ".txt" and not name.name.startswith(".")


def _folder_entries(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    if not path.is_dir():
        raise InputFileError(f"{path}: no such folder or .zip file of results.")
    for file in sorted(path.rglob("*")):
        name = PurePosixPath(file.relative_to(path).as_posix())
        if not _is_result(name) or not file.is_file():
            continue
        try:
            yield name, file.read_bytes()
        except OSError as error:
            raise InputFileError(f"{file}: cannot be read ({error.strerror}).") from error


def _zip_entries(path: Path) -> Iterator[tuple[PurePosixPath, bytes]]:
    # What zipfile raises for damaged, encrypted (RuntimeError) and exotic archives.
    broken = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError)
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                name = PurePosixPath(member.filename.replace("\\", "/"))
                if _is_result(name) and not member.is_dir():
                    yield name, archive.read(member)
    except broken as error:
        raise InputFileError(f"{path}: not a readable .zip of result files ({error}).") from error


def _parse(content: bytes, where: str) -> Floats:
    """Read the detections of one file: (n, 5), in the order of its lines."""
    lines = content.splitlines()  # of bytes: line ends only, and the name may be in any encoding
    rows = [line.split() for line in lines[2:] if line.strip()]
    try:
        count = int(lines[1])
    except (IndexError, ValueError) as error:
        raise InputFileError(f"{where}, line 2: the number of detections is missing.") from error
    if count != len(rows):
        raise InputFileError(f"{where}, line 2: {count} detections announced, {len(rows)} follow.")
    try:
        values = np.array([list(map(float, row)) for row in rows]).reshape(count, COLUMNS)
    except ValueError as error:
        raise InputFileError(_first_bad_line(lines, where)) from error
    if not np.isfinite(values).all():
        raise InputFileError(_first_bad_line(lines, where))
    return values


def _first_bad_line(lines: list[bytes], where: str) -> str:
    body = ((number, line) for number, line in enumerate(lines[2:], start=3) if line.strip())
    number, line = next((n, line) for n, line in body if not _is_detection(line.split()))
    text = line.decode("utf-8", errors="replace").strip()
    return f"{where}, line {number}: '{text[:QUOTED]}' is not five finite numbers x y w h score."


def _is_detection(row: list[bytes]) -> bool:
    try:
        return len(row) == COLUMNS and bool(np.isfinite(list(map(float, row))).all())
    except ValueError:
        return False


def write_results(results: Results, directory: Path) -> None:
    """Write ``EVENT/NAME.txt`` under ``directory`` for every image, in the standard layout.

    Highest score first, because other evaluators take the lines as they come; all digits, so that
    the files give exactly the AP of the arrays. An existing file is replaced only whole, hence an
    interrupted run leaves only finished images behind. Raises ``OutputError``, and ``CheckFailed``
    for detections that are not finite.
    """
    for name in sorted(results):
        require_detections(name, results[name])
        _write_text(directory / f"{name}.txt", _result_text(name, results[name]))


def _result_text(name: str, detections: Floats) -> str:
    ordered = detections[np.argsort(-detections[:, 4], kind="stable")].astype(np.float64)
    lines = [" ".join(map(repr, row)) for row in ordered.tolist()]
    return "\n".join([f"{name}.jpg", str(len(lines)), *lines, ""])


def _write_text(path: Path, text: str) -> None:
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part.write_text(text, encoding="utf-8", newline="\n")
        part.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror}).") from error
    finally:
        with suppress(OSError):  # the error above says why, this one would hide it
            part.unlink(missing_ok=True)


def require_detections(name: str, detections: Floats) -> None:
    """Raise ``CheckFailed`` unless ``detections`` are finite rows of five numbers."""
    if detections.ndim != 2 or detections.shape[1] != COLUMNS:  # noqa: PLR2004 - a matrix
        raise CheckFailed(f"{name}: detections have shape {detections.shape}, expected (n, 5).")
    if not np.isfinite(detections).all():
        raise CheckFailed(f"{name}: the detections contain NaN or infinite values.")
