"""Digests of everything an artifact depends on: checkpoints, pictures, this package's own code."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from scrfdconv.checks.faces.images import image_files
from scrfdconv.converters.artifact import digest_of
from scrfdconv.converters.errors import InputFileError
from scrfdconv.recipes.build.recipe import CheckpointEntry


@dataclass(frozen=True)
class FileDigest:
    """One file of an artifact, as the manifest lists it."""

    name: str  # file name without the folder
    sha256: str
    size: int  # bytes

    @classmethod
    def of(cls, path: Path) -> FileDigest:
        """Measure a file."""
        return cls(path.name, digest_of(path), path.stat().st_size)


DIGITS_SHOWN = 12  # of a digest, for people
OWN_FOLDERS = ("recipes", "checks", "converters")


def source_digest(entry: CheckpointEntry) -> str:
    """The digest of a checkpoint: of its file, or of the name and seed of its drawn weights.

    Raises InputFileError where the file is missing or not the one that the recipe expects.
    """
    options = {
        "architecture": _file_or_text(entry.architecture),
        "config": digest_of(entry.config) if entry.config else None,
        "norm_groups": entry.norm_groups,
        **entry.normalization.given,
    }
    if entry.path is None:
        return content_digest({"model": entry.model, "seed": entry.seed, **options})
    found = digest_of(entry.path)
    if entry.sha256 and found != entry.sha256:
        raise InputFileError(
            f"{entry.path}: has the sha256 {found[:DIGITS_SHOWN]}..., but the recipe expects "
            f"{entry.sha256[:DIGITS_SHOWN]}...: fetch the right file or correct "
            f"checkpoints.{entry.name}.sha256."
        )
    return content_digest({"sha256": found, **options})


def images_digest(places: tuple[Path, ...]) -> str:
    """Digest of the contents and names of the pictures below ``places``; "" for none."""
    if not places:
        return ""
    return content_digest([[path.name, digest_of(path)] for path in image_files(places)])


@cache
def code_digest() -> str:
    """Digest of this package's own code: a version number would miss local changes."""
    root = Path(__file__).resolve().parents[2]
    files = (path for folder in OWN_FOLDERS for path in sorted((root / folder).rglob("*.py")))
    return content_digest(
        [[str(p.relative_to(root)), digest_of(p)] for p in files if p.stat().st_size]
    )


def _file_or_text(text: str | None) -> str | None:
    return digest_of(Path(text)) if text and Path(text).is_file() else text


def content_digest(content: object) -> str:
    """sha256 of a value that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
