"""Write a pack: measured as its consumer reads it, then the whole folder in its place."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scrfdconv.checks.results import Report
from scrfdconv.converters.artifact import Artifact, writing_to
from scrfdconv.converters.errors import CheckFailed, OutputError
from scrfdconv.converters.formats import formats
from scrfdconv.converters.system.scratch import scratch_folder
from scrfdconv.recipes.packs import Pack, write_contents


@dataclass(frozen=True, kw_only=True)
class Packed:
    """A folder that was written, and what was measured of it."""

    name: str  # under which the consumer knows the model
    source: Artifact
    folder: Path
    files: tuple[Path, ...]
    report: Report | None
    not_run: str  # why nothing was measured


def write_pack(kind: Pack, model: Path, out: Path, options: Any) -> Packed:
    """The pack of ``model`` at or below ``out``: the whole folder, or nothing.

    Raises UsageError for a model that the consumer cannot load, OutputError for a folder that is
    there already, and CheckFailed, with the report, where the files do not read as they should.
    """
    source = kind.source_at(model)
    name = kind.model_name(source, options)
    home = kind.home(out, name)
    contents = kind.contents(source, name, options)
    require_free(home)
    beside = _existing(home.parent) / home.name
    with writing_to(beside), scratch_folder(beside) as scratch:
        folder = scratch / "pack"
        write_contents(contents, folder)
        not_run = formats()[source.format].why_not_run()
        report = None if not_run else Report.of(kind.results(folder, source, options))
        if report and not report.passed:
            told = f"{home} was not written: {report.summary()}. {kind.remedy}"
            raise CheckFailed(told.rstrip(), report)
        home.parent.mkdir(parents=True, exist_ok=True)
        folder.rename(home)
    files = tuple(home / name for name in contents)
    return Packed(
        name=name, source=source, folder=home, files=files, report=report, not_run=not_run
    )


def require_free(home: Path) -> None:
    """Raise OutputError where a folder would be written over anything."""
    with writing_to(home):
        taken = any(home.iterdir()) if home.is_dir() else home.exists() or home.is_symlink()
    if taken:
        raise OutputError(f"{home}: is there already; remove it, or give another folder or name.")


def _existing(folder: Path) -> Path:
    """The nearest folder that is there: from it, what is written can be renamed into its place."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir():
        raise OutputError(f"{folder}: is no folder; give another one.")
    return folder
