"""``manifest.json``: what a folder of artifacts holds, and the proof that came with each.

The same inputs give the same bytes: no times, no paths of this machine. Whoever gets the folder
checks it with ``scrfdconv verify manifest.json``; ``manifest.schema.json`` describes the format.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from scrfdconv.checks.results import CheckResult, Report
from scrfdconv.converters.artifact import digest_of, digest_of_files, load_json, replacing
from scrfdconv.converters.errors import InputFileError
from scrfdconv.converters.formats import formats
from scrfdconv.recipes.build.cache import Record

logger = logging.getLogger(__name__)

NAME = "manifest.json"
SCHEMA = Path(__file__).with_name("manifest.schema.json")
VERSION = 2
CHECK = "digest"
# A manifest says what can be repeated; a time cannot.
_TIMED = {("budget", "latency")}


@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact."""

    path: str  # relative to the manifest, "/" between folders
    sha256: str
    size: int  # bytes


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One artifact of a manifest."""

    path: str  # of its main file
    files: tuple[FileEntry, ...]
    sha256: str
    size: int  # bytes
    format: str
    precision: str
    checkpoint: Mapping[str, Any]
    options: Mapping[str, Any]
    checks: tuple[CheckResult, ...]


def write_manifest(
    out: Path, recipe: str, records: Mapping[str, Record], *, keep_others: bool = False
) -> None:
    """Write ``out``/manifest.json; ``keep_others``: with what it said of other artifacts."""
    path = out / NAME
    found = {name: _entry(record) for name, record in records.items()}
    if keep_others and path.is_file():
        found = {**_others(path), **found}
    save_entries(path, recipe, found.values())


def merge_manifests(paths: Sequence[Path], recipe: str, out: Path) -> None:
    """Write ``out``/manifest.json with the artifacts of all manifests that are there.

    Raises InputFileError where two of them name different files by the same path.
    """
    found: dict[str, tuple[Path, dict[str, Any]]] = {}
    for path in filter(Path.is_file, paths):
        load_manifest(path)
        for entry in load_json(path)["artifacts"]:
            first, same = found.setdefault(entry["path"], (path, entry))
            if same["sha256"] != entry["sha256"]:
                raise InputFileError(f"{path}: {entry['path']} is another file than in {first}.")
    if found:
        save_entries(out / NAME, recipe, [entry for _, entry in found.values()])


def save_entries(path: Path, recipe: str, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write a manifest of plain entries, ordered by path."""
    ordered = sorted(entries, key=lambda entry: str(entry["path"]))
    content = {"manifest_version": VERSION, "recipe": recipe, "artifacts": ordered}
    with replacing(path) as part:
        part.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", "utf-8")


def load_manifest(path: Path) -> tuple[Entry, ...]:
    """The entries of a manifest; raises InputFileError that says what is wrong with it."""
    content = load_json(path)
    try:
        version = content["manifest_version"]
        if version != VERSION:
            raise ValueError(f"version {version}, this scrfdconv knows {VERSION}")
        return tuple(map(_read_entry, content["artifacts"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputFileError(
            f"{path}: is no manifest of `scrfdconv build` ({error!r:.80}); build it anew."
        ) from error


def digest_result(path: Path, entry: Entry) -> CheckResult:
    """Are the files beside the manifest at ``path`` those that ``entry`` names?"""
    faults = (_fault(path.parent / one.path, one) for one in entry.files)
    fault = next(filter(None, faults), "") or _whole_fault(path.parent, entry)
    return CheckResult(CHECK, "file", "faults", int(bool(fault)), 0, detail=fault)


def _whole_fault(folder: Path, entry: Entry) -> str:
    """An entry whose digest is not that of its files was put together by hand."""
    found = digest_of_files([folder / one.path for one in entry.files])
    return "" if found == entry.sha256 else "its sha256 is not that of its files"


def _fault(file: Path, entry: FileEntry) -> str:
    if not file.is_file():
        return f"{file.name}: there is no such file"
    size = file.stat().st_size
    if size != entry.size:
        return f"{size} bytes instead of {entry.size}"
    found = digest_of(file)
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


def _read_entry(content: Mapping[str, Any]) -> Entry:
    return Entry(
        path=_inside(content["path"]),
        files=tuple(_read_file(one) for one in content["files"]),
        sha256=str(content["sha256"]),
        size=int(content["size"]),
        format=str(content["format"]),
        precision=str(content["precision"]),
        checkpoint=dict(content["checkpoint"]),
        options=dict(content["options"]),
        checks=tuple(map(CheckResult.from_dict, content["checks"])),
    )


def _read_file(content: Mapping[str, Any]) -> FileEntry:
    return FileEntry(_inside(content["path"]), str(content["sha256"]), int(content["size"]))


def _inside(text: str) -> str:
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"path {path} leaves the folder")
    return str(path)


def _others(path: Path) -> dict[str, Any]:
    """What the manifest there says, as it stands; nothing if it is damaged."""
    try:
        load_manifest(path)
    except InputFileError as error:
        logger.warning("%s", error)
        return {}
    return {str(entry["path"]): entry for entry in load_json(path)["artifacts"]}
