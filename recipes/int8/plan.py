"""The plan of an INT8 conversion: everything that was measured and decided, to be repeated.

Written after a search and committed to a repository, it lets CI build the same bytes without
pictures and without searching.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from scrfdconv.converters.errors import InputFileError, UsageError
from scrfdconv.converters.precision.int8 import Arrangement
from scrfdconv.converters.precision.int8.calibration import CalibrationTable
from scrfdconv.converters.precision.int8.conversion import Int8Settings
from scrfdconv.converters.structured import read_json, to_json, write_json


@dataclass(frozen=True)
class Int8Plan:
    """The settings of the conversion, and the measurements that they were judged by."""

    options: Int8Settings
    budget: Mapping[str, Any]  # measurements of the search; for people, not for the replay

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        options = {f.name: getattr(self.options, f.name) for f in fields(self.options)}
        written = _PlanFile(**options, budget=dict(self.budget))
        write_json(path, replace(written, sha256=written.digest))


@dataclass(frozen=True, kw_only=True)
class _PlanFile:
    """A plan as JSON: one level, with the version first."""

    scrfdconv_int8_plan: Literal[1] = 1
    table: CalibrationTable
    target: Arrangement
    reduce_range: bool
    keep_float: tuple[str, ...]
    sensitive: tuple[str, ...]
    budget: dict[str, Any]
    sha256: str = ""

    @property
    def digest(self) -> str:
        """Digest of all other fields: reveals a range that was changed after the search."""
        text = to_json(replace(self, sha256=""), indent=None, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


def load_plan(path: Path) -> Int8Plan:
    """Read a plan; raises InputFileError for other files."""
    advice = "name a new file to get a plan written"
    read = read_json(path, _PlanFile, "INT8 plan of scrfdconv", advice, keys="all")
    if read.sha256 != read.digest:
        raise InputFileError(
            f"{path}: was changed after it was written (its sha256 differs), so its values are not "
            f"measured ones: restore it, or {advice}."
        )
    options = {f.name: getattr(read, f.name) for f in fields(Int8Settings)}
    return Int8Plan(Int8Settings(**options), read.budget)


def require_same(plan: Int8Plan, path: Path, source_sha256: str, shape: tuple[int, int]) -> None:
    """Raise InputFileError for a plan of another source, UsageError for one of another size."""
    table = plan.options.table
    if table.source_sha256 != source_sha256:
        raise InputFileError(
            f"{path}: is the plan of another source (sha256 {table.source_sha256[:12]}..., this "
            f"one has {source_sha256[:12]}...); name a new file to search anew."
        )
    if table.shape != shape:
        raise UsageError(
            f"{path}: was made for {table.shape[0]}x{table.shape[1]}, not {shape[0]}x{shape[1]}; "
            "name a new file for this size."
        )
