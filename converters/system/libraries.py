"""Libraries that only some formats need."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

from scrfdconv.converters.errors import MissingError


def missing(name: str, title: str, extra: str) -> str:
    """The sentence with the pip line if the module ``name`` is not installed, else ""."""
    if importlib.util.find_spec(name) is not None:
        return ""
    return f"{title} needs {name}: pip install 'scrfdconv[{extra}]'."


def library(name: str, title: str, extra: str) -> Any:
    """The module ``name``; raises MissingError, with the pip line, where it cannot be imported."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        why = "" if isinstance(error, ModuleNotFoundError) else f" ({error})"
        raise MissingError(
            f"{title} needs {name}{why}: pip install 'scrfdconv[{extra}]'."
        ) from error
