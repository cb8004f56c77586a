"""Public names of a package, loaded when they are used: importing the package costs nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def loaded_when_used(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of ``package``; ``modules`` says where each public name is defined."""

    def load(name: str) -> Any:
        if name not in modules:
            raise AttributeError(f"{package} has no public name {name}")
        return getattr(import_module(f"scrfdconv.{modules[name]}"), name)

    return load
