"""Everything that can be said about a model file without running it on images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from scrfdconv.converters.artifact import digest_of_files
from scrfdconv.converters.checkpoint.loading import load_checkpoint
from scrfdconv.converters.formats import format_of
from scrfdconv.converters.graph.facts import facts_of_architecture, facts_of_normalization
from scrfdconv.recipes.artifacts.sources import SourceOptions


def facts_of_file(path: Path, options: SourceOptions | None = None) -> dict[str, Any]:
    """Facts about a checkpoint or an artifact, as plain types in reading order."""
    found = format_of(path)
    files = found.files(path)
    facts: dict[str, Any] = {
        "file": str(path),
        "kind": found.name,
        "size": sum(file.stat().st_size for file in files),
        "sha256": digest_of_files(files),
    }
    if len(files) > 1:
        facts["files"] = [file.name for file in files]
    if found.source is None:
        return facts | _of_checkpoint(path, options or SourceOptions())
    return facts | found.describe(path)


def _of_checkpoint(path: Path, options: SourceOptions) -> dict[str, Any]:
    checkpoint = load_checkpoint(
        path,
        architecture=options.architecture,
        config=options.config,
        groups=options.groups,
        normalization=options.normalization,
    )
    a, stated = checkpoint.architecture, checkpoint.says_normalization
    return {
        **facts_of_architecture(a),
        **facts_of_normalization(a.normalization, stated=stated),
        "recognised_by": checkpoint.recognised_by,
        "tensors": len(checkpoint.weights),
        "weights_sha256": checkpoint.weights_digest,
        "precision": "fp32",
        "notes": list(checkpoint.notes),
    }
