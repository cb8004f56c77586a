"""Networks, checkpoints and artifact formats: everything that writes or opens a model file.

Public names load their modules when they are used: importing the package costs nothing.
"""

from __future__ import annotations

from scrfdconv.converters.public import loaded_when_used

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
__getattr__ = loaded_when_used(__name__, _PUBLIC)
