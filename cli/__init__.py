"""The command line. Every module of this folder that declares verbs is found by being here."""

import importlib
import pkgutil

from scrfdconv.cli.main import app

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("__"):  # __main__ runs the application
        importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["app"]
