"""``manifest.json``: the artifacts in a folder, and the proof of each artifact.

The same inputs give the same bytes: no times, no paths of this machine. Users of the folder check
it with ``scrfdconv verify manifest.json``; ``manifest.schema.json`` describes the format.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from scrfdconv.checks.results import CheckResult, Report
from scrfdconv.converters.artifact import digest_of, digest_of_files
from scrfdconv.converters.errors import InputFileError
from scrfdconv.converters.formats import formats
from scrfdconv.converters.network.architecture import Architecture
from scrfdconv.converters.structured import plain_as, read_json, write_json
from scrfdconv.recipes.build.cache import Record

logger = logging.getLogger(__name__)

NAME = "manifest.json"
SCHEMA = Path(__file__).with_name("manifest.schema.json")
VERSION = 2
WHAT, ADVICE = "manifest of `scrfdconv build`", "build it anew"
_SHA256 = re.compile("[0-9a-f]{64}")
CHECK = "digest"
# A manifest holds only repeatable results; a time is not repeatable.
_TIMED = {("budget", "latency")}


@dataclass(frozen=True)
class MadeFrom:
    """The checkpoint of an artifact; a seeded one has a seed and no sha256."""

    name: str
    model: str | None
    seed: int | None
    sha256: str | None
    weights_sha256: str
    architecture: Architecture


@dataclass(frozen=True)
class Loosened:
    """How much looser than the built-in limits an artifact was judged."""

    loosen: float


@dataclass(frozen=True)
class MadeWith:
    """What an artifact was made with, as far as needed to measure it again."""

    tolerance: Loosened


@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact."""

    path: str  # relative to the manifest, "/" between folders
    sha256: str
    size: int  # bytes

    def __post_init__(self) -> None:
        _require_inside(self.path)
        _require_digest(self.sha256, self.size)


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One artifact of a manifest."""

    path: str  # of its main file
    files: tuple[FileEntry, ...]
    sha256: str
    size: int  # bytes
    format: str
    precision: str
    checkpoint: MadeFrom
    options: MadeWith
    checks: tuple[CheckResult, ...]

    def __post_init__(self) -> None:
        _require_inside(self.path)
        _require_digest(self.sha256, self.size)


@dataclass(frozen=True)
class Manifest:
    """A whole manifest, as far as needed to verify it."""

    manifest_version: Literal[2]
    artifacts: tuple[Entry, ...]


def write_manifest(
    out: Path, recipe: str, records: Mapping[str, Record], *, keep_others: bool = False
) -> None:
    """Write ``out``/manifest.json; ``keep_others`` keeps its entries of other artifacts."""
    path = out / NAME
    found = {name: _entry(record) for name, record in records.items()}
    if keep_others and path.is_file():
        found = {**_others(path, records), **found}
    save_entries(path, recipe, found.values())


def merge_manifests(paths: Sequence[Path], recipe: str, out: Path) -> None:
    """Write ``out``/manifest.json with the artifacts of all manifests that are there.

    Raises InputFileError where two of them name different files by the same path.
    """
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in filter(Path.is_file, paths):
        for entry in _checked(path)["artifacts"]:
            first, same = found.setdefault(entry["path"], (path, entry))
            if same["sha256"] != entry["sha256"]:
                raise InputFileError(f"{path}: {entry['path']} is another file than in {first}.")
    if found:
        save_entries(out / NAME, recipe, [entry for _, entry in found.values()])


def save_entries(path: Path, recipe: str, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write a manifest of plain entries, ordered by path."""
    ordered = sorted(entries, key=lambda entry: str(entry["path"]))
    content = {"manifest_version": VERSION, "recipe": recipe, "artifacts": ordered}
    write_json(path, content, sort_keys=True)


def load_manifest(path: Path) -> tuple[Entry, ...]:
    """The entries of a manifest; raises InputFileError that says what is wrong with it."""
    return read_json(path, Manifest, WHAT, ADVICE).artifacts


def digest_result(path: Path, entry: Entry) -> CheckResult:
    """Are the files beside the manifest at ``path`` those that ``entry`` names?"""
    faults = (_fault(path.parent / one.path, one) for one in entry.files)
    fault = next(filter(None, faults), "") or _whole_fault(path.parent, entry)
    return CheckResult(
        check=CHECK,
        subject="file",
        metric="faults",
        measured=int(bool(fault)),
        limit=0,
        detail=fault,
    )


def _whole_fault(folder: Path, entry: Entry) -> str:
    """The fault of an entry whose digest is not that of its files: it was edited by hand."""
    found = digest_of_files([folder / one.path for one in entry.files])
    return "" if found == entry.sha256 else "its sha256 is not that of its files"


def _fault(file: Path, entry: FileEntry) -> str:
    try:
        if not file.is_file():
            return f"{file.name}: there is no such file"
        size = file.stat().st_size
        if size != entry.size:
            return f"{size} bytes instead of {entry.size}"
        found = digest_of(file)
    except OSError as error:  # is_file raises for folders without permission to enter
        return f"cannot be read ({error.strerror})"
    except InputFileError as error:
        return str(error)
    return "" if found == entry.sha256 else f"sha256 {found[:12]}... not {entry.sha256[:12]}..."


def _entry(record: Record) -> dict[str, Any]:
    outcome = record.outcome
    report = outcome.report or Report(())
    checks = [r.to_dict() for r in report.results if (r.check, r.subject) not in _TIMED]
    return {
        "path": outcome.name,
        "sha256": outcome.sha256,
        "size": outcome.size,
        "format": outcome.format,
        "precision": outcome.precision,
        "reproducible": formats()[outcome.format].reproducible,
        **record.manifest,
        "checks": checks,
        "notes": list(report.notes),
    }


def _require_inside(text: str) -> None:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\0" in text or not text:
        raise ValueError(f"path {text} leaves the folder")


def _require_digest(sha256: str, size: int) -> None:
    if not _SHA256.fullmatch(sha256) or size < 0:
        raise ValueError("sha256 has 64 hexadecimal digits, and size is not negative")


def _others(path: Path, records: Mapping[str, Record]) -> dict[str, Any]:
    """The entries of the existing manifest, unchanged; none if it is damaged.

    What a choice kept before, and no longer keeps, is left out.
    """
    chosen = {
        PurePosixPath(record.outcome.name).parent
        for planned, record in records.items()
        if planned != record.outcome.name
    }
    try:
        return {
            entry["path"]: entry
            for entry in _checked(path)["artifacts"]
            if PurePosixPath(entry["path"]).parent not in chosen
            or (path.parent / entry["path"]).is_file()
        }
    except InputFileError as error:
        logger.warning("%s", error)
        return {}


def _checked(path: Path) -> dict[str, Any]:
    """The content of a manifest, unchanged, after all fields of `Manifest` were checked."""
    content = read_json(path, dict[str, Any], WHAT, ADVICE)
    plain_as(content, Manifest, str(path), WHAT, ADVICE)
    return content
