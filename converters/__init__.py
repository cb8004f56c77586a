"""Networks, checkpoints and artifact formats: everything that writes or opens a model file.

Public names load their modules when they are used: importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_PUBLIC = {
    "Architecture": "converters.network.architecture",
    "Artifact": "converters.artifact",
    "BUILTIN": "converters.network.architecture",
    "Checkpoint": "converters.checkpoint.loading",
    "CheckFailed": "converters.errors",
    "InputFileError": "converters.errors",
    "MissingError": "converters.errors",
    "Runner": "converters.runner",
    "ScrfdconvError": "converters.errors",
    "UsageError": "converters.errors",
    "format_of": "converters.formats",
    "load_checkpoint": "converters.checkpoint.loading",
    "open_artifact": "converters.formats",
}
__all__ = list(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"{__name__} has no public name {name}")
    return getattr(import_module(f"scrfdconv.{_PUBLIC[name]}"), name)
