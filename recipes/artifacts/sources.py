"""SOURCE, which every verb reads: a checkpoint or a file that was converted already.

Apart from `recipes.artifacts.conversion`, because verbs that only read need nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from scrfdconv.converters.checkpoint.loading import DEFAULT_SEED, load_source
from scrfdconv.converters.errors import UsageError
from scrfdconv.converters.formats import Source, format_of, formats
from scrfdconv.converters.normalization import NOTHING_SAID, NormalizationOptions


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How to read SOURCE, as the command line's options of the same names."""

    architecture: str | None = None
    config: Path | None = None
    groups: int | None = None
    seed: int = DEFAULT_SEED
    allow_host_code: bool = False  # that engines carry; see converters/system/permissions.py
    normalization: NormalizationOptions = NOTHING_SAID
    provider: str | None = None  # of the runtime; None: the format's own choice


def open_source(source: str | None, options: SourceOptions | None = None) -> Source:
    """SOURCE as a checkpoint, or as an artifact if the file is one already."""
    chosen = options or SourceOptions()
    if source and Path(source).is_file():
        found = format_of(Path(source))
        if found.source is not None:
            return replace(
                found.artifact_at(Path(source)),
                host_code=chosen.allow_host_code,
                normalization=chosen.normalization,
                provider=chosen.provider,
            )
    if chosen.provider:
        can = " or ".join(one.title for one in formats().values() if one.has_providers)
        raise UsageError(f"{source}: torch runs checkpoints; --provider is for {can}.")
    return load_source(
        source,
        architecture=chosen.architecture,
        config=chosen.config,
        groups=chosen.groups,
        seed=chosen.seed,
        normalization=chosen.normalization,
    )
