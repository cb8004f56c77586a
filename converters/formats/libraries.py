"""Libraries that only some formats need."""

from __future__ import annotations

import importlib
from typing import Any

from scrfdconv.converters.errors import MissingError


def library(name: str, title: str, extra: str) -> Any:
    """The module ``name``; raises MissingError, with the pip line, where it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        why = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
        raise MissingError(
            f"{title} needs {name}{why}: pip install 'scrfdconv[{extra}]'."
        ) from error
