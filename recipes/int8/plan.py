"""The plan of an INT8 conversion: everything that was measured and decided, to be repeated.

Written after a search and committed to a repository, it lets CI build the same bytes without
pictures and without searching.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, get_args

from scrfdconv.converters.artifact import load_json, replacing
from scrfdconv.converters.errors import InputFileError, UsageError
from scrfdconv.converters.precision.int8 import Arrangement
from scrfdconv.converters.precision.int8.calibration import Table
from scrfdconv.converters.precision.int8.conversion import Int8Settings

VERSION = 1


@dataclass(frozen=True)
class Int8Plan:
    """Options of the format, and on what they were judged."""

    options: Int8Settings
    budget: Mapping[str, Any]  # what the search measured; for people, not for the replay

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        content = {
            "scrfdconv_int8_plan": VERSION,
            **asdict(self.options),
            "table": self.options.table.to_dict(),
            "budget": dict(self.budget),
        }
        with replacing(path) as part:
            part.write_text(json.dumps(content, indent=1) + "\n", "utf-8")


def load_plan(path: Path) -> Int8Plan:
    """Read a plan; raises InputFileError for other files."""
    content = load_json(path)
    try:
        if content["scrfdconv_int8_plan"] != VERSION:
            raise ValueError("of another version")
        if content["target"] not in get_args(Arrangement):
            raise ValueError(f"for an unknown target {content['target']}")
        options = Int8Settings(
            Table.from_dict(content["table"], path),
            content["target"],
            bool(content["reduce_range"]),
            tuple(map(str, content["keep_float"])),
            tuple(map(str, content["sensitive"])),
        )
        return Int8Plan(options, dict(content["budget"]))
    except (KeyError, TypeError, ValueError) as error:
        raise InputFileError(
            f"{path}: is no INT8 plan of scrfdconv ({error}); name a file that is not there yet to "
            "get one written."
        ) from error


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
