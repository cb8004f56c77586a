"""What an artifact says about itself: enough to feed it, read its outputs and trace its origin.

The same keys in every format; in ONNX they carry the prefix ``scrfdconv.``.
"""

from __future__ import annotations

from collections.abc import Mapping

from scrfdconv.converters.errors import ArtifactError
from scrfdconv.converters.network.architecture import Architecture
from scrfdconv.converters.network.preprocessing import METADATA, stated_in
from scrfdconv.converters.structured import json_as

PREFIX = "scrfdconv."


def installed_version(distribution: str) -> str | None:
    """The version of an installed distribution; None where it is not installed."""
    from importlib.metadata import PackageNotFoundError, version  # --help needs no versions

    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def package_version() -> str:
    """The installed version of scrfdconv."""
    from importlib.metadata import version

    return version("scrfdconv")


def architecture_from_metadata(metadata: dict[str, str]) -> Architecture | None:
    """The architecture that an artifact of ours names, or None for a foreign file.

    Raises ArtifactError where the metadata were tampered with.
    """
    text = metadata.get("architecture")
    if text is None:
        return None
    found = json_as(
        text,
        Architecture,
        f"The model's metadata {PREFIX}architecture are damaged: it",
        "architecture",
        "convert it again",
        keys="known",
        error=ArtifactError,
    )
    stated = stated_in(metadata)
    if stated and stated != found.normalization:
        raise ArtifactError(
            f"The model's metadata contradict each other: {PREFIX}{METADATA} says {stated}, "
            f"{PREFIX}architecture {found.normalization}; convert it again."
        )
    return found


def own_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Our metadata without its prefix."""
    return {k.removeprefix(PREFIX): v for k, v in metadata.items() if k.startswith(PREFIX)}
