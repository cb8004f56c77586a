"""What a build remembers: for every artifact the key it was made by, its digest, its outcome.

A file is up to date if its record has the step's key and the file its digest. Records are written
after their file is in place, so a kill in between only costs another build. Times are kept apart:
only times differ between two builds of the same inputs.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from scrfdconv.checks.reports.outcome import Latency, Outcome, Picture
from scrfdconv.converters.artifact import digest_of_files, put_in_place, writing_to
from scrfdconv.converters.errors import InputFileError, ScrfdconvError
from scrfdconv.converters.formats import formats
from scrfdconv.converters.structured import Real, read_json, write_json
from scrfdconv.recipes.build.plan import STATE_FOLDER, Step, files_called

logger = logging.getLogger(__name__)

READABLE = 40  # characters; digests have 64


@dataclass(frozen=True)
class Record:
    """One artifact that was built, and all that is known about it."""

    key: str
    ingredients: Mapping[str, str]  # the parts of the key, to tell what changed
    outcome: Outcome
    manifest: Mapping[str, Any]  # the artifact's entry in manifest.json
    record_version: Literal[2] = 2


@dataclass(frozen=True)
class Times:
    """The times of a step, the only difference between two builds of the same inputs."""

    seconds: Real | None
    latency: Latency | None


class Cache:
    """The records of one output folder."""

    def __init__(self, out: Path) -> None:
        self.folder = out
        self._state = out / STATE_FOLDER
        self._scratch = self._state / "scratch"

    @property
    def lock(self) -> Path:
        """The lock file, held by the build that works in this folder."""
        return self._state / "lock"

    def prepare(self) -> None:
        """Make the folder, and remove what a killed build left there."""
        self.clear_scratch()
        self._scratch.mkdir(parents=True)

    def prove(self, content: str) -> Path:
        """A file with ``content``, by which another machine tells that it sees this folder."""
        path = self._scratch / "proof"
        with writing_to(path):
            path.write_text(content, "utf-8")
        return path.resolve()

    def scratch_for(self, step: Step) -> Path:
        """A new folder for a step's files, on the same disk, so that files only need a rename."""
        folder = self._scratch / step.name.replace("/", "_")
        folder.mkdir()
        return folder

    def clear_scratch(self) -> None:
        """Remove all unfinished files."""
        shutil.rmtree(self._scratch, ignore_errors=True)

    # ------------------------------------------------------------ asking

    def record(self, step: Step) -> Record | None:
        """The record of a step; None if there is no record, or no readable one."""
        path = self._record_path(step)
        if not path.is_file():
            return None
        try:
            found = read_json(path, Record, "record of a build", keys="all")
            return replace(found, outcome=self._with_times(step, found.outcome))
        except InputFileError as error:
            logger.warning("%s Its artifact is built anew.", error)
            return None

    def why_build(self, step: Step, record: Record | None) -> str:
        """Why the step's file is not up to date, in a few words; "" if it is."""
        if record is None:
            return "new"
        if record.key != step.key:
            return _what_changed(record.ingredients, step.ingredients)
        paths = self._files(step, record.outcome)
        if not all(path.is_file() for path in paths):
            return "its file is gone" if len(paths) == 1 else "one of its files is gone"
        try:
            same = digest_of_files(paths) == record.outcome.sha256
        except ScrfdconvError:
            same = False
        return "" if same else "its file is damaged"

    # ------------------------------------------------------------ remembering

    def keep(
        self, step: Step, made: Path, record: Record, pictures: Iterable[Picture] = ()
    ) -> None:
        """Give ``made`` and its companions their final names, and remember them."""
        before = self.record(step)
        paths = self._files(step, record.outcome)
        paths[0].parent.mkdir(parents=True, exist_ok=True)
        put_in_place([made.with_name(path.name) for path in paths], paths)
        for path in set(self._files(step, before.outcome) if before else ()) - set(paths):
            path.unlink(missing_ok=True)  # what a choice kept before
        for picture in pictures:
            self._write(self._picture_path(picture.name), picture)
        outcome = record.outcome
        self._write(self._times_path(step), Times(outcome.seconds, outcome.latency))
        timeless = replace(outcome, seconds=None, latency=None, why="")
        self._write(self._record_path(step), replace(record, outcome=timeless))

    def _files(self, step: Step, outcome: Outcome) -> list[Path]:
        """The files of an outcome, the main file first; a choice has those of what it chose."""
        if not step.entry.choice:
            return [self.folder / name for name in step.files]
        maker = formats().get(outcome.format)
        names = files_called(outcome.name, maker) if maker else ()
        return [self.folder / name for name in names if name in step.may_write]

    def picture(self, name: str) -> Picture | None:
        """A test image that was shown in a former build, or None if it is gone."""
        try:
            return read_json(self._picture_path(name), Picture, keys="all")
        except InputFileError:
            return None

    def _picture_path(self, name: str) -> Path:
        digest = hashlib.sha256(name.encode()).hexdigest()  # names may contain any character
        return self._state / "pictures" / f"{digest}.json"

    def _with_times(self, step: Step, outcome: Outcome) -> Outcome:
        path = self._times_path(step)
        if not path.is_file():
            return outcome
        times = read_json(path, Times, "record of times", keys="all")
        return replace(outcome, seconds=times.seconds, latency=times.latency)

    def _record_path(self, step: Step) -> Path:
        return self._state / "records" / f"{_inside(step)}.json"

    def _times_path(self, step: Step) -> Path:
        return self._state / "times" / f"{_inside(step)}.json"

    @staticmethod
    def _write(path: Path, content: object) -> None:
        with writing_to(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, content, sort_keys=True)


def _inside(step: Step) -> str:
    return step.name.removeprefix(f"{STATE_FOLDER}/")


def _what_changed(old: Mapping[str, str], new: Mapping[str, str]) -> str:
    """``changed: onnxsim 0.8.0 -> 0.8.1, test images``."""
    changed = [
        _told(name, old.get(name, ""), new.get(name, ""))
        for name in dict.fromkeys([*new, *old])
        if old.get(name) != new.get(name)
    ]
    return f"changed: {', '.join(changed)}"


def _told(name: str, old: str, new: str) -> str:
    """Versions are short enough to show; digests and options mean nothing to people."""
    readable = 0 < len(old) <= READABLE and 0 < len(new) <= READABLE
    return f"{name} {old} -> {new}" if readable else name
