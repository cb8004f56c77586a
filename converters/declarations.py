"""What the modules of a package declare, such as formats: to add one is to add a file."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable
from typing import Any, TypeVar

_Declared = TypeVar("_Declared")


def declared_below(
    package: str, path: Iterable[str], base: type[_Declared]
) -> dict[str, _Declared]:
    """One object of each subclass of ``base`` that a module of the package declares, by name.

    A class without a ``name`` is a base of others. ``path`` is the package's ``__path__``. Heavy
    libraries load when an object is used, not here.
    """
    found: dict[str, Any] = {}
    for module in pkgutil.iter_modules(path):
        place = f"{package}.{module.name}"
        for item in vars(importlib.import_module(place)).values():
            is_one = isinstance(item, type) and issubclass(item, base) and hasattr(item, "name")
            if is_one and item.__module__ == place:
                if item.name in found:
                    raise AssertionError(f"two of {package} are called {item.name}")
                found[item.name] = item()
    return found
